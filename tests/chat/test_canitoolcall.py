"""Recorded answers of nine families of models, read as an independent corpus expects them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from linnet.engine.chat.formats.parts import Format, Part, TextReader, joined, read
from linnet.engine.chat.formats.table import FORMATS, THINK
from linnet.engine.chat.formats.tagged import Tagged

SPEC = find_spec("canitoolcall")
pytestmark = pytest.mark.skipif(SPEC is None, reason="canitoolcall is not installed")
NAMES = {
    "qwen3-hermes": "hermes", "qwen3-xml": "qwen-xml", "gpt-oss": "harmony", "glm": "glm",
    "gemma4": "gemma4", "mistral": "mistral", "deepseek-v3": "deepseek", "deepseek-v31": "deepseek",
    "deepseek": "deepseek-v3.2", "kimi-k3-xtml": "kimi-k3", "kimi": "kimi-k2",
    "llama4-pythonic": "llama4", "llama": "llama3",
}  # fmt: skip
# Control tokens that reasoning spells in letters; token by token they are told apart.
KNOWN = {"gpt-oss/harmony-marker-in-reasoning"}


def cases() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    folder = Path(SPEC.origin).parent / "_data/fixtures" if SPEC and SPEC.origin else Path("none")
    for path in sorted(folder.glob("*/family.json")):
        family = json.loads(path.read_text(encoding="utf-8"))
        for file in sorted(path.parent.glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                yield family, json.loads(line)


def set_up(family: dict[str, Any], case: dict[str, Any]) -> tuple[Format, dict[str, Any]]:
    models = family["reference_models"]
    model = next((m for m in models if m["repo"] == case["models"][0]), models[0])
    name = NAMES.get(model["variant"]) or NAMES[family["slug"]]
    format = FORMATS[name].format
    if isinstance(format, Tagged) and name == "mistral" and "<think>" in case["raw_output"]:
        format = replace(format, reasoning=THINK)  # as the template of such a model has it
    prompt = case.get("generation_prompt") or model["default_generation_prompt"]
    return format, {"prompt": prompt, "tools": case["tools"]}


def same(a: Any, b: Any) -> bool:
    """As JSON, where 1 and 1.0 are one number, and true is none."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def is_expected(case: dict[str, Any], family: dict[str, Any], said: Part) -> bool:
    calls = [[call["function"][key] for key in ("name", "arguments")] for call in said.tool_calls]
    if "expected" not in case:
        accepted = case["expected_error"]["accept"]
        passed = said.content.strip() == case["raw_output"].strip()
        return not calls and ("no_tool_calls" in accepted or passed)
    expected = case["expected"]
    texts = (said.content, expected["content"]), (said.reasoning, expected["reasoning_content"])
    wanted = [[call["name"], call["arguments"]] for call in expected["tool_calls"]]
    leaks = [m for m in family["markers"] if m in said.content and m not in texts[0][1]]
    return all((a or "").strip() == (b or "").strip() for a, b in texts) and (
        same(calls, wanted) and not leaks
    )


CASES = {case["id"]: (family, case) for family, case in cases()}


@pytest.mark.parametrize("id", CASES)
def test_an_answer_is_read_as_expected_whole_and_in_pieces(id: str) -> None:
    family, case = CASES[id]
    format, given = set_up(family, case)
    is_cut, text = "truncated" in case["tags"], case["raw_output"]
    whole = read(format, text, is_cut=is_cut, **given)
    assert is_expected(case, family, whole) == (id not in KNOWN)
    choice = random.Random(0)
    for most in (1, 3, 12, 50):
        reader, parts, rest = TextReader(format, **given), [], text
        while rest:
            n = choice.randint(1, most)
            parts.append(reader.push(rest[:n]))
            rest = rest[n:]
        assert joined([*parts, reader.finish(is_cut=is_cut)]) == whole
