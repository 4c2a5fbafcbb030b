"""Fault injection: memory, files and threads are refused, and nothing may be left behind.

Each case runs in a child process, where a signal ends no test but this one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.kernel_harness import run_python
from support.systems import needs_linux
from support.tiny_llama import TinyLlama

pytestmark = needs_linux


def run_forks(code: str, *arguments: object) -> Any:
    """What code prints as JSON, run behind support.fault_injection in a process of its own."""
    child = run_python("-c", f"from support.fault_injection import *\n{code}", *map(str, arguments))
    assert (child.returncode, child.stderr) == (0, "")
    return json.loads(child.stdout)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = TinyLlama(type="Q4_K", n_layers=1, n_ctx=4096)
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


# ---- memory --------------------------------------------------------------------------------------


def check_limits(found: Sequence[Any]) -> None:
    """Typed errors at first, success at the end; never a signal, which is a number."""
    errors = {"OSError", "MemoryError", "RuntimeError", "ImportError"}
    assert {str(each) for each in found if not isinstance(each, list)} <= errors, found
    assert found[0] in errors
    assert isinstance(found[-1], list)


@pytest.mark.parametrize(
    ("cache", "step", "n"),
    [("1", 8_000_000, 38), ("0", 50_000_000, 8)],
    ids=["cached", "compiled"],
)
def test_any_limit_of_address_space_ends_in_success_or_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, step: int, n: int
) -> None:
    if cache == "1":
        run_forks("print(json.dumps(forked(generated, sys.argv[1])))", path)  # compiles, once
    monkeypatch.setenv("LINNET_CACHE", cache)
    code = f"print(json.dumps(limits(generated, {step}, {n})))"
    check_limits(run_forks(code, path))


@pytest.mark.parametrize("vocabulary", ["llama-bpe", "llama-spm"])
def test_so_do_tokenizers(fixtures: Path, vocabulary: str) -> None:
    file = fixtures / f"vocabs/ggml-vocab-{vocabulary}.gguf"
    check_limits(run_forks("print(json.dumps(limits(tokenized, 50_000_000, 12)))", file))


def test_decoding_allocates_nothing(path: Path) -> None:
    """Once its context has been full, thousands of tokens take no memory that stays."""
    before, after, traced_before, traced_after, peak = run_forks("print(decoded())", path)
    assert after - before <= 128 << 10
    assert traced_after - traced_before <= 3000 * 48  # the list of the tokens' ids
    assert peak - traced_after <= 256 << 10  # what a step needs for a moment


# ---- the n-th failure ----------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["1", "0"], ids=["cached", "compiled"])
def test_whatever_fails_nothing_is_left_and_the_next_try_succeeds(
    path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    """Memory, files and threads, refused at the n-th call, for one n in so many."""
    monkeypatch.setenv("LINNET_CACHE", cache)
    found = run_forks(f"print(json.dumps(attempts(every={3 if cache == '1' else 60})))", path)
    assert found["n"] > 50
    assert len(found["errors"]) >= (5 if cache == "1" else 2), found
    assert found["grown"] < 2 << 20
