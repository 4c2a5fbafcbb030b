"""Blocks of answers, in whatever format the model writes them and however its text is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.engine.chat.formats.parts import Format, Part, Splitter
from linnet.engine.chat.formats.table import CHANNELS, FORMATS
from linnet.engine.running.generation import Chunk
from linnet.engine.server.wire.blocks import BEGUN, ENDED, MORE, Blocks, Step

TAGS: Format = FORMATS["hermes"].format
ANSWERS: list[tuple[Format, str]] = [
    (TAGS, '<think>\na b\n</think>\n\n c <tool_call>{"name": "f", "arguments": ARGUMENTS}\n'
     "</tool_call>\n\n d\n"),
    (TAGS, '<think>a b</think>c<tool_call>\n[{"name":"f","arguments":ARGUMENTS}]</tool_call>d'),
    (CHANNELS, "<|channel|>analysis<|message|>a b<|end|><|start|>assistant<|channel|>final"
     "<|message|>c<|end|><|start|>assistant to=functions.f<|channel|>commentary<|message|>ARGUMENTS"
     "<|call|><|start|>assistant<|channel|>final<|message|>d<|return|>"),
]  # fmt: skip
ARGUMENTS = '{"x": ["}, <tool_call>", 1.50], "y": {"z": "\\u00e9"}}'
KINDS = ["reasoning", "text", "call", "text"]


def chunks(format: Format, answer: str, cuts: list[int], *, held: bool) -> list[Chunk]:
    """An answer cut there, as a generation tells of it; `held`: whether its calls are held to a
    form, and so told in pieces."""
    reader = format.reader("", held=format.begins_calls if held else ())
    splitter = Splitter(format.markers)
    told = []
    for begin, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
        pieces = splitter.push(answer[begin:end])
        parts = [reader.marker(text) if marks else reader.text(text) for text, marks in pieces]
        told += [Chunk("", token_id=1, part=part) for part in parts]
    rest = [reader.text(splitter.finish()), reader.finish(is_cut=False)]
    return [*told, *(Chunk("", part=part) for part in rest), Chunk("", None, "stop", part=Part())]


@pytest.mark.parametrize("held", [False, True], ids=["whole calls", "pieces"])
@pytest.mark.parametrize(("format", "answer"), ANSWERS, ids=["tags", "list", "harmony"])
@given(cuts=st.lists(st.integers(0, 220), max_size=9))
def test_blocks_do_not_depend_on_cuts(
    format: Format, answer: str, held: bool, cuts: list[int]
) -> None:
    blocks = Blocks()
    steps: list[Step] = []
    answer = answer.replace("ARGUMENTS", ARGUMENTS)
    for chunk in chunks(format, answer, sorted(min(cut, len(answer)) for cut in cuts), held=held):
        steps += blocks.push(chunk)
    assert [block.kind for block in blocks.all] == KINDS
    written = ARGUMENTS if held else json.dumps(json.loads(ARGUMENTS), ensure_ascii=False)
    assert [block.text.rstrip() for block in blocks.all] == ["a b", "c", written, "d"]
    assert {block.status for block in blocks.all} == {"completed"}
    for block in blocks.all:
        told = [step for step in steps if step.block is block]
        assert (told[0].what, told[-1].what) == (BEGUN, ENDED)
        assert {step.what for step in told[1:-1]} == {MORE}
        assert "".join(step.text for step in told) == block.text
    order = [step.block.index for step in steps]
    assert order == sorted(order)


@pytest.mark.parametrize(("reason", "status"), [("length", "incomplete"), ("stop", "completed")])
def test_a_limit_cuts_the_last_block_off(reason: str, status: str) -> None:
    blocks = Blocks()
    blocks.push(Chunk("", token_id=1, part=Part(reasoning="a")))
    blocks.push(Chunk("", token_id=2, part=Part(content="b")))
    blocks.push(Chunk("", finish_reason=reason, part=Part(content="c")))
    assert [block.status for block in blocks.all] == ["completed", status]
    assert (blocks.all[1].text, blocks.n_reasoning) == ("bc", 1)
