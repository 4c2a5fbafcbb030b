"""Small Llamas with random weights, as files: real in every way but what they say.

    TinyLlama(type="Q4_K", n_layers=1).write(tmp_path / "tiny.gguf")

Weights and vocabulary follow from the fields alone, so the same ones make the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.quants import WEIGHT_TYPES
from support.gguf_builder import BOOL, FLOAT32, INT32, STRING, UINT32, GGUFBuilder, padding

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
BOS, EOS = 1, 2
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYLLABLES = [letter + vowel for letter in LETTERS for vowel in "aeiou"]
WORDS = ["▁", *LETTERS, *".,!é\n", *SYLLABLES, "▁a", "an", "▁an", "▁and", "▁to", "▁the"]
VOCABULARY = [
    ("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL),
    *((f"<0x{value:02X}>", BYTE) for value in range(256)),
    *((word, NORMAL) for word in WORDS),
]  # fmt: skip
N_VOCAB = len(VOCABULARY)
PATTERN = 1 << 18  # after so many weights, the rows of a matrix repeat


@dataclass(frozen=True, slots=True)
class TinyTensor:
    """A tensor to be written. `data` may be changed in place, through `blocks`."""

    type: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    @property
    def blocks(self) -> npt.NDArray[Any]:
        """The packed blocks as records, in the order of the file; one field is `w` or `d`."""
        return self.data.reshape(-1).view(WEIGHT_TYPES[self.type].dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLlama:
    """The sizes of a model; `type` is that of its matrices."""

    type: str = "F32"
    n_layers: int = 2
    n_embd: int = 256
    n_ff: int = 512
    n_heads: int = 4
    n_kv_heads: int = 2
    n_ctx: int = 256
    tied: bool = False  # whether the output shares the embedding's weights
    eos_id: int = EOS
    tokenizer: str = "llama"
    seed: int = 0
    metadata: tuple[tuple[str, int, Any], ...] = ()  # further keys, with type and value
    controls: tuple[str, ...] = ()  # further control tokens

    @property
    def n_vocab(self) -> int:
        return N_VOCAB + len(self.controls)

    def write(self, path: Path, tensors: Mapping[str, TinyTensor] | None = None) -> Path:
        """Write a file of these tensors, or the model's own, and return its path.

        The model's own are made one at a time, so that it may be large.
        """
        file, offset = self._metadata(), 0
        for name, tensor in tensors.items() if tensors else self._each():
            type_id = WEIGHT_TYPES[tensor.type].id
            file.tensor(name, type_id, tensor.shape, b"", offset=offset)
            offset += tensor.data.nbytes + len(padding(tensor.data.nbytes, file.alignment))
        with path.open("wb") as out:
            out.write(file.build())
            for _, tensor in tensors.items() if tensors else self._each():
                out.write(tensor.data)
                out.write(padding(tensor.data.nbytes, file.alignment))
        return path

    def tensors(self) -> dict[str, TinyTensor]:
        """The model's tensors by name; new arrays at each call."""
        return dict(self._each())

    def _each(self) -> Iterator[tuple[str, TinyTensor]]:
        rng = np.random.default_rng(self.seed)
        for name, shape in self.shapes():
            yield name, self._tensor(shape, rng)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, slowest dimension first, in the order of the file."""
        n_kv = self.n_embd // self.n_heads * self.n_kv_heads
        yield "token_embd.weight", (self.n_vocab, self.n_embd)
        for layer in (f"blk.{i}" for i in range(self.n_layers)):
            yield f"{layer}.attn_norm.weight", (self.n_embd,)
            yield f"{layer}.attn_q.weight", (self.n_embd, self.n_embd)
            yield f"{layer}.attn_k.weight", (n_kv, self.n_embd)
            yield f"{layer}.attn_v.weight", (n_kv, self.n_embd)
            yield f"{layer}.attn_output.weight", (self.n_embd, self.n_embd)
            yield f"{layer}.ffn_norm.weight", (self.n_embd,)
            yield f"{layer}.ffn_gate.weight", (self.n_ff, self.n_embd)
            yield f"{layer}.ffn_up.weight", (self.n_ff, self.n_embd)
            yield f"{layer}.ffn_down.weight", (self.n_embd, self.n_ff)
        yield "output_norm.weight", (self.n_embd,)
        if not self.tied:
            yield "output.weight", (self.n_vocab, self.n_embd)

    def _tensor(self, shape: tuple[int, ...], rng: np.random.Generator) -> TinyTensor:
        """Norms are near 1; a matrix takes numbers of size 1 to numbers of size 1."""
        if len(shape) == 1:
            weights = 1 + 0.1 * rng.standard_normal(shape, np.float32)
            return TinyTensor("F32", shape, weights.view(np.uint8))
        n_rows, n_columns = shape
        n_different = min(n_rows, -(-PATTERN // n_columns))
        rows = rng.standard_normal((n_different, n_columns), np.float32)
        packed = WEIGHT_TYPES[self.type].quantize(rows / np.sqrt(np.float32(n_columns)))
        return TinyTensor(self.type, shape, np.resize(packed, (n_rows, packed.shape[1])))

    def _metadata(self) -> GGUFBuilder:
        controls = ((text, CONTROL) for text in self.controls)
        texts, types = zip(*VOCABULARY, *controls, strict=True)
        sizes = {
            "block_count": self.n_layers,
            "context_length": self.n_ctx,
            "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_heads,
            "attention.head_count_kv": self.n_kv_heads,
        }
        file = GGUFBuilder().kv("general.architecture", STRING, "llama")
        for key, value in sizes.items():
            file.kv(f"llama.{key}", UINT32, value)
        for key, type, value in self.metadata:
            file.kv(key, type, value)
        return (
            file.kv("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5)
            .kv("tokenizer.ggml.model", STRING, self.tokenizer)
            .array("tokenizer.ggml.tokens", STRING, texts)
            .array("tokenizer.ggml.scores", FLOAT32, [-float(i) for i in range(self.n_vocab)])
            .array("tokenizer.ggml.token_type", INT32, types)
            .kv("tokenizer.ggml.eos_token_id", UINT32, self.eos_id)
        )


def chat_model(template: str, *, n_ctx: int, controls: tuple[str, ...] = ()) -> TinyLlama:
    """The smallest that answers by a chat template."""
    add_space = "tokenizer.ggml.add_space_prefix", BOOL, False
    keys = add_space, ("tokenizer.chat_template", STRING, template)
    sizes = {"n_ctx": n_ctx, "n_layers": 1, "n_embd": 32, "n_ff": 32, "n_heads": 2}
    return TinyLlama(metadata=keys, controls=controls, **sizes)
