"""What layers keep of a sequence: placed after recording, copied to other slots, given back."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.model_runner import BOTH, F32, INT8, Runner
from support.systems import needs_linux
from support.tiny_architectures import N_VOCAB, TINY

from linnet.kernels.ops.attention import NO_WINDOW
from linnet.kernels.runtime.program import Program
from linnet.models import load_model
from linnet.models.parts.cache import Cache, Ring
from linnet.models.parts.graph import Graph
from linnet.models.parts.numerics import Numerics

N_CTX, N_BATCH = 300, 16
TOKENS = [int(token) for token in np.random.default_rng(6).integers(0, N_VOCAB, N_CTX)]
STATM = Path("/proc/self/statm")
# Whole contexts, rings that come around, states, and short convolutions.
KEPT = ["llama", "gemma3", "gemma4", "qwen35", "lfm2", "deepseek2"]


def runner_of(runner: Callable[..., Runner], name: str, numerics: Numerics = INT8) -> Runner:
    model = load_model(TINY[name].metadata(), TINY[name].tensors("Q8_0"))
    return runner(model, numerics=numerics, n_ctx=N_CTX, n_batch=N_BATCH, n_slots=3)


def read(run: Runner, n: int, slot: int) -> None:
    for i in range(0, n, N_BATCH):
        positions = range(i, min(i + N_BATCH, n))
        run.run(TOKENS[i : positions.stop], positions, [slot] * len(positions))


def test_a_recording_takes_no_memory() -> None:
    """Of the longest contexts there are, which no machine has room for."""
    for name in KEPT:
        model = load_model(TINY[name].metadata(), TINY[name].tensors())
        graph = Graph(Program(N_BATCH, 1), n_ctx=1 << 40, numerics=INT8)
        model.record(graph)
        assert graph.slot_bytes > 1 << 40
        with pytest.raises(RuntimeError, match="is not placed"):
            graph.reach(1)
        with pytest.raises(MemoryError):
            graph.allocate(8)


def test_a_program_is_not_lowered_before_its_caches_are_placed(
    runner: Callable[..., Runner],
) -> None:
    library = runner_of(runner, "llama").inner.library
    program = Program(N_BATCH, 1)
    graph = Graph(program, n_ctx=N_CTX, numerics=INT8)
    logits = load_model(TINY["llama"].metadata(), TINY["llama"].tensors()).record(graph)
    program.lay_out([logits])
    with pytest.raises(RuntimeError, match="'positions' is not placed"):
        program.lower(library)


@BOTH
@pytest.mark.parametrize("n", [1, 40, 213])
@pytest.mark.parametrize("name", KEPT)
def test_a_copied_slot_goes_on_with_the_same_bits(
    runner: Callable[..., Runner], name: str, n: int, numerics: Numerics
) -> None:
    """In a slot that held another sequence, of which nothing is left to be seen."""
    run = runner_of(runner, name, numerics)
    run.run(TOKENS[50:66], slots=[1] * 16)
    read(run, n, slot=2)
    run.graph.copy(2, 1, n)
    more = TOKENS[-40:]
    copied = run.one_by_one(more, start=n, slot=1)
    assert copied.tobytes() == run.one_by_one(more, start=n, slot=2).tobytes()
    assert copied[0].tobytes() != run.one_by_one(more[:1], start=n, slot=0).tobytes()


def test_a_copy_takes_no_more_than_is_asked_for(runner: Callable[..., Runner]) -> None:
    """Keys in runs of sixteen positions."""
    run = runner_of(runner, "llama", F32)
    read(run, 200, slot=0)
    run.graph.copy(0, 1, 40)
    for cache in run.graph.caches:
        assert cache.values.data[1, :, :40].any(axis=2).all()
        assert not cache.values.data[1, :, 40:].any()
        assert cache.keys.data[1, :, :3].any(axis=2).all()
        assert not cache.keys.data[1, :, 3:].any()


# ---- memory that is given back -------------------------------------------------------------------


def resident() -> int:
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE


@needs_linux
@pytest.mark.parametrize("first", [0, 1001, 2048])
def test_released_positions_take_no_memory(first: int) -> None:
    """And nothing before them, or of other slots, is lost."""
    n_heads, head_dim, capacity = 3, 64, 16384
    ring = Ring(capacity, NO_WINDOW)
    cache = Cache.of(INT8.key_type, INT8.value_type, ring, n_heads=n_heads, head_dim=head_dim)
    cache.place(3)
    arrays = cache.keys.data, cache.values.data
    for array in arrays:
        array[...] = 1
    before = resident()
    cache.release(1, first)
    given_back = cache.position_bytes * (capacity - first)
    lost_to_edges = 2 * n_heads * 2 * (mmap.PAGESIZE + 16 * head_dim * 2)
    assert given_back - lost_to_edges <= before - resident() <= given_back + (1 << 20)
    assert (arrays[0][1, :, : -(-first // 16)] == 1).all()
    assert (arrays[1][1, :, :first] == 1).all()
    for array in arrays:
        assert (array[[0, 2]] == 1).all()
        assert not array[1].all()
        array[1] = 2  # pages are there again
        assert (array[1] == 2).all()
        assert (array[[0, 2]] == 1).all()


@needs_linux
def test_rings_and_states_are_released_whole_or_not_at_all(runner: Callable[..., Runner]) -> None:
    for name in ("gemma3", "qwen35"):
        run = runner_of(runner, name)
        read(run, 200, slot=1)
        for kept in (*run.graph.caches, *run.graph.states):
            array = kept.values if isinstance(kept, Cache) else kept
            is_whole = isinstance(kept, Cache) and kept.holds_all
            before = array.data[1].copy()
            kept.release(1, 199)
            if not is_whole:
                assert array.data[1].tobytes() == before.tobytes()
            kept.release(1, 0)
        read(run, 30, slot=1)
        read(run, 30, slot=0)
        more = [run.one_by_one(TOKENS[:5], start=30, slot=slot).tobytes() for slot in (0, 1)]
        assert more[0] == more[1]
