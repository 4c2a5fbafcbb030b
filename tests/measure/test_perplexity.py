"""Perplexity, divergence, logits and embeddings: what commands print against plain numpy."""

from __future__ import annotations

import io
import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.tiny_llama import BOS, N_VOCAB, TinyLlama

from linnet import LLM, ContextOverflow, TokenizerError
from linnet.engine.cli import main as cli
from linnet.engine.measure import perplexity
from linnet.engine.measure.divergence import HEADER, Base, diverge, kept, new_base, row_type
from linnet.engine.measure.perplexity import Mean, n_windows, windows

N_CTX = 24
TEXT = "to be or not to be, and the land of an old tale once upon a time. " * 3
Double = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.gguf, other.gguf of other weights, and text."""
    folder = tmp_path_factory.mktemp("models")
    TinyLlama(type="Q4_K", n_ctx=512).write(folder / "tiny.gguf")
    TinyLlama(type="Q4_K", seed=1).write(folder / "other.gguf")
    (folder / "text").write_text(TEXT)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `linnet ARGUMENTS`; returns the status, stdout and stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([*map(str, argv)])
        return status, *capsys.readouterr()

    return run


Run = Callable[..., tuple[int, str, str]]


def log_softmax(logits: npt.NDArray[Any]) -> Double:
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def expected(path: Path, n_ctx: int = N_CTX) -> tuple[list[Double], list[float]]:
    """By the definition: log p of all tokens at each scored position, and each one's loss."""
    log_ps, losses = [], []
    with LLM(path) as llm:
        ids = llm.tokenizer.encode(TEXT)
        for start in range(0, len(ids) - n_ctx + 1, n_ctx):
            window = ids[start : start + n_ctx]
            log_p = log_softmax(llm.logits([BOS, *window[1:]]))
            for i in range(n_ctx // 2, n_ctx - 1):
                log_ps.append(log_p[i])
                losses.append(-log_p[i, window[i + 1]])
    return log_ps, losses


# ---- perplexity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ctx", [N_CTX, 25])
@pytest.mark.parametrize("rows", [None, 5])
def test_perplexity_is_that_of_the_second_half_of_every_window(
    run: Run, folder: Path, n_ctx: int, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows:  # logits in several parts
        monkeypatch.setattr(perplexity, "LOGIT_BYTES", rows * 4 * N_VOCAB)
    command = "perplexity", "-m", folder / "tiny.gguf", "-f", folder / "text", "-c", n_ctx, "-b", 7
    status, out, err = run(*command, "-o", "json")
    _, losses = expected(folder / "tiny.gguf", n_ctx)
    found, value = json.loads(out), np.exp(np.mean(losses))
    error = value * np.std(losses, ddof=1) / np.sqrt(len(losses))
    assert (status, found["n_tokens"]) == (0, len(losses))
    np.testing.assert_allclose(found["perplexity"], value, rtol=1e-6)
    np.testing.assert_allclose(found["perplexity_error"], error, rtol=1e-5)
    n = len(losses) // (n_ctx - 1 - n_ctx // 2)
    so_far = [float(x) for x in re.findall(r"\[\d+\]([\d.]+),", err)]
    assert n >= 4
    ends = [i * len(losses) // n for i in range(1, n + 1)]
    np.testing.assert_allclose(so_far, [np.exp(np.mean(losses[:i])) for i in ends], atol=1e-3)
    assert run(*command, "-q") == (0, f"Final estimate: PPL = {value:.4f} +/- {error:.5f}\n", "")


def test_chunks_and_stdin(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "perplexity", "-m", folder / "tiny.gguf", "-c", N_CTX, "-o", "json", "--chunks", 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    found = json.loads(run(*command)[1])
    _, losses = expected(folder / "tiny.gguf")
    assert found["n_tokens"] == 22
    np.testing.assert_allclose(found["perplexity"], np.exp(np.mean(losses[:22])), rtol=1e-6)


def test_windows_begin_with_bos_only_where_the_model_has_it() -> None:
    ids = np.arange(100, 117, dtype=np.int32)
    for bos_id, read in ((None, [100, 101, 102, 103]), (7, [7, 101, 102, 103])):
        first, *others = windows(ids[:15], 5, bos_id=bos_id)
        assert (list(first.ids), first.targets.tolist(), first.first) == (read, [103, 104], 2)
        assert [w.targets.tolist() for w in others] == [[108, 109], [113, 114]]


def test_numbers_come_in_parts() -> None:
    mean = Mean()
    for part in ([1.0, 2.0], [4.0]):
        mean.add(np.array(part))
    assert (mean.n, mean.mean) == (3, 7 / 3)
    assert mean.error == pytest.approx(np.std([1, 2, 4], ddof=1) / np.sqrt(3))
    single = Mean()
    single.add(np.ones(1))
    assert single.error == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-c", 400], "a context of 400 needs 800 or more"),
        (["-c", 2], "n_ctx is 2; it must be a whole number from 3"),
        (["-c", -1], "-c/--ctx-size: '-1' is not a whole number from 0"),
        (["--chunks", 0], "--chunks: '0' is not a whole number from 1"),
        (["-b", 0], "-b/-ub/--batch-size/--ubatch-size: '0' is not a whole number from 1 to 16384"),
        (["-f", "nowhere"], "nowhere"),
        (["--kl", "text"], "holds no predictions"),
        (["--kl", "a", "--kl-base", "b"], "not allowed with"),
        (["--kl-base", "text"], "is there already"),
    ],
)
def test_errors_are_one_line(
    run: Run, folder: Path, flags: list[object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    status, out, err = run("perplexity", "-m", "tiny.gguf", "-f", "text", "-c", N_CTX, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert list(folder.glob(".*")) == []


def test_n_windows() -> None:
    assert [n_windows(n, 10) for n in (20, 29, 30)] == [2, 2, 3]
    assert n_windows(99, 10, 4) == 4
    assert n_windows(10, 10, at_least=1) == 1
    with pytest.raises(ValueError, match="has 19 tokens; a context of 10 needs 20"):
        n_windows(19, 10)
    with pytest.raises(ValueError, match="chunks is 0; it must be a whole number from 1 to"):
        n_windows(99, 10, 0)


# ---- divergence ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """What tiny.gguf predicts."""
    command = ["perplexity", "-m", folder / "tiny.gguf", "-f", folder / "text", "-c", N_CTX, "-q"]
    assert cli.main([*map(str, command), "--kl-base", str(folder / "base")]) == 0
    return folder / "base"


def test_a_model_diverges_from_itself_by_nothing(run: Run, folder: Path, base: Path) -> None:
    status, out, _ = run("perplexity", "-m", folder / "tiny.gguf", "--kl", base, "-o", "json")
    found = json.loads(out)
    assert status == 0
    assert found["same_top"] == 1
    assert 0 <= found["kl_mean"] <= found["kl_maximum"] < 1e-7
    np.testing.assert_allclose(found["base_perplexity"], found["perplexity"], rtol=1e-4)


def test_divergence_is_that_of_the_definition(run: Run, folder: Path, base: Path) -> None:
    status, out, _ = run("perplexity", "-m", folder / "other.gguf", "--kl", base, "-o", "json")
    found = json.loads(out)
    ours, losses = expected(folder / "other.gguf")
    theirs, base_losses = expected(folder / "tiny.gguf")
    p, q = np.array(theirs), np.array(ours)
    divergences = (np.exp(p) * (p - q)).sum(axis=1)
    assert status == 0
    assert np.mean(divergences) > 0.01
    for key, value in {
        "perplexity": np.exp(np.mean(losses)),
        "base_perplexity": np.exp(np.mean(base_losses)),
        "kl_mean": np.mean(divergences),
        "kl_99th_percentile": np.percentile(divergences, 99),
        "kl_maximum": np.max(divergences),
        "same_top": np.mean(p.argmax(axis=1) == q.argmax(axis=1)),
    }.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, err_msg=key)
    lines = run("perplexity", "-m", folder / "other.gguf", "--kl", base, "-q")[1].splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "Final estimate", "Base", "KL divergence", "Same top token",
    ]  # fmt: skip
    assert f"mean {found['kl_mean']:.6f} +/- {found['kl_mean_error']:.6f}" in lines[2]


def test_what_is_kept_is_as_near_as_16_bits_allow() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (50, 999)).astype(np.float32)
    logits[0] = 3  # all alike
    rows, log_p = kept(logits), log_softmax(logits)
    found = rows["levels"][:, :999] * rows["scale"][:, None] + rows["lowest"][:, None]
    near = logits > logits.max(axis=1, keepdims=True) - 16
    assert 0.2 < near.mean() < 0.9
    assert np.abs(found - log_p)[near].max() < 16 / 65535 * 0.6
    lowest = log_p.max(axis=1, keepdims=True) - 16  # as which the rest is kept
    np.testing.assert_allclose(found[~near], np.broadcast_to(lowest, near.shape)[~near], atol=1e-4)


def test_divergence_is_never_negative_and_tokens_that_hardly_are_do_not_count() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 9, (200, 300)).astype(np.float32)
    nearby = logits + rng.normal(0, 1e-5, logits.shape).astype(np.float32)
    found = diverge(kept(logits), nearby, np.zeros(200, np.int64))
    assert found.divergences.min() >= 0
    assert found.divergences.max() < 1e-6


def test_the_file_is_laid_out_as_llama_perplexity_lays_it_out(base: Path, folder: Path) -> None:
    data = base.read_bytes()
    with LLM(folder / "tiny.gguf") as llm:
        ids = llm.tokenizer.encode(TEXT)
    n = len(ids) // N_CTX
    assert data[:8] == b"_logits_"
    assert struct.unpack("<3i", data[8:20]) == (N_CTX, N_VOCAB, n)
    assert np.frombuffer(data, "<i4", n * N_CTX, 20).tolist() == ids[: n * N_CTX]
    row_bytes = 2 * (2 * ((N_VOCAB + 1) // 2) + 4)
    assert len(data) == 20 + 4 * n * N_CTX + n * (N_CTX - 1 - N_CTX // 2) * row_bytes
    assert row_type(N_VOCAB).itemsize == row_bytes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], r"has \d+ bytes; it must have"),
        (lambda data: data + b"x", r"has \d+ bytes; it must have"),
        (lambda data: data[:15], "no predictions have those"),
        (lambda data: b"x" + data[1:], "holds no predictions"),
        (lambda _: HEADER.pack(b"_logits_", 2**31 - 1, 2**24, 2**31 - 1), "bytes; it must have"),
        (lambda _: HEADER.pack(b"_logits_", 512, -5, 1), "no predictions have those"),
    ],
)
def test_a_base_that_is_not_whole_is_refused(
    base: Path, tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    (tmp_path / "bad").write_bytes(change(base.read_bytes()))
    with pytest.raises(ValueError, match=said):
        Base.open(tmp_path / "bad")


def test_a_base_of_another_vocabulary_or_of_nan_is_refused(
    run: Run, folder: Path, base: Path, tmp_path: Path
) -> None:
    rows = np.zeros((1, 11), row_type(7))
    data = HEADER.pack(b"_logits_", N_CTX, 7, 1) + np.zeros(N_CTX, "<i4").tobytes() + rows.tobytes()
    (tmp_path / "seven").write_bytes(data)
    status, _, err = run("perplexity", "-m", folder / "tiny.gguf", "--kl", tmp_path / "seven")
    assert status == 2
    assert f"has 7 tokens, and the model's {N_VOCAB}" in err
    for name, value in (("scale", np.nan), ("scale", 3e38), ("lowest", -3e38), ("lowest", np.inf)):
        bad = rows.copy()
        bad[name] = value
        with pytest.raises(ValueError, match="not all within"):
            diverge(bad[0], np.zeros((11, 7), np.float32), np.zeros(11, np.int64))
    status, _, err = run("perplexity", "-m", folder / "tiny.gguf", "--kl", base, "-c", 24)
    assert (status, "without -f and -c" in err) == (2, True)


def test_a_base_that_fails_midway_leaves_no_file(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("midway")

    monkeypatch.setattr("linnet.engine.measure.divergence.kept", fail)
    command = "perplexity", "-m", folder / "tiny.gguf", "-f", folder / "text", "-c", N_CTX
    status, _, err = run(*command, "--kl-base", tmp_path / "base")
    assert (status, "midway" in err, list(tmp_path.iterdir())) == (2, True, [])


def test_a_base_that_the_disk_has_no_room_for_leaves_no_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    ids, (soft, hard) = np.zeros(100_000, np.int32), resource.getrlimit(resource.RLIMIT_FSIZE)
    base = new_base(tmp_path / "base", ids, N_CTX, N_VOCAB)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="too large"), base:
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_base_replaces_no_file_of_another_name(tmp_path: Path) -> None:
    beside = [tmp_path / name for name in ("base.part", ".base", "base.tmp")]
    for path in beside:
        path.write_text("precious")
    logits = np.zeros((N_CTX - 1 - N_CTX // 2, N_VOCAB), np.float32)
    with new_base(tmp_path / "base", np.zeros(N_CTX, np.int32), N_CTX, N_VOCAB) as write:
        assert not (tmp_path / "base").exists()
        write(logits)
    assert Base.open(tmp_path / "base").rows.shape == (1, len(logits))
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "base", *beside])
    assert all(path.read_text() == "precious" for path in beside)


# ---- logits --------------------------------------------------------------------------------------


def test_logits_of_the_last_token_or_of_all(run: Run, folder: Path) -> None:
    path = folder / "tiny.gguf"
    with LLM(path) as llm:
        ids = llm.tokenizer.encode("to be")
        rows = llm.logits(ids)
    given = "--ids", ",".join(map(str, ids))
    file = folder / "prompt.txt"
    file.write_text("to be\n")  # as `generate` reads it: without the last line feed
    for source in (["-p", "to be"], ["-f", file], given):
        found = json.loads(run("logits", "-m", path, *source, "-o", "json")[1])
        assert found["ids"] == ids
        assert [p["position"] for p in found["positions"]] == [len(ids) - 1]
        np.testing.assert_allclose(found["positions"][0]["logits"], rows[-1], atol=1e-5)
    found = json.loads(run("logits", "-m", path, *given, "-o", "json", "--all", "--top", 3)[1])
    assert [p["position"] for p in found["positions"]] == [*range(len(ids))]
    for position, row in zip(found["positions"], rows, strict=True):
        order = np.argsort(-row)[:3]
        assert [t["id"] for t in position["top"]] == order.tolist()
        ps = np.exp(log_softmax(row)[order])
        np.testing.assert_allclose([t["p"] for t in position["top"]], ps, rtol=1e-5)


def test_logits_as_a_table_and_as_an_array(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "tiny.gguf"
    status, out, err = run("logits", "-m", path, "--ids", "1,5,9", "--top", 2, "--all")
    assert (status, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split() == ["position", "id", "logit", "p", "text"]
    assert [line.split()[0] for line in lines] == ["0", "0", "1", "1", "2", "2"]
    with LLM(path) as llm:
        rows = llm.logits([1, 5, 9])
        text = repr(
            llm.tokenizer.token_bytes(int(rows[0].argmax())).decode(errors="backslashreplace")
        )
    top = f"{rows[0].argmax()} {rows[0].max():.4f} {np.exp(log_softmax(rows[0]).max()):.6f} {text}"
    assert lines[0].split(maxsplit=4)[1:] == top.split(maxsplit=3)
    assert len(run("logits", "-m", path, "--ids", "1")[1].splitlines()) == 11
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    assert cli.main(["logits", "-m", str(path), "--ids", "1,5,9", "--all", "-o", "npy"]) == 0
    np.testing.assert_array_equal(np.load(io.BytesIO(written.getvalue())), rows)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ids", "1,x"], "'1,x' is not a list of whole numbers"),
        (["--ids", N_VOCAB], f"token id is {N_VOCAB}"),
        (["--ids", "1", "-p", "x"], "one of them will do"),
        (["--ids", "1", "--top", 0], "--top: '0' is not a whole number from 1 to"),
        (["--ids", "1", "-o", "npy", "--top", 1], "--top is for"),
        (["--ids", "1,2,3", "-c", 2], "3 tokens do not fit the context of 2"),
    ],
)
def test_wrong_logits_arguments_are_refused(
    run: Run, folder: Path, flags: list[object], said: str
) -> None:
    status, out, err = run("logits", "-m", folder / "tiny.gguf", *flags)
    assert (status, out) == (2, "")
    assert said in err


def test_ids_need_no_tokenizer(run: Run, tmp_path: Path) -> None:
    path = TinyLlama(tokenizer="unheard-of").write(tmp_path / "tiny.gguf")
    status, out, _ = run("logits", "-m", path, "--ids", "1,2", "--top", 1)
    assert (status, len(out.splitlines()[1].split())) == (0, 4)
    with LLM(path) as llm, pytest.raises(TokenizerError):
        llm.embed(["to be"])


# ---- embeddings ----------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("activations", ["int8", "f32"])


@BOTH
def test_embeddings_are_of_the_states_that_logits_are_made_of(
    tmp_path: Path, activations: str
) -> None:
    """With F32 weights the output matrix, applied to the last state, gives the last logits."""
    tiny = TinyLlama(type="F32")
    path = tiny.write(tmp_path / "tiny.gguf")
    output = tiny.tensors()["output.weight"].data.view(np.float32)
    texts = ["to be", "or not to be " * 9, [BOS, 7]]
    with LLM(path, activations=activations, n_batch=8) as llm:
        states = llm.embed(texts, pooling="last", normalize=False)
        assert (states.shape, states.dtype) == ((3, 256), np.float32)
        for state, text in zip(states, texts, strict=True):
            ids = llm.tokenizer.encode(text) if isinstance(text, str) else text
            row = llm.logits(ids)[-1]
            tolerance = 0.02 if activations == "int8" else 1e-5
            np.testing.assert_allclose(output.reshape(N_VOCAB, -1) @ state, row, atol=tolerance)
        ids = llm.tokenizer.encode(texts[1])
        starts = [ids[: i + 1] for i in range(len(ids))]
        each = llm.embed(starts, pooling="last", normalize=False)
        mean = llm.embed([texts[1]], normalize=False)[0]
        np.testing.assert_allclose(mean, np.mean(each, axis=0), atol=1e-5)
        unit = llm.embed(texts)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(unit[1], mean / np.linalg.norm(mean), atol=1e-6)
        assert llm.embed([]).shape == (0, 256)


def test_what_cannot_be_embedded_is_refused(folder: Path) -> None:
    with LLM(folder / "tiny.gguf", n_ctx=8) as llm:
        with pytest.raises(ValueError, match="texts is b'to be'"):
            llm.embed(b"to be")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="pooling is 'max'; it must be one of mean, cls, last"):
            llm.embed(["to be"], pooling="max")
        with pytest.raises(ContextOverflow):
            llm.embed(["to be or not to be"])
        with pytest.raises(ValueError, match="without a token"):
            llm.embed([[]])
        with pytest.raises(ValueError, match="prompt is 1; it must be a text or a list of token"):
            llm.embed([1, 2])  # type: ignore[list-item]
        session = llm._hidden_session
    with pytest.raises(RuntimeError, match="closed"):
        session.all_logits([1])


# ---- sessions ------------------------------------------------------------------------------------


def test_logits_in_parts_are_all_logits(folder: Path) -> None:
    with LLM(folder / "tiny.gguf", n_batch=9) as llm:
        ids = llm.tokenizer.encode(TEXT)[:70]
        every, session = llm.logits(ids), llm.session(n_outputs=6)
        for first in (0, 1, 9, 35, 69):
            parts = [rows.copy() for rows in session.each_logits(ids, first=first)]
            assert max(map(len, parts)) == min(6, 70 - first)
            np.testing.assert_array_equal(np.concatenate(parts), every[first:])
        iterator = session.each_logits(ids)
        next(iterator)
        iterator.close()
        assert session.ids == ids[:6]
        session.close()


# ---- how both commands run a model ---------------------------------------------------------------


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    "command",
    [f"perplexity -f text -c {N_CTX}", "perplexity --kl base", f"logits --ids 1,2 -c {N_CTX}"],
)
def test_flags_reach_the_model(
    run: Run, folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Recorder(LLM):
        def __init__(self, *path: Any, **options: Any) -> None:
            given.update(options)
            super().__init__(*path, **options)

    monkeypatch.setattr("linnet.engine.cli.options.LLM", Recorder)
    monkeypatch.chdir(folder)
    flags = "-t 2 -b 7 --isa generic --activations f32 --no-mmap"
    assert run(*command.split(), "-m", "tiny.gguf", *flags.split())[0] == 0
    assert given == {
        "n_threads": 2, "n_ctx": N_CTX, "n_batch": 7, "isa": "generic", "activations": "f32",
        "mmap": False, "ignore_unknown": False, "cache_type_k": None, "cache_type_v": None,
    }  # fmt: skip
