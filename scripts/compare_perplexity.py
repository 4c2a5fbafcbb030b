"""Perplexity of one text by linnet and by llama.cpp (llama-cpp-python), on the same files.

usage: python scripts/compare_perplexity.py FILE... -f TEXT [--types Q8_0,Q4_K_M,...] [-c 512] ...

With --types, each FILE is quantised to each of them first, by linnet; from F32 weights, to which
those of a quantised FILE are unpacked. Both engines read the same windows of the text, of linnet's
tokens, and are scored on the second half of each, as llama-perplexity does.
Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from comparing import line, require_llamacpp, table

from linnet import LLM
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.gguf.writer import MetadataValue, TensorEntry, pack_header, padding
from linnet.engine.measure.perplexity import (
    Mean,
    Window,
    losses,
    n_windows,
    rows_a_pass,
    scored,
    windows,
)
from linnet.engine.quantize.quantize import quantize_file
from linnet.kernels.quants import WEIGHT_TYPES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE")
    add("-f", "--text", type=Path, required=True)
    add("--types", help="quantise to each of these first")
    add("-c", "--ctx-size", type=int, default=512)
    add("--chunks", type=int, help="the first so many windows alone")
    add("-t", "--threads", type=int, default=2)
    a = parser.parse_args()

    require_llamacpp()
    heads = ["model", "windows", "llama.cpp", "linnet, f32", "linnet", "linnet / llama.cpp"]
    print(table(heads, []), flush=True)
    text = a.text.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for path in _files(a.files, a.types.split(",") if a.types else [], Path(folder)):
            print(line(row(path, text, a.ctx_size, a.chunks, a.threads)), flush=True)


def row(path: Path, text: str, n_ctx: int, chunks: int | None, n_threads: int) -> list[str]:
    """The cells of the table: perplexities, and how far the last is from the first, in percent."""
    from llamacpp_logits import perplexity as by_llamacpp

    cut = cut_text(path, text, n_ctx, chunks)
    theirs = by_llamacpp(str(path), cut, n_ctx=n_ctx, n_threads=n_threads)
    exact, ours = (
        by_linnet(path, cut, n_ctx=n_ctx, n_threads=n_threads, activations=activations)
        for activations in ("f32", "int8")
    )
    cells = [f"{value.perplexity:.4f}" for value in (theirs, exact, ours)]
    return [path.stem, str(len(cut)), *cells, f"{ours.perplexity / theirs.perplexity - 1:+.3%}"]


def cut_text(path: Path, text: str, n_ctx: int, chunks: int | None) -> Sequence[Window]:
    with LLM(path, n_ctx=n_ctx) as llm:
        ids = np.array(llm.tokenizer.encode(text), np.int32)
        vocabulary = llm.tokenizer.vocabulary
    n = n_windows(len(ids), n_ctx, chunks)
    bos_id = vocabulary.bos_id if vocabulary.add_bos else None
    return list(windows(ids[: n * n_ctx], n_ctx, bos_id=bos_id))


def by_linnet(
    path: Path, cut: Sequence[Window], *, n_ctx: int, n_threads: int, activations: str
) -> Mean:
    loss = Mean()
    with (
        LLM(path, n_ctx=n_ctx, n_threads=n_threads, activations=activations) as llm,
        closing(llm.session(n_outputs=rows_a_pass(llm.config.n_vocab, n_ctx))) as session,
    ):
        for window in cut:
            for logits, part in scored(session, window):
                loss.add(losses(logits, window.targets[part]))
    return loss


def _files(files: Iterable[Path], types: Sequence[str], folder: Path) -> Iterator[Path]:
    for file in files:
        if not types:
            yield file
            continue
        source = unpacked(file, folder / "unpacked.gguf")
        for type in types:
            path = folder / f"{file.stem}-{type}.gguf"
            quantize_file(source, path, type)
            yield path
            path.unlink()


def unpacked(source: Path, target: Path) -> Path:
    """Write the same model with F32 weights; returns `target`."""
    f32 = WEIGHT_TYPES["F32"]
    with GGUFFile(source) as file, target.open("wb") as out:
        metadata = {
            key: MetadataValue(file.metadata.kind(key), value)
            for key, value in file.metadata.items()
        }
        tensors = file.tensors.values()
        entries = [TensorEntry(t.name, f32.id, t.shape, 4 * math.prod(t.shape)) for t in tensors]
        out.write(pack_header(metadata, entries, file.alignment))
        for tensor in tensors:
            type = WEIGHT_TYPES[tensor.type.name]
            rows = tensor.data.reshape(-1, type.row_bytes(tensor.shape[-1]))
            data = type.dequantize(rows).astype("<f4").tobytes()
            out.write(data + padding(len(data), file.alignment))
    return target


if __name__ == "__main__":
    main()
