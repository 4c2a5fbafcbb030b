"""`/tokenize`, `/detokenize` and `/apply-template`, against the tokenizer and the template."""

from __future__ import annotations

from typing import Any

import pytest
from support.serving import Running

TEXTS = ["def f(x):", "é 🤗 媽", "", "<s> in a text", "\n\n  x"]
MESSAGES = [{"role": "user", "content": "hello <s>"}]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_there_and_back(server: Running, text: str, prefix: str) -> None:
    encode = server.llm.tokenizer.encode
    ids = server.answer(f"{prefix}/tokenize", content=text)["tokens"]
    assert ids == encode(text, add_special=False, parse_special=True)
    assert server.answer(f"{prefix}/detokenize", tokens=ids) == {
        "content": text, "prompt": text,
    }  # fmt: skip
    plain = server.answer("/tokenize", content=text, add_special=True, parse_special=False)
    assert plain["tokens"] == encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_texts_or_bytes(server: Running, text: str) -> None:
    found = server.answer("/tokenize", content=text, with_pieces=True)["tokens"]
    pieces = [item["piece"] for item in found]
    data = [piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces]
    assert b"".join(data) == text.encode()
    ids = server.answer("/tokenize", content=text)["tokens"]
    assert [item["id"] for item in found] == ids
    assert "🤗" not in text or any(isinstance(piece, list) for piece in pieces)


def test_vllm_names_are_known(server: Running) -> None:
    """As lm-eval asks for tokens."""
    encode, text = server.llm.tokenizer.encode, "def f(x):"
    for special in (False, True, None):
        found = server.answer("/tokenize", prompt=text, add_special_tokens=special)
        ids = encode(text, add_special=special is not False)
        assert found == {"tokens": ids, "count": len(ids), "max_model_len": server.llm.n_ctx}
    info = server.get("/tokenizer_info").json()
    assert info == {
        "bos_token": "<s>", "eos_token": "</s>", "chat_template": server.llm.chat_template.source,
    }  # fmt: skip
    assert server.answer("/tokenize", prompt="</s>", add_special_tokens=False)["tokens"] == [
        server.llm.tokenizer.eos_id
    ]


def test_a_list_mixes_texts_and_ids(server: Running) -> None:
    found = server.answer("/tokenize", content=["def", 5, " f"], add_special=True)["tokens"]
    encode = server.llm.tokenizer.encode
    assert found == [*encode("def"), 5, *encode(" f", add_special=False)]


def test_a_template_gives_the_prompt_of_a_chat(server: Running) -> None:
    given: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 1}
    text = server.answer("/apply-template", **given)["prompt"]
    assert text == server.llm.chat_template.render(MESSAGES, enable_thinking=True)
    variables = {"reasoning_effort": "none"}
    text = server.answer("/apply-template", **given, **variables)["prompt"]
    assert text == server.llm.chat_template.render(
        MESSAGES, enable_thinking=False, reasoning_effort="none"
    )
    begun = [*MESSAGES, {"role": "assistant", "content": "so"}]
    text = server.answer("/apply-template", messages=begun, continue_final_message=True)["prompt"]
    assert text == server.llm.chat_template.render(MESSAGES, enable_thinking=True) + "so"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": ["a", "b"]}, "content"),
        ("/tokenize", {"content": "a", "with_pieces": 1}, "with_pieces"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [2048]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": MESSAGES, "continue_final_message": True}, "messages"),
    ],
)
def test_what_is_wrong_is_named(
    server: Running, path: str, body: dict[str, Any], param: str
) -> None:
    assert server.refusal(path, 400, **body)["param"] == param
