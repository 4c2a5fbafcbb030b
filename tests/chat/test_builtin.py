"""Chat templates by name: as llama.cpp writes them, and what ends an answer by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from support import ROOT
from support.tiny_llama import TinyLlama

from linnet import LLM
from linnet.engine.chat.builtin import TEMPLATES
from linnet.engine.chat.template import ChatTemplate, TemplateError

# What llama.cpp's llama_chat_apply_template gives for each name, of October 2026.
EXPECTED = json.loads((ROOT / "tests" / "data" / "builtin_templates.json").read_text())
ALIASES = {"mistral": "mistral-v3"}
CONVERSATIONS = [
    [{"role": role, "content": content} for role, content in each]
    for each in EXPECTED["conversations"]
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_what_llama_cpp_has_by_its_name(name: str) -> None:
    template = ImmutableSandboxedEnvironment().from_string(TEMPLATES[name].source)
    texts = EXPECTED["texts"][ALIASES.get(name, name)]
    for messages, text in zip(CONVERSATIONS, texts, strict=True):
        asks = messages[-1]["role"] == "user"
        assert template.render(messages=messages, add_generation_prompt=asks) == text


def test_an_answer_ends_where_its_turn_does(tmp_path: Path) -> None:
    """Also where the model has no token for it, and writes it out."""
    path = TinyLlama().write(tmp_path / "bare.gguf")
    message = [{"role": "user", "content": "hello"}]
    with LLM(path, chat_template="chatml") as llm:
        text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
        assert llm.chat_template.render(message) == text
        assert llm.chat_template.end == "<|im_end|>"
        expected = llm.chat(message, temperature=0, max_tokens=20, ignore_eos=True).text
        llm.chat_template.end = expected[7:9]
        cut = llm.chat(message, temperature=0, max_tokens=20, ignore_eos=True, stop="never")
        assert cut.text == expected[: expected.index(expected[7:9])]
        assert cut.finish_reason == "stop"


def test_what_ends_an_answer_is_never_empty() -> None:
    assert all(turns.end for turns in TEMPLATES.values())


def test_what_is_no_template_is_refused_with_those_there_are(tmp_path: Path) -> None:
    path = TinyLlama().write(tmp_path / "bare.gguf")
    with LLM(path) as llm:
        with pytest.raises(TemplateError, match=r"base model.*--chat-template.*chatml.*gemma"):
            llm.chat_template.render([])
        for name in ("chatlm", "llama-3"):
            with pytest.raises(TemplateError, match=r"it must be one of chatml, .*Jinja"):
                ChatTemplate.given(name, llm.tokenizer)
        assert ChatTemplate.given("{{ 1 }}", llm.tokenizer).render([]) == "1"
