"""Models: their logits next to those of others and to a pass written out; what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from support.kernel_harness import Array, nmse, run_python
from support.model_runner import BOTH, F32, INT8, Runner, load_fixture
from support.tiny_architectures import NamedTensor

from linnet.kernels.quants import WEIGHT_TYPES
from linnet.models import ARCHITECTURES, Model, ModelError, load_model
from linnet.models.parts.config import Config
from linnet.models.parts.numerics import Numerics

EXACT = 1e-9  # NMSE of logits with f32 activations


# ---- models of others ----------------------------------------------------------------------------


FILES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_M", "Q6_K"]
FILES += ["Q2_K", "Q3_K_M", "IQ4_NL", "IQ4_XS"]


@pytest.mark.parametrize("name", FILES)
def test_quantised_llamas_give_the_logits_of_their_weights(
    fixtures: Path, runner: Callable[..., Runner], name: str
) -> None:
    """Within rounding with f32 activations; with int8 ones, closer than another engine comes."""
    model, known = load_fixture(fixtures / "quants" / f"llama-{name}.gguf")
    for numerics, limit in ((F32, EXACT), (INT8, known["peer_nmse"])):
        run = runner(model, numerics=numerics)
        for logits in (run.run(known["tokens"]), run.one_by_one(known["tokens"])):
            assert nmse(logits, known["logits"]) <= limit


# ---- models made here ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiny:
    """A Llama of random weights, small and odd."""

    type: str = "F32"
    n_embd: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 16
    n_rot: int = 16
    n_ff: int = 96
    n_vocab: int = 33
    tied: bool = False
    extras: tuple[str, ...] = ()  # "bias", "scale": of every product; "rope_freqs"
    metadata: dict[str, object] = field(default_factory=dict)

    def all_metadata(self) -> dict[str, object]:
        keys: dict[str, object] = {
            "block_count": 2,
            "context_length": 64,
            "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_heads,
            "attention.head_count_kv": self.n_kv_heads,
            "attention.layer_norm_rms_epsilon": 1e-3,
            "rope.freq_base": 500.0,
            **self.metadata,
        }
        if self.head_dim * self.n_heads != self.n_embd:
            keys |= {"attention.key_length": self.head_dim}
        if self.n_rot != self.head_dim:
            keys |= {"rope.dimension_count": self.n_rot}
        return {"general.architecture": "llama"} | {f"llama.{k}": v for k, v in keys.items()}

    def weights(self) -> dict[str, Array]:
        """Every tensor as numbers, before they are packed."""
        rng = np.random.default_rng(3)
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        matrices = {"token_embd": (self.n_vocab, self.n_embd)}
        if not self.tied:
            matrices["output"] = (self.n_vocab, self.n_embd)
        vectors = {"output_norm.weight": self.n_embd}
        for layer in ("blk.0", "blk.1"):
            of_layer = {
                "attn_q": (q, self.n_embd),
                "attn_k": (kv, self.n_embd),
                "attn_v": (kv, self.n_embd),
                "attn_output": (self.n_embd, q),
                "ffn_gate": (self.n_ff, self.n_embd),
                "ffn_up": (self.n_ff, self.n_embd),
                "ffn_down": (self.n_embd, self.n_ff),
            }
            matrices |= {f"{layer}.{name}": shape for name, shape in of_layer.items()}
            vectors |= {f"{layer}.{name}.weight": self.n_embd for name in ("attn_norm", "ffn_norm")}
            for name, (n_out, _) in of_layer.items():
                lengths = {"bias": n_out, "scale": 1}
                vectors |= {
                    f"{layer}.{name}.{e}": n for e, n in lengths.items() if e in self.extras
                }
        if "rope_freqs" in self.extras:
            vectors["rope_freqs.weight"] = self.n_rot // 2
        weights = {
            f"{name}.weight": rng.standard_normal(shape) / math.sqrt(shape[1])
            for name, shape in matrices.items()
        }
        weights |= {name: rng.uniform(0.5, 2, length) for name, length in vectors.items()}
        return {name: weight.astype(np.float32) for name, weight in weights.items()}

    def tensors(self) -> dict[str, NamedTensor]:
        tensors = {}
        for name, weight in self.weights().items():
            type = WEIGHT_TYPES[self.type if weight.ndim == 2 else "F32"]
            data = type.quantize(np.atleast_2d(weight)).reshape(-1)
            tensors[name] = NamedTensor(type, weight.shape, data)
        return tensors

    def load(self) -> Model:
        return load_model(self.all_metadata(), self.tensors())


def forward(tiny: Tiny, tokens: Sequence[int]) -> Array:
    """The logits (n_tokens, n_vocab), written out in float64 for one token after the other."""
    m = {key.removeprefix("llama."): value for key, value in tiny.all_metadata().items()}
    w = {
        name: tensor.type.dequantize(tensor.data).astype(np.float64).reshape(tensor.shape)
        for name, tensor in tiny.tensors().items()
    }
    group, head_dim = tiny.n_heads // tiny.n_kv_heads, tiny.head_dim

    def product(name: str, x: Array) -> Array:
        y, bias = w[f"{name}.weight"] @ x, w.get(f"{name}.bias", 0)
        scale = w.get(f"{name}.scale", 1)
        return (y + bias) * scale if "ffn" in name else y * scale + bias

    def norm(name: str, x: Array) -> Array:
        mean = sum(number * number for number in x) / len(x)
        return x / math.sqrt(mean + m["attention.layer_norm_rms_epsilon"]) * w[f"{name}.weight"]

    def rotate(heads: Array, position: int) -> Array:
        heads = heads.copy()
        factors = w.get("rope_freqs.weight", np.ones(tiny.n_rot // 2))
        for i in range(tiny.n_rot // 2):
            turn = position * m["rope.freq_base"] ** (-2 * i / tiny.n_rot) / factors[i]
            turn /= m.get("rope.scaling.factor") or 1
            pairs = heads[:, 2 * i] + 1j * heads[:, 2 * i + 1]
            pairs = pairs * np.exp(1j * turn)
            heads[:, 2 * i], heads[:, 2 * i + 1] = pairs.real, pairs.imag
        return heads

    past: dict[str, list[tuple[Array, Array]]] = {"blk.0": [], "blk.1": []}

    def attention(layer: str, x: Array, position: int) -> Array:
        q, k, v = (product(f"{layer}.attn_{n}", x).reshape(-1, head_dim) for n in "qkv")
        past[layer].append((rotate(k, position), v))
        heads = []
        for h, query in enumerate(rotate(q, position)):
            scores = [query @ keys[h // group] / math.sqrt(head_dim) for keys, _ in past[layer]]
            weights = np.exp(np.array(scores) - max(scores))
            values = [values[h // group] for _, values in past[layer]]
            heads.append(weights / weights.sum() @ np.array(values))
        return product(f"{layer}.attn_output", np.concatenate(heads))

    def feed_forward(layer: str, x: Array) -> Array:
        gate, up = product(f"{layer}.ffn_gate", x), product(f"{layer}.ffn_up", x)
        return product(f"{layer}.ffn_down", gate / (1 + np.exp(-gate)) * up)

    logits = []
    for position, token in enumerate(tokens):
        x = w["token_embd.weight"][token]
        for layer in ("blk.0", "blk.1"):
            x = x + attention(layer, norm(f"{layer}.attn_norm", x), position)
            x = x + feed_forward(layer, norm(f"{layer}.ffn_norm", x))
        logits.append(product("token_embd" if tiny.tied else "output", norm("output_norm", x)))
    return np.array(logits)


TOKENS = [int(token) for token in np.random.default_rng(4).integers(0, 33, 20)]
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}

TINY = {
    "grouped heads": Tiny(),
    "a key head for each": Tiny(n_kv_heads=4),
    "tied output": Tiny(tied=True),
    "biases": Tiny(extras=("bias",)),
    "scales": Tiny(extras=("scale",)),
    "all extras": Tiny(extras=("bias", "scale", "rope_freqs")),
    "rope factors": Tiny(extras=("rope_freqs",)),
    "partial rotation": Tiny(n_rot=10),
    "linear positions": Tiny(metadata=LINEAR),
    "scaling that is none": Tiny(metadata=LINEAR | {"rope.scaling.type": "none"}),
    "wide heads, odd widths": Tiny(n_embd=52, n_heads=6, n_kv_heads=3, n_ff=77),
    "F16": Tiny(type="F16"),
    "Q8_0": Tiny(type="Q8_0"),
    "Q5_1": Tiny(type="Q5_1", extras=("bias", "scale")),
    "Q4_K": Tiny(
        type="Q4_K", n_embd=256, n_ff=512, n_heads=8, n_kv_heads=4, head_dim=32, tied=True
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_llama_is_the_forward_pass_written_out(name: str, runner: Callable[..., Runner]) -> None:
    tiny = TINY[name]
    if tiny.metadata.get("rope.scaling.type") == "none":
        truth = forward(replace(tiny, metadata={}), TOKENS)
    else:
        truth = forward(tiny, TOKENS)
    run = runner(tiny.load())
    assert nmse(run.run(TOKENS), truth) <= EXACT
    assert nmse(run.one_by_one(TOKENS), truth) <= EXACT
    assert nmse(run.reference(TOKENS), truth) <= EXACT


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q5_1", "Q4_K"])
def test_int8_activations_come_close(name: str, runner: Callable[..., Runner]) -> None:
    """As close as their rounding lets them, and that is how the reference rounds."""
    tiny = TINY[name]
    truth = forward(tiny, TOKENS)
    run = runner(tiny.load(), numerics=INT8)
    reference = run.reference(TOKENS)
    for logits in (run.run(TOKENS), run.one_by_one(TOKENS)):
        assert nmse(logits, truth) <= 2e-3
        assert nmse(logits, reference) <= 2e-4


# ---- the same bits -------------------------------------------------------------------------------


@BOTH
def test_logits_are_the_same_for_any_number_of_threads(
    runner: Callable[..., Runner], numerics: Numerics
) -> None:
    model = TINY["Q4_K"].load()
    results = set()
    for n_threads in (1, 2, 3, 7):
        run = runner(model, numerics=numerics, n_threads=n_threads)
        prompt = run.run(TOKENS)
        generated = run.one_by_one(TOKENS[:6], start=20)
        results.add((prompt.tobytes(), generated.tobytes()))
    assert len(results) == 1


@BOTH
def test_a_prompt_may_be_read_in_parts(runner: Callable[..., Runner], numerics: Numerics) -> None:
    run = runner(TINY["Q8_0"].load(), numerics=numerics)
    whole = run.run(TOKENS)
    run = runner(TINY["Q8_0"].load(), numerics=numerics)
    parts = [run.run(TOKENS[a:b], range(a, b)) for a, b in ((0, 7), (7, 8), (8, 20))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@BOTH
def test_a_sequence_is_the_same_in_any_company(
    runner: Callable[..., Runner], numerics: Numerics
) -> None:
    """Two sequences in one pass, each in a slot of its own, and each alone."""
    model = TINY["Q8_0"].load()
    prompts = TOKENS[:11], TOKENS[11:]
    alone = []
    for prompt in prompts:
        run = runner(model, numerics=numerics)
        alone.append((run.run(prompt), run.one_by_one(TOKENS[:5], start=len(prompt))))

    run = runner(model, numerics=numerics, n_slots=3)
    places = [(slot, position) for slot in (0, 1) for position in range(len(prompts[slot]))]
    order = np.random.default_rng(5).permutation(len(places))
    order = order[np.argsort([places[i][1] for i in order], kind="stable")]  # the past comes first
    slots, positions = (np.array(places)[order, i] for i in (0, 1))
    tokens = [prompts[slot][position] for slot, position in zip(slots, positions, strict=True)]
    together = run.run(tokens, positions, slots + 1)
    for slot, (prompt_logits, _) in enumerate(alone):
        assert together[slots == slot].tobytes() == prompt_logits.tobytes()
    for i, token in enumerate(TOKENS[:5]):
        places_now = [len(prompt) + i for prompt in prompts]
        both = run.run([token, token], places_now, [1, 2], few_rows=True)
        for row, (_, generated) in zip(both, alone, strict=True):
            assert row.tobytes() == generated[i].tobytes()


# ---- what is refused -----------------------------------------------------------------------------


def test_a_models_config_is_read_from_its_metadata() -> None:
    config = Tiny(n_embd=52, n_heads=6, n_kv_heads=3, n_rot=10, metadata=LINEAR).load().config
    assert config == Config(
        architecture="llama",
        n_layers=2,
        n_embd=52,
        n_ff=96,
        n_heads=6,
        n_kv_heads=3,
        head_dim=16,
        n_rot=10,
        n_ctx_train=64,
        n_vocab=33,
        norm_eps=1e-3,
        rope_theta=500.0,
        pooling="none",
    )


def test_a_key_may_be_missing_where_there_is_a_usual_value() -> None:
    metadata = Tiny(n_kv_heads=4).all_metadata()
    for key in ("attention.head_count_kv", "rope.freq_base"):
        del metadata[f"llama.{key}"]
    config = load_model(metadata, Tiny(n_kv_heads=4).tensors()).config
    assert (config.n_kv_heads, config.rope_theta) == (4, 10000.0)


MISSING = object()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0),
        ("block_count", 2**32 - 1),
        ("block_count", 1025),
        ("block_count", MISSING),
        ("block_count", 2.0),
        ("block_count", True),
        ("block_count", "2"),
        ("context_length", 0),
        ("context_length", 2**32),
        ("context_length", MISSING),
        ("embedding_length", 0),
        ("embedding_length", 2**20 + 4),
        ("embedding_length", 66),
        ("embedding_length", MISSING),
        ("feed_forward_length", 0),
        ("feed_forward_length", -1),
        ("feed_forward_length", np.array([96])),
        ("feed_forward_length", np.array([96, -1])),
        ("attention.head_count", 0),
        ("attention.head_count", -4),
        ("attention.head_count", 1028),
        ("attention.head_count", np.array([4])),
        ("attention.head_count", np.array([0, 0])),
        ("attention.head_count", MISSING),
        ("attention.head_count_kv", 0),
        ("attention.head_count_kv", 3),
        ("attention.head_count_kv", 8),
        ("attention.head_count_kv", np.array([2])),
        ("attention.head_count_kv", np.array([2, 3])),
        ("attention.head_count_kv", np.array([0, 0])),
        ("attention.head_count_kv", np.array([2.0, 2.0])),
        ("attention.key_length", 0),
        ("attention.value_length", 8),
        ("attention.layer_norm_rms_epsilon", -1e-5),
        ("attention.layer_norm_rms_epsilon", math.nan),
        ("attention.layer_norm_rms_epsilon", math.inf),
        ("attention.layer_norm_rms_epsilon", "small"),
        ("attention.layer_norm_rms_epsilon", True),
        ("attention.layer_norm_rms_epsilon", MISSING),
        ("rope.freq_base", -1.0),
        ("rope.freq_base", 0.0),
        ("rope.freq_base", math.nan),
        ("rope.freq_base", math.inf),
        ("rope.freq_base", 1e30),
        ("rope.dimension_count", 0),
        ("rope.dimension_count", 7),
        ("rope.dimension_count", 18),
        ("rope.scaling.type", "spiral"),
        ("rope.scaling.type", 1),
        ("rope.scaling.factor", -2.0),
        ("rope.scaling.factor", math.nan),
        ("rope.scale_linear", -4.0),
        ("rope.scaling.yarn_ext_factor", 1.0),
        ("attention.causal", False),
        ("attention.causal", 1),
        ("pooling_type", 5),
        ("pooling_type", -2),
        ("pooling_type", np.array([1, 2])),
        ("vocab_size", 2**32),
    ],
)
def test_a_hyper_parameter_out_of_range_is_an_error_that_names_it(key: str, value: object) -> None:
    metadata = Tiny().all_metadata() | {f"llama.{key}": value}
    if value is MISSING:
        del metadata[f"llama.{key}"]
    with pytest.raises(ModelError) as caught:
        load_model(metadata, Tiny().tensors())
    assert str(caught.value).startswith(f"llama.{key} is ")


@pytest.mark.parametrize(
    "value",
    [MISSING, "abacus", 3, b"llama", "x" * 1000, "parts", "parts.config", "../llama", ".llama",
     "__init__", "", "llama\x00", "numpy", "Llama"],
)  # fmt: skip
def test_an_unknown_architecture_is_an_error_that_says_what_there_is(value: object) -> None:
    metadata = Tiny().all_metadata() | {"general.architecture": value}
    if value is MISSING:
        del metadata["general.architecture"]
    with pytest.raises(ModelError, match=r"^general\.architecture is .*; known: .*llama") as caught:
        load_model(metadata, Tiny().tensors())
    assert len(str(caught.value)) < 200 + len(", ".join(ARCHITECTURES))


def test_an_architecture_is_imported_when_it_is_asked_for() -> None:
    """And none but those that it is made of."""
    code = (
        "import sys; from linnet.models import architecture; before = set(sys.modules);"
        "print(architecture('granitemoe').__name__, *(set(sys.modules) - before))"
        "; print(*before)"
    )
    asked, before = (set(line.split()) for line in run_python("-c", code).stdout.splitlines())
    own = {f"linnet.models.{name}" for name in ARCHITECTURES}
    assert not before & own
    assert "llvmlite" not in before
    assert "GraniteMoe" in asked
    assert asked & own == {"linnet.models.granite", "linnet.models.granitemoe"}


@pytest.mark.parametrize(
    "name",
    [
        "token_embd.weight",
        "output_norm.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
        "blk.1.attn_k.weight",
        "blk.1.attn_v.weight",
        "blk.1.attn_output.weight",
        "blk.1.ffn_norm.weight",
        "blk.1.ffn_gate.weight",
        "blk.1.ffn_up.weight",
        "blk.1.ffn_down.weight",
    ],
)
def test_a_missing_tensor_is_named(name: str) -> None:
    tensors = Tiny().tensors()
    del tensors[name]
    with pytest.raises(ModelError, match=f"^{name} is missing"):
        load_model(Tiny().all_metadata(), tensors)


def test_more_blocks_than_tensors_are_found_at_the_first_that_is_missing() -> None:
    metadata = Tiny().all_metadata() | {"llama.block_count": 1024}
    with pytest.raises(ModelError, match=r"^blk\.2\.\w+\.weight is missing"):
        load_model(metadata, Tiny().tensors())


EXTRAS = Tiny(extras=("bias", "scale", "rope_freqs"))


@pytest.mark.parametrize("name", EXTRAS.tensors())
def test_a_tensor_of_the_wrong_shape_is_named(name: str) -> None:
    tensors = EXTRAS.tensors()
    for shape in (*((size + 1,) for size in tensors[name].shape[:1]), (4, 4, 4), ()):
        changed = replace(tensors[name], shape=shape)
        with pytest.raises(ModelError, match=f"^{name}: .*{shape[0] if shape else ''}"):
            load_model(EXTRAS.all_metadata(), tensors | {name: changed})


@pytest.mark.parametrize("name", EXTRAS.tensors())
def test_a_tensor_of_the_wrong_type_is_named(name: str) -> None:
    """Vectors are F32; matrices are of a type that there are kernels for."""

    @dataclass(frozen=True)
    class Unknown:
        name: str = "Q0_X"

    tensors = EXTRAS.tensors()
    is_matrix = len(tensors[name].shape) == 2
    changed = replace(tensors[name], type=Unknown() if is_matrix else WEIGHT_TYPES["F16"])
    with pytest.raises(ModelError, match=f"^{name}: .*{changed.type.name}"):
        load_model(EXTRAS.all_metadata(), tensors | {name: changed})


def test_transposed_weights_are_refused() -> None:
    tensors = Tiny().tensors()
    for name in ("blk.0.attn_k.weight", "blk.1.ffn_down.weight"):
        changed = replace(tensors[name], shape=tensors[name].shape[::-1])
        with pytest.raises(ModelError, match=f"^{name}: shape"):
            load_model(Tiny().all_metadata(), tensors | {name: changed})
