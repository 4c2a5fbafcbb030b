"""Constraints: what tokens may come next, and how they meet masks, reasoning and samplers."""

from __future__ import annotations

import random
import sys
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_schemas import odd_schema
from support.whole_vocabulary import logits_with_blocks

from linnet.engine.sampling.candidates import NonFiniteLogits
from linnet.engine.sampling.chain import Sampler
from linnet.engine.sampling.constraint import Constraint, ConstraintError, Constraints
from linnet.engine.sampling.mask import Mask
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.sampling.reasoning import Budgeted, Reasoned
from linnet.kernels.compiler.jit import Library

END = 256
WORDS = ("name", '": "', '"}', '{"', "yes", "no", "aa", "<think>", "</think>", ", ")


class Letters:
    """A tokenizer of single bytes, some words, and one end token, or none."""

    vocabulary = SimpleNamespace(shown=frozenset())

    def __init__(self, *, ends: bool = True) -> None:
        self._bytes = [bytes([i]) for i in range(256)] + [b"<end>"] + [w.encode() for w in WORDS]
        self.n_vocab, self.eog_ids = len(self._bytes), frozenset({END} if ends else ())

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def is_hidden(self, token_id: int) -> bool:
        return token_id == END

    def encode_continuation(self, text: str) -> list[int]:
        data, ids = text.encode(), list[int]()
        while data:
            ids.append(max(self._found(data), key=lambda i: len(self._bytes[i])))
            data = data[len(self._bytes[ids[-1]]) :]
        return ids

    def _found(self, data: bytes) -> list[int]:
        return [i for i, each in enumerate(self._bytes) if data.startswith(each) and i != END]

    def encode(self, text: str, **_: Any) -> list[int]:
        return self.encode_continuation(text)

    def decode(self, ids: list[int]) -> str:
        return b"".join(self._bytes[i] for i in ids).decode(errors="replace")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Letters()


@pytest.fixture
def constraints(tokenizer: Any, best_library: Library) -> Constraints:
    return Constraints(tokenizer, best_library)


def allowed(rule: Any, n_vocab: int) -> list[int]:
    rule.fill()
    return [i for i in range(n_vocab) if rule.mask.words[i // 32] >> np.uint32(i % 32) & 1]


def follows(rule: Any, ids: list[int], n_vocab: int) -> bool:
    """Whether these may come, one after another."""
    for token_id in ids:
        if token_id not in allowed(rule, n_vocab):
            return False
        rule.accept(token_id)
    return True


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", [1, 31, 32, 33, 256, 257, 1000])
def test_a_mask_leaves_the_logits_of_tokens_that_are_allowed(
    best_library: Library, n_vocab: int
) -> None:
    mask, rng = Mask(best_library, n_vocab), np.random.default_rng(n_vocab)
    values = rng.standard_normal(n_vocab).astype(np.float32)
    for ids in ([], [n_vocab - 1], [0], [*range(0, n_vocab, 3)], [*range(n_vocab)]):
        for is_inverted in (False, True):
            (mask.allow_all_but if is_inverted else mask.allow_only)(ids)
            is_in = np.isin(np.arange(n_vocab), ids) ^ is_inverted
            expected = np.where(is_in, values, np.float32(-np.inf))
            assert np.array_equal(mask.of(values), expected)
            logits = mask.apply(logits_with_blocks(values))
            assert np.array_equal(logits.values, expected)
            assert logits.blocks.highest == expected.max()
            if is_in.any():
                assert logits.log_sum_exp() == pytest.approx(np.log(np.exp(expected).sum()))
    mask.allow_only([])
    mask.allow([n_vocab - 1])
    assert np.flatnonzero(mask.of(values) > -np.inf).tolist() == [n_vocab - 1]


@pytest.mark.parametrize("n_vocab", [300, 20_000])
def test_a_constraint_draws_the_same_from_a_pass_as_from_an_array(
    best_library: Library, n_vocab: int
) -> None:
    mask = Mask(best_library, n_vocab)

    class Rule:
        is_free, is_over = False, False

        def fill(self) -> None:
            pass

    rule: Any = Rule()
    rule.mask = mask
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = (rng.standard_normal(n_vocab) * rng.choice([0.5, 3])).astype(np.float32)
        n = int(rng.choice([1, 2, 30, n_vocab // 2, n_vocab]))
        mask.allow_only(rng.choice(n_vocab, n, replace=False).tolist())
        params = SamplingParams(
            seed=seed, temperature=float(rng.choice([0, 1])), top_k=int(rng.choice([0, 1, 40])),
            top_p=float(rng.choice([1, 0.9])), min_p=float(rng.choice([0, 0.05])),
            typ_p=float(rng.choice([1, 0.9])), xtc_probability=float(rng.choice([0, 0.5])),
            dynatemp_range=float(rng.choice([0, 0.5])),
        )  # fmt: skip
        drawn = [
            Sampler(params, n_vocab, constraint=rule).sample(logits)
            for logits in (values, logits_with_blocks(values))
        ]
        assert drawn[0] == drawn[1]
        assert mask.of(values)[drawn[0]] > -np.inf


def test_what_leaves_no_token_says_so(constraints: Constraints, tokenizer: Any) -> None:
    n, values = tokenizer.n_vocab, np.zeros(tokenizer.n_vocab, np.float32)
    ruled_out = SamplingParams(choice=["a", "b"], logit_bias={97: -np.inf, 98: -np.inf})

    def nothing(ids: list[int], logits: Any) -> Any:
        logits[97:99] = -np.inf
        return logits

    processed = SamplingParams(choice=["a", "b"], logits_processors=[nothing])
    ended = SamplingParams(regex="()", ignore_eos=True)
    early = SamplingParams(regex="()", min_tokens=1)
    for params in (ruled_out, processed, ended, early):
        for logits in (values, logits_with_blocks(values)):
            sampler = Sampler(params, n, eog_ids={END}, constraint=constraints.of(params))
            with pytest.raises(NonFiniteLogits, match=r"all are -inf, by logit_bias.*the answer's"):
                sampler.sample(logits)


# ---- grammars ------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.text(min_size=1))
@settings(max_examples=50)
def test_a_choice_is_any_text(one: str, other: str) -> None:
    tokenizer: Any = Letters()
    made = Constraints(tokenizer, Library.__new__(Library))
    made.__dict__["_mask"] = _Words(tokenizer.n_vocab)
    choice = [text.encode(errors="replace").decode() for text in (one, other)]
    for text in choice:
        rule: Any = made.of(SamplingParams(choice=choice))
        assert follows(rule, tokenizer.encode(text), tokenizer.n_vocab)
        assert rule.is_over or END in allowed(rule, tokenizer.n_vocab)


class _Words:
    def __init__(self, n_vocab: int) -> None:
        self.words = np.zeros(n_vocab // 32 + 1, np.uint32)


SHAPES: list[dict[str, Any]] = [
    {"choice": ["yes", "no", "no way"]},
    {"regex": "a{2,4}|[0-9]+\\."},
    {"regex": "yes"},
    {"grammar": 'root ::= "(" root ")" | [a-c]'},
    {"grammar": 'start: item ("," item)*\nitem: /[a-z]{1,3}/'},
    {"json_schema": {"type": "object", "properties": {"name": {"enum": ["a", "aa"]}},
                     "required": ["name"], "additionalProperties": False}},
    {"json_schema": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_is_over_where_only_an_end_can_follow(
    best_library: Library, shape: dict[str, Any], ends: bool
) -> None:
    """And forced tokens are allowed ones, whether or not they were looked at."""
    tokenizer: Any = Letters(ends=ends)
    made, n = Constraints(tokenizer, best_library), tokenizer.n_vocab
    for seed in range(30):
        rng, rule, other = random.Random(seed), *(made.of(SamplingParams(**shape)) for _ in "12")
        assert isinstance(rule, Constraint)
        assert isinstance(other, Constraint)
        for _ in range(40):
            forced = rule.forced()
            may = allowed(rule, n)
            assert may == allowed(other, n)
            assert not (forced and forced[0] not in may)
            if rule.is_over:
                assert set(may) <= tokenizer.eog_ids
                break
            assert set(may) - tokenizer.eog_ids
            token_id = rng.choice(may)
            if token_id == END:
                break
            rule.accept(token_id)
            other.accept(token_id)


@pytest.mark.parametrize("seed", range(20))
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_reason(
    constraints: Constraints, seed: int
) -> None:
    with pytest.raises(ConstraintError, match=r"\w"):
        constraints.of(SamplingParams(json_schema=odd_schema(Random(seed))))


DEEP: dict[str, Any] = {}
for _ in range(2000):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"json_schema": False}, "allows nothing"),
        ({"json_schema": {"not": {}}}, "not"),
        ({"json_schema": DEEP}, "nested too deeply"),
        ({"json_schema": {"const": Random}}, "not JSON serializable"),
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "(?=a)"}, "look-around"),
        ({"grammar": 'start: "a" | other'}, "other"),
        ({"grammar": "root ::= other"}, "other"),
        ({"grammar": 'root ::= "a'}, "."),
    ],
)
def test_what_is_wrong_is_told(
    constraints: Constraints, shape: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConstraintError, match=reason) as caught:
        constraints.of(SamplingParams(**shape))
    assert "<state>" not in str(caught.value)


def test_a_token_that_may_not_come_is_an_error(constraints: Constraints) -> None:
    rule: Any = constraints.of(SamplingParams(choice=["yes"]))
    with pytest.raises(ConstraintError, match=r"\w"):
        rule.accept(ord("n"))


def test_any_json_and_any_object(constraints: Constraints, tokenizer: Any) -> None:
    for schema, text, expected in (
        (True, "[1,2]", True), ({}, "[1,2]", False), ({}, '{"a":[1]}', True),
    ):  # fmt: skip
        rule = constraints.of(SamplingParams(json_schema=schema))
        assert follows(rule, tokenizer.encode(text), tokenizer.n_vocab) == expected


A, B = {"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "integer"}}}
REFERRED = {"$defs": {"A": A, "B": B}}
LIKE_A, LIKE_B = {"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}


@pytest.mark.parametrize(
    ("schema", "text", "is_allowed"),
    [
        (A, '{"a":1}', True), (A, '{"b":1}', False), ({"items": A}, '[{"b":1}]', False),
        (A | {"additionalProperties": True}, '{"b":1}', True),
        (A | {"required": ["b"]}, '{"b":1}', True),
        (A | {"required": ["a"], "minProperties": 2}, '{"a":1,"b":1}', True),
        ({"anyOf": [A, B]}, '{"b":1}', True), ({"anyOf": [A, B]}, '{"a":1,"b":1}', False),
        ({"allOf": [A, B]}, '{"a":1,"b":1}', True), ({"allOf": [A]}, '{"b":1}', False),
        (A | {"anyOf": [B, {}]}, '{"a":1,"b":1}', True),
        (REFERRED | LIKE_A, '{"a":1}', True), (REFERRED | LIKE_A, '{"b":1}', False),
        (REFERRED | {"allOf": [LIKE_A, LIKE_B]}, '{"a":1,"b":1}', True),
        (REFERRED | {"items": {"allOf": [LIKE_A, LIKE_B]}}, '[{"a":1,"b":1}]', True),
        ({"items": {"allOf": [{"items": {"$ref": "#"}}, {}]}} | A, '{"b":1}', True),
        ({"const": {"properties": {}}}, '{"properties":{}}', True), (A, "5", False),
        ({"items": {}}, "5", False), ({"items": {}, "type": "integer"}, "5", True),
    ],
    ids=str,
)  # fmt: skip
def test_objects_are_objects_with_the_properties_that_are_listed(
    constraints: Constraints, tokenizer: Any, schema: Any, text: str, is_allowed: bool
) -> None:
    rule = constraints.of(SamplingParams(json_schema=schema))
    assert follows(rule, tokenizer.encode(text), tokenizer.n_vocab) == is_allowed


def test_white_space_is_bounded(constraints: Constraints, tokenizer: Any) -> None:
    for text, expected in (
        ('{ "a":1}', True), ('{\n  "a": 1\n}', True), ("{\n\n", False), ("{ " + " " * 20, False),
    ):  # fmt: skip
        rule = constraints.of(SamplingParams(json_schema={}))
        assert follows(rule, [*text.encode()], tokenizer.n_vocab) == expected


def test_the_vocabulary_is_read_once(best_library: Library) -> None:
    counts = list[int]()

    class Counted(Letters):
        def token_bytes(self, token_id: int) -> bytes:
            counts.append(token_id)
            return super().token_bytes(token_id)

    tokenizer: Any = Counted()
    made = Constraints(tokenizer, best_library)
    assert not counts
    rules = [made.of(SamplingParams(regex="a+")) for _ in range(3)]
    assert len(counts) == tokenizer.n_vocab
    assert len({id(rule.mask) for rule in rules if rule}) == 1
    assert made.of(SamplingParams()) is None


def test_what_is_prepared_is_not_waited_for(best_library: Library) -> None:
    tokenizer: Any = Letters()
    made = Constraints(tokenizer, best_library)
    made.prepare()
    tokenizer.token_bytes = None  # is asked no more
    assert made.of(SamplingParams(regex="a"))


def test_what_shares_a_grammar_has_places_of_its_own(
    constraints: Constraints, tokenizer: Any
) -> None:
    one, other = (constraints.of(SamplingParams(choice=["yes", "no"])) for _ in range(2))
    assert follows(one, tokenizer.encode("yes"), tokenizer.n_vocab)
    assert follows(other, tokenizer.encode("no"), tokenizer.n_vocab)


def test_what_to_install_is_told(constraints: Constraints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "linnet-llm\[structured\]"'):
        constraints.of(SamplingParams(regex="a"))


# ---- reasoning -----------------------------------------------------------------------------------


class Tags:
    """Follows an answer whose reasoning stands between <think> and </think>."""

    def __init__(self, tokenizer: Any, *, begun: bool) -> None:
        self._tokenizer, self._text = tokenizer, b"<think>" * begun

    @property
    def reasons(self) -> bool:
        return self._text.rfind(b"<think>") > self._text.rfind(b"</think>")

    def push(self, token_id: int) -> None:
        self._text += self._tokenizer.token_bytes(token_id)


def reasoned(constraints: Constraints, tokenizer: Any, *, begun: bool, **more: Any) -> Any:
    answer: Any = constraints.of(SamplingParams(choice=["yes", "no"]))
    (opening,) = tokenizer.encode("<think>")
    watch = Tags(tokenizer, begun=begun)
    return Reasoned(answer, watch, opens=opening, kept_out=tokenizer.eog_ids, **more)


def budgeted(
    constraints: Constraints, tokenizer: Any, budget: int, *, free: bool, begun: bool = True
) -> Any:
    rule = None if free else reasoned(constraints, tokenizer, begun=begun)
    rest = None if free else constraints.of(SamplingParams(choice=["yes", "no"]))
    watch, closes = Tags(tokenizer, begun=begun), tokenizer.encode("</think>")
    return Budgeted(rule, rest, constraints.mask, watch, closes=closes, budget=budget)


@pytest.mark.parametrize("tag", ["</think>", "as bytes"])
def test_what_is_constrained_begins_where_the_reasoning_ends(
    constraints: Constraints, tokenizer: Any, tag: str
) -> None:
    n, rule = tokenizer.n_vocab, reasoned(constraints, tokenizer, begun=True)
    assert not rule.is_free
    assert allowed(rule, n) == [i for i in range(n) if i != END]  # or there would be no answer
    assert not rule.forced()
    closing = [*b"</think>"] if tag == "as bytes" else tokenizer.encode(tag)
    assert follows(rule, [*b"yes, as </", *closing], n)
    assert not rule.is_over
    assert ord("a") not in allowed(rule, n)
    assert follows(rule, tokenizer.encode("yes"), n)
    assert rule.is_over


def test_an_answer_may_begin_with_reasoning_or_without(
    constraints: Constraints, tokenizer: Any
) -> None:
    n = tokenizer.n_vocab
    (opening,) = tokenizer.encode("<think>")
    rule = reasoned(constraints, tokenizer, begun=False)
    assert opening in allowed(rule, n)
    assert ord("a") not in allowed(rule, n)
    assert follows(rule, tokenizer.encode("no"), n)
    assert rule.is_over
    rule = reasoned(constraints, tokenizer, begun=False)
    assert follows(rule, [opening, *b"abc", *tokenizer.encode("</think>no")], n)
    assert rule.is_over


def test_what_begins_the_answer_may_end_the_reasoning(
    constraints: Constraints, tokenizer: Any
) -> None:
    class Until(Tags):
        reasons = True

        def push(self, token_id: int) -> None:
            self.reasons = token_id != ord("y")

    answer: Any = constraints.of(SamplingParams(choice=["yes"]))
    rule = Reasoned(answer, Until(tokenizer, begun=True), begins={ord("y")})
    assert follows(rule, [*b"and, ", *b"yes"], tokenizer.n_vocab)
    assert rule.is_over


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_reasoning_is_closed_after_its_budget(
    constraints: Constraints, tokenizer: Any, free: bool, budget: int
) -> None:
    n = tokenizer.n_vocab
    rule = budgeted(constraints, tokenizer, budget, free=free)
    for _ in range(budget):
        assert rule.is_free == free
        rule.accept(ord("a"))
    closing = tokenizer.encode("</think>")
    assert not rule.is_free
    assert rule.forced() == closing
    assert allowed(rule, n) == closing
    rule.accept(closing[0])
    assert rule.is_free == free
    assert not rule.is_over


def test_a_budget_is_that_of_all_reasoning_however_often_it_is_opened(
    constraints: Constraints, tokenizer: Any
) -> None:
    opening, closing = map(tokenizer.encode, ("<think>", "</think>"))
    rule = budgeted(constraints, tokenizer, 3, free=True, begun=False)
    ids = [*b"so: ", *opening, *b"a", *closing, *b"then ", *b"<think>", *b"b"]
    for token_id in ids:
        assert rule.is_free
        rule.accept(token_id)
    for _ in range(3):
        assert allowed(rule, tokenizer.n_vocab) == closing
        rule.accept(closing[0])
        assert rule.is_free
        rule.accept(opening[0])
