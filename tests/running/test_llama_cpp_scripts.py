"""Programs as llama-cpp-python's users write them run with one import changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.gguf_builder import STRING
from support.tiny_llama import TinyLlama

from linnet.compat import Llama, LlamaDiskCache, LlamaGrammar

SCRIPTS = sorted((ROOT / "tests/data/llama_cpp_scripts").glob("*.py"))
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call></tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
MESSAGES = [{"role": "user", "content": "to be"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = (("tokenizer.chat_template", STRING, TEMPLATE),)
    tiny = TinyLlama(type="Q4_K", n_ctx=2048, metadata=template)
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llama(path: Path) -> Any:
    with Llama(path, n_ctx=256, n_threads=1, seed=3) as llama:
        yield llama


def test_there_are_scripts_of_many_kinds() -> None:
    assert len(SCRIPTS) >= 10


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_runs_with_one_import_changed(
    script: Path, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script.read_text()
    assert text.count("from llama_cpp import") == text.count("llama_cpp") == 1
    text = text.replace("from llama_cpp import", "from linnet.compat import")
    monkeypatch.setattr(sys, "argv", [script.name, str(path)])
    monkeypatch.setattr("linnet.engine.gguf.hub.fetch", lambda *_, **__: path)
    exec(compile(text, script, "exec"), {"__name__": "__main__"})
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""


# ---- what holds answers, and what is refused -----------------------------------------------------


def test_a_grammar_is_read_from_a_file(llama: Llama, tmp_path: Path) -> None:
    (tmp_path / "is.gbnf").write_text('root ::= "yes" | "no"')
    for grammar in (
        LlamaGrammar.from_file(tmp_path / "is.gbnf"),
        LlamaGrammar.from_json_schema('{"enum": ["yes", "no"]}'),
    ):
        answer = llama("to be", grammar=grammar)["choices"][0]["text"]
        assert answer.strip('"') in ("yes", "no")


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    ],
    ids=lambda given: str(given["type"]),
)
def test_a_format_is_held_to(llama: Llama, given: dict[str, Any]) -> None:
    answer = llama.create_chat_completion(MESSAGES, response_format=given, max_tokens=8)
    assert answer["choices"][0]["message"]["content"].lstrip().startswith("{")
    free = llama.create_chat_completion(MESSAGES, response_format={"type": "text"}, max_tokens=8)
    assert free["choices"] == llama.create_chat_completion(MESSAGES, max_tokens=8)["choices"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grammar": "root ::= x"}, r"grammar is .*; it must be None or a LlamaGrammar"),
        ({"grammar": LlamaGrammar.from_string("root ::= (")}, "grammar"),
        ({"response_format": {"type": "xml"}}, r"response_format is .*; it must be None or such"),
        ({"response_format": {"type": "json_schema"}}, "response_format is"),
        (
            {"response_format": {"type": "json_object"}, "grammar": LlamaGrammar(choice=["a"])},
            "an answer has one shape",
        ),
        ({"tool_choice": {"type": "function"}}, "tool_choice is .*; it must be 'auto'"),
        ({"tool_choice": "required"}, "tool_choice is 'required'.*none are given"),
        ({"tools": TOOLS, "tool_choice": "sub"}, "tool_choice is 'sub'; it must be 'auto'"),
        ({"functions": [{"name": "add"}]}, "functions is .*; it must be None"),
    ],
)
def test_what_is_no_form_is_refused(llama: Llama, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        llama.create_chat_completion(MESSAGES, **options)


def test_a_cache_on_disk_is_not_one() -> None:
    with pytest.warns(UserWarning, match=r"LLM\(prompt_cache=FOLDER\)"):
        LlamaDiskCache()
