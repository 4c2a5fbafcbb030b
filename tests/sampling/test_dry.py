"""DRY: its sequence breakers, and what it costs to look for repetitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sampler_cases import OFF, TOKENIZER, TOKENS, Run, logits_of
from support.sampler_formulas import expected
from support.tiny_llama import TinyLlama

from linnet import LLM, SamplingParams
from linnet.engine.sampling.candidates import Candidates
from linnet.engine.sampling.chain import Sampler
from linnet.engine.sampling.dry import _repeats, breaker_tails, dry

ON = replace(OFF, dry_multiplier=1.0, dry_base=2.0, dry_allowed_length=2)
ID = {text: i for i, text in enumerate(TOKENS)}
MANY = settings(max_examples=300, deadline=None)


def ids_of(*texts: str) -> list[int]:
    return [ID[text] for text in texts]


def lost(params: SamplingParams, *texts: str) -> dict[str, float]:
    """By how much DRY lowers the logit of each token after these."""
    sampler = Sampler(params, len(TOKENS), prompt=ids_of(*texts), tokenizer=TOKENIZER)
    before = Candidates(np.arange(len(TOKENS)), np.zeros(len(TOKENS), np.float32))
    after = dry(before, params, sampler.history).logits
    return {text: -float(after[i]) for text, i in ID.items() if after[i]}


def test_a_token_that_prolongs_a_repetition_costs_more_the_longer_it_is() -> None:
    assert lost(ON, *"abcdxab") == {"c": 1.0}
    assert lost(ON, *"abcdxabc") == {"d": 2.0}
    assert lost(ON, *"abcdxabcd") == {"x": 4.0}
    assert lost(ON, *"abcdxb") == {}
    assert lost(ON, *"abcyabdyab") == {"c": 1.0, "d": 2.0}
    assert lost(ON, *"xabcyabcyab") == {"c": 16.0}  # of the two places, the longer repetition
    assert lost(replace(ON, dry_allowed_length=1), *"abcdxb") == {"c": 1.0}
    assert lost(ON) == lost(ON, "a") == {}


def test_only_the_last_tokens_are_looked_at() -> None:
    assert lost(replace(ON, dry_penalty_last_n=7), *"abcdxab") == {"c": 1.0}
    assert lost(replace(ON, dry_penalty_last_n=6), *"abcdxab") == {}
    long = "ab" + "c" + "xy" * 100 + "ab"
    assert lost(ON, *long) == {}
    assert lost(replace(ON, dry_penalty_last_n=-1), *long) == {"c": 1.0}


def test_nothing_is_repeated_over_a_breaker() -> None:
    assert lost(ON, *"ab:cyab:c") == {}  # one token since ":", and one may be repeated
    assert lost(ON, *"ab:cdxyab:cdx") == {"y": 2.0}  # of six, three count
    assert lost(replace(ON, dry_sequence_breakers=[]), *"ab:cdxyab:cdx") == {"y": 16.0}
    assert lost(ON, *"cd:xcd") == {}  # a breaker itself may come again
    assert lost(ON, *"cda:", *"xcd") == {"a": 1.0}
    assert lost(ON, "c", "d", "a:", "x", "c", "d") == {}  # and a token that holds one


@pytest.mark.parametrize("base", [1.75, 100.0])
def test_a_penalty_is_never_infinite(base: float) -> None:
    params = replace(OFF, dry_multiplier=100, dry_base=base, dry_penalty_last_n=-1)
    assert Run(params, [0] * 1000).step(logits_of(len(TOKENS)), None).keys() == {
        i for i in range(len(TOKENS)) if i
    }
    alone = replace(params, samplers=["top_k", "dry"], top_k=1)
    logits = np.zeros(len(TOKENS), np.float32)
    assert Run(alone, [0] * 1000).step(logits, None) == {0: 1.0}


@MANY
@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.integers(1, 4),
    st.sampled_from([-1, 1, 2, 5, 12, 64]),
)
def test_repetitions_are_found_as_a_search_of_all_places_finds_them(
    ids: list[int], allowed: int, last_n: int
) -> None:
    params = replace(
        ON, dry_allowed_length=allowed, dry_penalty_last_n=last_n, dry_base=1.1,
        dry_sequence_breakers=[],
    )  # fmt: skip
    logits = logits_of(len(TOKENS))
    found = Run(params, ids).step(logits, None)
    assert found == pytest.approx(expected(params, logits.tolist(), ids), rel=1e-5)


@pytest.mark.parametrize("ids", [[1] * 3000, [1, 2] * 1500, [*[1] * 1500, 2, *[1] * 1499]])
def test_the_search_takes_time_in_proportion_to_the_tokens(ids: list[int]) -> None:
    n_compared = 0

    class Token(int):
        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal n_compared
            n_compared += 1
            return int(self) == int(other)  # type: ignore[call-overload]

    assert len([*_repeats([*map(Token, ids)])]) > 1000
    assert n_compared <= 3 * len(ids)


# ---- sequence breakers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaker", "tails"),
    [
        (":", {":": [()], "a:": [()], ":b": [()], ":Ċ": [()]}),
        ("\n", {"Ċ": [()], "Ċa": [()], ":Ċ": [()]}),
        ("cdx", {"c": ["dx"], "cd": ["x"], "abcd": ["x"], "**c": ["dx"]}),
        ("##", {"##": [()], "#": ["#"], "a#": ["#"]}),
        ("a:b", {"a": [":b"], "a:": ["b"], "Ċa": [":b"]}),
        ("**", {"**": [()], "**c": [()], "*": ["*"], "ab*": ["*"]}),
        ("abab*", {"a": [["b", "ab", "*"]], "ab": [["ab", "*"]], "Ċa": [["b", "ab", "*"]]}),
    ],
)
def test_breakers_are_found_in_tokens_and_across_them(
    breaker: str, tails: dict[str, list[Any]]
) -> None:
    found = breaker_tails([breaker], TOKENIZER)
    assert {text: [*found(i)] for text, i in ID.items() if found(i)} == {
        text: [tuple(ids_of(*tail)) for tail in all_tails] for text, all_tails in tails.items()
    }


def test_the_longest_breaker_counts() -> None:
    found = breaker_tails(["x", "x#", "x##y"], TOKENIZER)
    assert [*found(ID["x"])] == [tuple(ids_of("##", "y")), tuple(ids_of("#")), ()]
    params = replace(ON, dry_allowed_length=1, dry_sequence_breakers=["x", "xab"])
    assert lost(params, *"ccdx", "ab") == {}
    assert lost(params, "ab", "d", "x", "ab") == {}  # nothing is left after "xab"
    assert lost(replace(params, dry_sequence_breakers=["x"]), "ab", "d", "x", "ab") == {"d": 1.0}


def test_a_breaker_of_several_tokens_ends_a_repetition() -> None:
    params = replace(ON, dry_sequence_breakers=["a:b"])
    for written, penalty in ((["a:", "b"], 1.0), (["a", ":", "b"], 1.0), (["a", ":b"], 16.0)):
        texts = [*"cd", *written, *"xy"]  # the last is not how the tokenizer writes it
        assert lost(params, *texts, *"ddd", *texts) == {"d": penalty}


def test_breakers_need_a_tokenizer_that_can_write_them() -> None:
    with pytest.raises(ValueError, match="tokenizer is None; dry_sequence_breakers need that of"):
        Sampler(ON, 5)
    Sampler(replace(ON, dry_sequence_breakers=[]), 5)
    Sampler(replace(ON, dry_multiplier=0), 5)
    with pytest.warns(UserWarning, match="'é' has no tokens"):
        tails = breaker_tails(["aé"], TOKENIZER)
    assert not any(tails(token_id) for token_id in range(TOKENIZER.n_vocab))


def test_a_generation_does_not_repeat_itself(tmp_path: Path) -> None:
    """Of the shortest loops, none is left: a third token of a repetition loses 100."""
    strict = SamplingParams(
        temperature=0, max_tokens=60, ignore_eos=True, dry_multiplier=100, dry_penalty_last_n=-1
    )
    with LLM(TinyLlama(type="Q4_K").write(tmp_path / "tiny.gguf")) as llm:
        free, kept = (
            llm.generate("once upon", params).token_ids
            for params in (replace(strict, dry_multiplier=0), strict)
        )
    triples = [[*zip(ids, ids[1:], ids[2:], strict=False)] for ids in (free, kept)]
    assert len({*triples[0]}) < len(triples[0])
    assert len({*triples[1]}) == len(triples[1])
