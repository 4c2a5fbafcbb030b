"""Every architecture: next to another engine's logits, in numpy, in parts; what is refused."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.kernel_harness import Array, nmse
from support.model_runner import INT8, Runner, load_fixture
from support.tiny_architectures import N_EXPERTS, N_HEADS, N_VOCAB, TINY, TinyArchitecture

import linnet.models
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.elementwise import ScaleByPosition
from linnet.kernels.ops.rope import Rope
from linnet.kernels.ops.routing import GroupByExpert
from linnet.kernels.runtime.program import Persistent, Program
from linnet.models import ARCHITECTURES, ModelError, load_model
from linnet.models.parts.cache import STATE
from linnet.models.parts.graph import Graph
from linnet.models.parts.heads import AttentionTemperature
from linnet.models.parts.positions import POSITIONS

EXACT = 2e-9  # NMSE of logits with f32 activations
DEEP = "deepseek2 lite"  # 26 random layers, through which what rounding does grows
INT8_BOUNDS = {  # on NMSE from f32, and on NMSE of one path from another as a share of that
    DEEP: (0.5, 0.5),
    "deepseek2": (0.1, 0.5),  # over 0.05 with one prompt in six
    "exaone4-32b": (0.05, 1.0),  # over half with one prompt in five
}
TOKENS = [int(token) for token in np.random.default_rng(8).integers(0, N_VOCAB, 30)]
every_architecture = pytest.mark.parametrize("name", TINY)

# ---- another engine ------------------------------------------------------------------------------

# Another engine looks GELU up in a table of halves.
USE_GELU = {"archs/gemma2-dense", "archs/gemma3-dense"}
FILES_OF_ARCHITECTURES = [
    "archs/gemma2-dense", "archs/gemma3-dense", "archs/gpt-oss-moe", "archs/granite-dense",
    "archs/lfm2-dense", "archs/llama-dense", "archs/llama-moe", "archs/mistral3-dense",
    "archs/olmo2-dense", "archs/phi3-dense", "archs/qwen2-dense", "archs/qwen3-dense",
    "archs/qwen35-dense", "archs/qwen3moe-moe", "archs/smollm3-dense", "more_archs/deepseek2-moe",
    "more_archs/ernie4_5-moe", "more_archs/granite-moe", "more_archs/granitemoe-dense",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES_OF_ARCHITECTURES)
def test_an_architecture_gives_the_logits_of_another_engine(
    fixtures: Path, runner: Callable[..., Runner], name: str
) -> None:
    """A prompt whole, in parts and token by token, and the reference."""
    model, known = load_fixture(fixtures / f"{name}.gguf")
    tokens = known["tokens"]
    run = runner(model)
    whole, reference = run.run(tokens), run.reference(tokens)
    parts = [run.run(tokens[i : i + 7], np.arange(i, min(i + 7, 48))) for i in range(0, 48, 7)]
    for logits in (whole, reference, np.concatenate(parts), run.one_by_one(tokens)):
        assert nmse(logits, known["logits"]) <= (1e-6 if name in USE_GELU else 1e-7)
        assert nmse(logits, whole) <= EXACT
    best_two = np.sort(known["logits"], axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > 1e-3 * np.abs(known["logits"]).max()
    same = whole.argmax(axis=1) == known["logits"].argmax(axis=1)
    assert same[clear].all()


# ---- models made here: scripts/check_architectures.py holds them against another engine ----------


def test_there_is_a_small_model_of_every_architecture() -> None:
    assert {tiny.name.replace("-", "_") for tiny in TINY.values()} == set(ARCHITECTURES)


@every_architecture
def test_native_steps_compute_what_their_references_do(
    runner: Callable[..., Runner], name: str
) -> None:
    run = runner(load(TINY[name]))
    assert nmse(run.run(TOKENS), run.reference(TOKENS)) <= EXACT


@every_architecture
def test_a_prompt_may_be_read_whole_in_parts_or_token_by_token(
    runner: Callable[..., Runner], name: str
) -> None:
    model, limit = load(TINY[name]), EXACT
    run = runner(model)
    whole = run.run(TOKENS)
    parts = [run.run(TOKENS[i : i + 7], range(i, min(i + 7, 30))) for i in range(0, 30, 7)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert nmse(run.one_by_one(TOKENS), whole) <= limit


def median_nmse(logits: Array, truth: Array) -> float:
    """The median of the tokens' errors."""
    return statistics.median(nmse(*rows) for rows in zip(logits, truth, strict=True))


@every_architecture
def test_int8_activations_come_close_whole_in_parts_and_token_by_token(
    runner: Callable[..., Runner], name: str
) -> None:
    tiny = TINY[name]
    model = load_model(tiny.metadata(), tiny.tensors("Q8_0"))
    truth = runner(model).run(TOKENS)
    run = runner(model, numerics=INT8)
    whole, reference = run.run(TOKENS), run.reference(TOKENS)
    parts = [run.run(TOKENS[i : i + 7], range(i, min(i + 7, 30))) for i in range(0, 30, 7)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    # Where a number lies between two lanes, the last bit of a sum decides; what follows from it is
    # less than what rounding does anyway, but for a token whose experts change.
    most, share = INT8_BOUNDS.get(name, (0.05, 0.5))
    assert nmse(whole, truth) < most
    error = median_nmse(whole, truth)
    for logits in (reference, run.one_by_one(TOKENS)):
        assert median_nmse(logits, whole) <= max(1e-4, share * error)


@every_architecture
def test_sequences_do_not_touch_each_other(runner: Callable[..., Runner], name: str) -> None:
    """Two in one pass, token about, in slots that others have used: each as if it were alone."""
    model = load(TINY[name])
    prompts = TOKENS[:15], TOKENS[15:]
    alone = [runner(model).run(prompt) for prompt in prompts]
    run = runner(model, n_slots=3)
    for slot in (1, 2):
        run.run(TOKENS[5:25], slots=[slot] * 20)
    together = run.run(
        [token for pair in zip(*prompts, strict=True) for token in pair],
        [position for position in range(15) for _ in range(2)],
        [1, 2] * 15,
    )
    for slot in (0, 1):
        assert together[slot::2].tobytes() == alone[slot].tobytes()


@every_architecture
def test_layers_share_tables_of_positions(name: str) -> None:
    """A rotation for each kind of layer at most, and one temperature; all counted beforehand."""
    graph = Graph(Program(16, 1), n_ctx=64, numerics=INT8)
    load(TINY[name]).record(graph)
    rotations, temperatures = (tables(graph, op) for op in (Rope, ScaleByPosition))
    assert len(rotations) <= len(graph.rings - {STATE})
    assert len(temperatures) == (name == "mistral3")
    n_bytes = sum(table.n_bytes for table in (*rotations, *temperatures))
    assert graph.table_bytes == n_bytes


def tables(graph: Graph, op: type[Op]) -> list[Persistent]:
    """What steps of this kind look up by position, each once."""
    found = [step.arguments for step in graph.program.steps if isinstance(step.op, op)]
    return list(
        {id(table): table for a in found for table in [a.get("table", a.get("y"))]}.values()
    )


def test_latent_attention_groups_its_heads_once() -> None:
    """For all layers; the products of experts, once for each of theirs."""
    tiny, graph = TINY["deepseek2"], Graph(Program(16, 1), n_ctx=64, numerics=INT8)
    load(tiny).record(graph)
    grouped = [step for step in graph.program.steps if isinstance(step.op, GroupByExpert)]
    found = [step.arguments["n_experts"] for step in grouped]
    assert sorted(found) == [N_HEADS] + [N_EXPERTS] * (tiny.n_layers - 1)


def test_scores_grow_with_the_positions_that_are_reached() -> None:
    n_ctx = 2 * POSITIONS + 5
    expected = 1 + 0.5 * np.log(1 + np.arange(n_ctx) // 16)
    table = AttentionTemperature(0.5, every=16).table(n_ctx)
    table.array.place()
    table.reach(1)
    assert table.array.data[:POSITIONS] == pytest.approx(expected[:POSITIONS])
    assert not table.array.data[POSITIONS:].any()
    table.reach(n_ctx)
    assert table.array.data == pytest.approx(expected)


@every_architecture
def test_every_tensor_of_a_file_is_looked_at(name: str) -> None:
    """One that is longer, or wider, than it should be is named."""
    tiny = TINY[name]
    tensors = tiny.tensors()
    for tensor_name, tensor in tensors.items():
        shape = list(tensor.shape)
        shape[tensor_name == "token_embd.weight"] += 1  # whose rows are the vocabulary
        changed = replace(tensor, shape=tuple(shape))
        with pytest.raises(ModelError, match=f"^{re.escape(tensor_name)}:"):
            load_model(tiny.metadata(), tensors | {tensor_name: changed})


@every_architecture
def test_every_number_a_file_gives_is_looked_at(name: str) -> None:
    """Text in its place is an error that names the key."""
    tiny = TINY[name]
    tensors = tiny.tensors()
    for key in tiny.metadata():
        if not key.startswith("general."):
            with pytest.raises(ModelError, match=rf"^{key.replace('.', '[.]')} is"):
                load_model(tiny.metadata() | {key: ["text"]}, tensors)


def test_blocks_that_predict_further_tokens_are_left_out() -> None:
    tiny = TINY["qwen35"]
    more = replace(tiny, n_blocks=5, keys={**tiny.keys, "nextn_predict_layers": 1})
    assert load(more).config.n_layers == 4


def test_a_file_may_say_which_layers_have_a_window(runner: Callable[..., Runner]) -> None:
    """As an array with one number a layer, or as a number of layers of which one has none."""
    tiny = TINY["gemma3"]
    whole = runner(load(tiny)).run(TOKENS)
    for pattern, same in ((np.array([1, 1, 1, 1, 1, 0, 1]), True), (6, True), (2, False)):
        keys = {**tiny.keys, "attention.sliding_window_pattern": pattern}
        logits = runner(load(replace(tiny, keys=keys))).run(TOKENS)
        assert (nmse(logits, whole) <= EXACT) == same


def test_long_contexts_take_other_factors(runner: Callable[..., Runner]) -> None:
    short, long = (
        runner(load(TINY[name])).run(TOKENS) for name in ("phi3 with short contexts", "phi3")
    )
    assert nmse(short, long) > 1e-3


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("lfm2", "attention.head_count_kv", np.array([0, 0, 0])),
        ("lfm2", "attention.head_count_kv", np.array([0, 2])),
        ("lfm2", "attention.head_count_kv", np.array([4, 3, 0])),
        ("lfm2", "attention.key_length", 1026),
        ("lfm2", "shortconv.l_cache", 1),
        ("qwen35", "ssm.group_count", 3),
        ("qwen35", "ssm.inner_size", 63),
        ("qwen35", "ssm.state_size", 1040),
        ("qwen35", "ssm.state_size", 15),
        ("qwen35", "nextn_predict_layers", 4),
        ("qwen3moe", "expert_used_count", 7),
        ("qwen3moe", "expert_used_count", 0),
        ("qwen3moe", "expert_count", 0),
        ("qwen3moe", "expert_count", 5000),
        ("lfm2moe", "expert_gating_func", 3),
        ("mistral3", "rope.scaling.yarn_beta_fast", float("nan")),
        ("mistral3", "rope.scaling.original_context_length", -1),
        ("mistral3", "attention.temperature_scale", -1.0),
        ("gemma2", "attention.sliding_window_pattern", np.array([1, 0, 7])),
        ("gemma4", "attention.head_count_kv", np.array([4, 3, 4, 4, 4, 4])),
        ("gemma4", "rope.dimension_count_swa", 15),
        ("gemma4", "attention.sliding_window_pattern", np.array([1, 0, 0, 1, 1, 0])),
        ("gemma4", "attention.sliding_window_pattern", np.array([1, 0, 1, 1, 1, 0])),
    ],
)
def test_numbers_out_of_range_are_named(name: str, key: str, value: object) -> None:
    tiny = TINY[name]
    changed = tiny.metadata() | {f"{tiny.name}.{key}": value}
    with pytest.raises(ModelError, match=rf"^{tiny.name}[.]{key.replace('.', '[.]')} is"):
        load_model(changed, tiny.tensors())


# ---- how they are written ------------------------------------------------------------------------


def test_an_architecture_is_a_short_file_of_its_name() -> None:
    folder = Path(linnet.models.__path__[0])
    files = [folder / f"{name}.py" for name in ARCHITECTURES]
    assert {*files, folder / "__init__.py"} == set(folder.glob("*.py"))
    lengths = [len(path.read_text().splitlines()) for path in files]
    assert statistics.median(lengths) < 50
    assert max(lengths) < 200


def test_no_shared_file_asks_for_the_architecture() -> None:
    for path in Path(linnet.models.__path__[0]).glob("*.py"):
        for line in path.read_text().splitlines():
            assert not ("if " in line and "architecture ==" in line), path


def load(tiny: TinyArchitecture) -> linnet.models.Model:
    return load_model(tiny.metadata(), tiny.tensors())
