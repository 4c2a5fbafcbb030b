"""What an answer gives beside its text, and what ends it: through the API and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted import Say, scripted
from support.tiny_llama import BOS, EOS, N_VOCAB, chat_model

from linnet import LLM, SamplingParams
from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.main import main

TEMPLATE = """
{%- for m in messages %}<s>{{ m.role }}
    {%- if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}
    {%- for call in m.tool_calls or [] %}[{{ call.function.name }}]{% endfor %}: {{ m.content }}
{%- endfor %}<s>assistant: {% if think %}<think>{% endif %}{# </think> <tool_call></tool_call> #}"""
ASKED = [{"role": "user", "content": "hello"}]
ANSWER = (
    '<think>\nwhy\n</think>\n\nyes.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = chat_model(TEMPLATE, n_ctx=512)
    return str(model.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(scope="module")
def llm(path: str) -> Iterator[LLM]:
    with LLM(path) as llm:
        yield llm


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Say:
    return scripted(monkeypatch)


# ---- reasoning, content, tool calls --------------------------------------------------------------


def test_a_chat_tells_the_parts_of_an_answer(llm: LLM, say: Say) -> None:
    ids = say(llm.tokenizer, ANSWER)
    output = llm.chat(ASKED)
    assert (output.text, output.token_ids, output.finish_reason) == (ANSWER, ids, "stop")
    assert (output.reasoning, output.content, output.tool_calls) == ("why", "yes.", [CALL])
    assert output.message == {
        "role": "assistant", "content": "yes.", "reasoning_content": "why", "tool_calls": [CALL],
    }  # fmt: skip
    text = llm.chat_template.render([*ASKED, output.message, *ASKED])
    assert "<s>assistant(why)[f]: yes.<s>user: hello" in text


def test_a_prompt_may_have_begun_the_reasoning(llm: LLM, say: Say) -> None:
    say(llm.tokenizer, "why</think>yes")
    output = llm.chat(ASKED, chat_template_kwargs={"think": True})
    assert (output.reasoning, output.content) == ("why", "yes")
    output = llm.chat(ASKED)
    assert (output.reasoning, output.content) == (None, output.text)


def test_a_stream_has_the_parts_as_they_come(llm: LLM, say: Say) -> None:
    say(llm.tokenizer, "<think>ab</think>cd")
    parts = [chunk.part for chunk in llm.stream_chat(ASKED)]
    assert [part.reasoning for part in parts if part and part.reasoning] == ["a", "b"]
    assert [part.content for part in parts if part and part.content] == ["c", "d"]


def test_what_is_no_chat_is_not_read(llm: LLM, say: Say) -> None:
    say(llm.tokenizer, ANSWER)
    output = llm.generate("hello")
    assert (output.reasoning, output.content, output.tool_calls) == (None, None, [])
    assert output.message == {"role": "assistant", "content": ANSWER}


def test_a_conversation_goes_on_from_the_parts(llm: LLM, say: Say) -> None:
    conversation = Conversation(llm, SamplingParams())
    say(llm.tokenizer, ANSWER)
    assert "".join(chunk.text for chunk in conversation.ask("hello")) == ANSWER
    said = {"content": "yes.", "reasoning_content": "why", "tool_calls": [CALL]}
    assert conversation.messages == [*ASKED, {"role": "assistant", **said}]
    say(llm.tokenizer, "<think>but")
    chunks = conversation.ask("well")
    for chunk in chunks:
        if "u" in chunk.text:
            break
    chunks.close()
    assert conversation.messages[-1]["reasoning_content"] == "bu"


# ---- control tokens, and what ends an answer -----------------------------------------------------


def test_control_tokens_are_shown_on_request(llm: LLM, say: Say) -> None:
    ids = say(llm.tokenizer, "<s>ab<s>")
    assert llm.generate("x").text == "ab"
    output = llm.generate("x", SamplingParams(skip_special=False))
    assert (output.text, output.token_ids) == ("<s>ab<s>", ids)


@pytest.mark.parametrize("skip_special", [True, False])
def test_a_stop_string_may_be_a_control_token(llm: LLM, say: Say, skip_special: bool) -> None:
    say(llm.tokenizer, "ab<s>cd")
    params = SamplingParams(stop=["zz", "<s>"], skip_special=skip_special)
    for output in (llm.generate("x", params), llm.chat(ASKED, params)):
        assert (output.text, output.finish_reason) == ("ab", "stop")


def test_stop_token_ids_end_a_text_as_end_tokens_do(llm: LLM, say: Say) -> None:
    a, b, c = (llm.tokenizer.vocabulary.ids[letter] for letter in "abc")
    say(llm.tokenizer, "abcd")
    output = llm.generate("x", SamplingParams(stop_token_ids=[EOS, c]))
    assert (output.text, output.token_ids, output.finish_reason) == ("ab", [a, b], "stop")
    assert SamplingParams(stop_token_ids=[c]).stop_token_ids == (c,)


@pytest.mark.parametrize("value", [5, "5", [None], [-1], [1.0], [True], ["a"]])
def test_stop_token_ids_are_ids(value: Any) -> None:
    with pytest.raises(ValueError, match=r"stop_token_ids(\[0\])? is .*; it must be "):
        SamplingParams(stop_token_ids=value)


def test_stop_token_ids_are_in_the_vocabulary(llm: LLM) -> None:
    with pytest.raises(ValueError, match=f"stop_token_ids is {N_VOCAB}; it must be 0 to"):
        llm.generate("x", SamplingParams(stop_token_ids=[N_VOCAB]))


# ---- markup in prompts ---------------------------------------------------------------------------


def test_a_prompt_has_one_bos_whoever_wrote_it(llm: LLM) -> None:
    encode = llm.tokenizer.encode
    ids = encode("ab")
    assert ids[0] == BOS
    assert encode("<s>ab", parse_special=True) == ids
    assert encode("<s>", parse_special=True) == [BOS]
    assert encode("<s><s>ab", parse_special=True) == [BOS, *ids]  # who writes two wants two
    assert encode("ab<s>ab", parse_special=True) == [*ids, *ids]
    assert encode("<s>ab", parse_special=True, add_special=False) == ids
    assert encode("<s>ab").count(BOS) == 1  # where that is text
    assert len(encode("<s>ab")) > len(ids)
    n_prompt = llm.generate(
        "<s>ab", SamplingParams(max_tokens=1), parse_special=True
    ).stats.n_prompt
    assert n_prompt == len(ids)
    assert (llm.embed(["<s>ab"], parse_special=True) == llm.embed(["ab"])).all()


def test_commands_read_markup_where_they_are_asked_to(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(command: str, *argv: str) -> str:
        assert main([command, "-m", path, *argv]) == 0
        return capsys.readouterr().out

    ids = json.loads(shown("tokenize", "--ids", "-p", "a</s>b", "--parse-special"))
    assert EOS in ids
    assert (
        json.loads(shown("logits", "-p", "a</s>b", "--parse-special", "-o", "json"))["ids"] == ids
    )
    flags = "-p", "a</s>b", "-n1", "--parse-special", "-o", "json"
    assert json.loads(shown("generate", *flags))["stats"]["n_prompt"] == len(ids)
    file = tmp_path / "text"
    file.write_text("a</s>b" * 9)
    figures = shown("perplexity", "-f", str(file), "-c", "8", "-o", "json", "--parse-special")
    n_tokens = len(json.loads(shown("tokenize", "--ids", "-p", "a</s>b" * 9, "--parse-special")))
    assert json.loads(figures)["n_tokens"] == n_tokens // 8 * 3


@pytest.mark.parametrize(
    "argv",
    [["tokenize", "-p"], ["logits", "-p"], ["generate", "-n1", "-q", "-p"],
     ["generate", "-n1", "--raw"]],
    ids=" ".join,
)  # fmt: skip
def test_commands_say_what_markup_they_take_as_text(path: str, argv: list[str]) -> None:
    name, *flags = argv
    with pytest.warns(UserWarning, match=r"spells '</s>', '<s>', taken as text: --parse-special"):
        assert main([name, "-m", path, *flags, "a</s>b<s></s>"]) == 0


def test_nothing_is_said_of_what_is_no_markup(path: str, recwarn: pytest.WarningsRecorder) -> None:
    for text in ("a<b>", "<|im_end|>", "<unk>"):
        assert main(["tokenize", "-m", path, "-p", text]) == 0
    for flag in ("--parse-special", "--no-parse-special"):
        assert main(["tokenize", "-m", path, "-p", "</s>", flag]) == 0
    assert main(["generate", "-m", path, "-n1", "--chat", "</s>"]) == 0
    assert not recwarn.list


@pytest.mark.parametrize(
    "argv",
    [["generate", "--chat", "x"], ["generate", "-sys", "a", "x"], ["logits", "--ids", "1"]],
    ids=" ".join,
)
def test_what_is_no_prompt_has_no_markup(
    path: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, *flags = argv
    assert main([name, "-m", path, "--parse-special", *flags]) == 2
    assert "--parse-special is for a" in capsys.readouterr().err


def test_commands_show_control_tokens_where_they_are_asked_to(
    path: str, llm: LLM, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    say(llm.tokenizer, "ab<s>cd")
    for flags, text in (([], "abcd"), (["--special"], "ab<s>cd"), (["--stop", "<s>"], "ab")):
        for kind in (["--no-display-prompt"], ["--chat"]):
            assert main(["generate", "-m", path, "-q", "x", *kind, *flags]) == 0
            assert capsys.readouterr().out == text + "\n"


# ---- escapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "field"), [("--stop", "stop"), ("--dry-sequence-breaker", "dry_sequence_breakers")]
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_escapes_are_read_in_every_text(
    path: str, command: str, flag: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def params(_: LLM, **fields: Any) -> SamplingParams:
        given.append([*fields[field]])
        raise ValueError("enough")

    monkeypatch.setattr(LLM, "sampling_params", params)
    prompt = ["x"] if command == "generate" else []
    for escape in ([], ["--no-escape"]):
        main([command, "-m", path, *escape, flag, r"a\n", flag, r"\x41\\", *prompt])
    assert given == [["a\n", "A\\"], [r"a\n", r"\x41\\"]]


@pytest.mark.parametrize("name", ["-sys", "--system-prompt"])
def test_escapes_are_read_in_a_system_prompt(
    path: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for escape, system in (([], "a\tb"), (["--no-escape"], r"a\tb")):
        argv = ["generate", "-m", path, *escape, name, r"a\tb", "-n1", "-o", "json", "x"]
        assert main(argv) == 0
        assert json.loads(capsys.readouterr().out)["messages"][0]["content"] == system


@pytest.mark.parametrize("command", ["tokenize", "logits"])
def test_escapes_are_read_by_what_takes_a_text(
    path: str, llm: LLM, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "text"
    file.write_text(r"a\nb")
    as_json = ["-o", "json"] if command == "logits" else ["--ids"]
    for argv, text in ((["-p", r"a\nb"], "a\nb"), (["--no-escape", "-p", r"a\nb"], r"a\nb"),
                       (["-f", str(file)], r"a\nb")):  # fmt: skip
        assert main([command, "-m", path, *as_json, *argv]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["ids"] if command == "logits" else found) == llm.tokenizer.encode(text)
