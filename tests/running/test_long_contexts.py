"""Long contexts and every type of cache: the same bits, however they are computed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.tiny_llama import N_VOCAB, TinyLlama

from linnet import LLM
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.running.runner import Runner
from linnet.engine.running.session import Session
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.cache_types import CACHE_TYPES
from linnet.kernels.ops.split_attention import PIECE
from linnet.models import Model, load_model
from linnet.models.parts.numerics import Numerics

DEPTH = 3 * PIECE + 10  # tokens that go to several splits
N_CTX = DEPTH + 20
Open = Callable[..., Session]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = TinyLlama(type="Q4_K").write(tmp_path_factory.mktemp("long") / "tiny.gguf")
    file = GGUFFile(path)
    return load_model(file.metadata, file.tensors)


@pytest.fixture
def open_session(model: Model, best_library: Library) -> Iterator[Open]:
    opened: list[Session] = []

    def open(type: str, *, n_threads: int = 1, n_batch: int = 512, n_slots: int = 1) -> Session:
        runner = Runner(
            model, best_library, n_threads=n_threads, n_ctx=N_CTX, n_batch=n_batch, n_slots=n_slots,
            numerics=Numerics.of("int8", type, type), kv_tokens=n_slots * N_CTX,
        )  # fmt: skip
        opened.append(Session(runner))
        return opened[-1]

    yield open
    for session in opened:
        session.close()


def ids_of(n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(N_VOCAB), k=n)


@pytest.mark.parametrize("type", CACHE_TYPES)
def test_threads_parts_and_company_change_no_bit(open_session: Open, type: str) -> None:
    prompt, after = ids_of(DEPTH), ids_of(8, seed=1)
    alone = open_session(type)
    expected = [alone.prompt(prompt).tobytes()]
    expected += [alone.extend(token_id).tobytes() for token_id in after]
    for n_threads, n_batch in ((2, 100), (3, 37)):
        session = open_session(type, n_threads=n_threads, n_batch=n_batch, n_slots=2)
        assert session.prompt(prompt, slot=1).tobytes() == expected[0]
        session.prompt(ids_of(30, seed=2), slot=0)
        for n in range(0, len(after), 4):  # some as drafts come, beside another sequence
            rows = session.extend_each({0: [5], 1: after[n : n + 4]})
            assert [row.tobytes() for row in rows[1:]] == expected[n + 1 : n + 5]


@pytest.mark.parametrize("name", ["cache_type_k", "cache_type_v"])
def test_a_type_there_is_not_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 'q4_0'; it must be one of f16, f32, q8_0"):
        LLM(**{name: "q4_0"})  # type: ignore[arg-type]


def test_q8_0_takes_little_more_than_half_of_f16() -> None:
    half, whole = (llm_bytes(cache_type_k=type, cache_type_v=type) for type in ("q8_0", "f16"))
    assert half / whole == 34 / 64


def llm_bytes(**types: str) -> int:
    with LLM(n_ctx=64, n_parallel=1, **types) as llm:  # type: ignore[arg-type]
        return llm._session.runner.graph.slot_bytes


def test_prefixes_are_for_the_types_they_were_made_with(tmp_path: Path) -> None:
    path = tmp_path / "prefix"
    with LLM(n_ctx=64, cache_type_v="q8_0") as llm:
        llm.save_prefix(path, "def f(x):")
        llm.load_prefix(path)
    with LLM(n_ctx=64) as llm, pytest.raises(ValueError, match="cached values: 'q8_0', not 'f16'"):
        llm.load_prefix(path)
