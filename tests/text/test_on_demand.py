"""Encoders of few tokens: when all are taken in, and what is noted of merges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from support import byte_pairs

from linnet.engine.text import bpe, on_demand
from linnet.engine.text.on_demand import Encode, OnDemand
from linnet.engine.text.tokenizer import Tokenizer

IDS = {"a": 0, "b": 1, "ab": 2, "abc": 3, "zz": 4}


class Builds(list[Mapping[str, int]]):
    """Notes with which tokens encoders are made; they give a text's letters."""

    def __call__(self, ids: Mapping[str, int]) -> Encode:
        self.append(dict(ids))
        return lambda text: [ids[letter] for letter in text]


def test_a_short_text_takes_the_tokens_that_are_in_it() -> None:
    builds = Builds()
    encoder = OnDemand(IDS, builds, str)
    assert encoder.encode("ab") == [0, 1]
    assert encoder.encode("") == []
    assert builds == [{"a": 0, "b": 1, "ab": 2}, {}]


@pytest.mark.parametrize("prepared", [False, True])
def test_a_long_text_takes_all_once(prepared: bool) -> None:
    builds = Builds()
    encoder = OnDemand(IDS, builds, str)
    if prepared:
        encoder.prepare()
    long = "ab" * on_demand.PATIENCE
    assert encoder.encode(long) == encoder.encode(long) == [0, 1] * on_demand.PATIENCE
    assert encoder.encode("a") == [0]
    assert builds == [IDS]


def test_many_short_texts_take_all_in_the_end() -> None:
    builds = Builds()
    encoder = OnDemand(IDS, builds, str)
    for _ in range(on_demand.PATIENCE // on_demand.BUILDING + 1):
        assert encoder.encode("ab") == [0, 1]
    assert builds[-1] == IDS


def test_good_merges_are_noted_and_bad_ones_told_of_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINNET_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(bpe, "MANY_MERGES", 1)
    good = byte_pairs.metadata()
    ids = Tokenizer.from_metadata(good).encode("hello world")
    (note,) = tmp_path.iterdir()
    for damage in (None, b"", b"x" * 32, b"x" * 40):
        if damage is not None:
            note.write_bytes(damage)
        assert Tokenizer.from_metadata(good).encode("hello world") == ids
        assert len(note.read_bytes()) == 32
        assert note.read_bytes() != damage
    bad = good | {"tokenizer.ggml.merges": [*byte_pairs.MERGES, "h zz"]}
    for _ in range(2):
        with pytest.warns(UserWarning, match="merges has 'h zz'"):
            assert Tokenizer.from_metadata(bad).encode("hello world") == ids
    assert [*tmp_path.iterdir()] == [note]
