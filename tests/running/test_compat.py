"""llama-cpp-python's class: its names and shapes over this engine's bits, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_builder import BOOL, FLOAT32, STRING
from support.scripted import Say, scripted
from support.tiny_llama import BOS, EOS, N_VOCAB, TinyLlama

import linnet.compat
from linnet import LLM, ContextOverflow, SamplingParams
from linnet.compat import Llama, LlamaState
from linnet.engine.open_model import DEMO_MODEL

PROMPT = "once upon a time"
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call></tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
MESSAGES = [{"role": "user", "content": PROMPT}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
METADATA = (
    ("tokenizer.chat_template", STRING, TEMPLATE),
    ("general.name", STRING, "tiny"),
    ("general.quantized", BOOL, True),
    ("general.sampling.temp", FLOAT32, 0.25),
)
say = pytest.fixture(scripted)

# What llama-cpp-python 0.3.36 returns: keys, and the types or values of what they hold.
NUMBERS = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}


def _answer(kind: str, choice: dict[str, Any], **more: Any) -> dict[str, Any]:
    head = {"id": str, "object": kind, "created": int, "model": str}
    return {**head, "choices": [{"index": 0, "logprobs": None, **choice}], **more}


def _chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return _answer("chat.completion.chunk", {"delta": delta, "finish_reason": reason})


def _text(text: Any, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return _answer("text_completion", {"text": text, "finish_reason": reason}, **more)


def _shaped(found: Any, shape: Any) -> bool:
    """Whether a result has all the keys of a shape and no others, and those types or values."""
    if isinstance(shape, type):
        return type(found) is shape
    if isinstance(shape, dict):
        same = found.keys() == shape.keys()
        return same and all(_shaped(found[key], shape[key]) for key in shape)
    if isinstance(shape, list):
        return len(found) == len(shape) and all(map(_shaped, found, shape))
    return bool(found == shape)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = TinyLlama(type="Q4_K", metadata=METADATA)
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llama(path: Path) -> Iterator[Llama]:
    with Llama(path, n_ctx=256, n_threads=1, seed=3, embedding=True, verbose=False) as llama:
        yield llama


# ---- text ----------------------------------------------------------------------------------------


def test_a_completion_is_what_generate_gives(llama: Llama) -> None:
    params = SamplingParams(temperature=0, max_tokens=16)
    expected = llama.llm.generate(PROMPT, params, parse_special=True)
    for answer in (llama(PROMPT, temperature=0), llama.create_completion(PROMPT, None, 16, 0)):
        usage = answer["usage"]
        assert _shaped(answer, _text(expected.text, expected.finish_reason, usage=NUMBERS))
        assert answer["id"].startswith("cmpl-")
        assert answer["model"] == llama.model_path
        assert usage["prompt_tokens"] == expected.stats.n_prompt
        assert usage["completion_tokens"] == expected.stats.n_generated
    assert llama(PROMPT, temperature=0, model="mine")["model"] == "mine"


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_ends_in_its_reason(llama: Llama, echo: bool) -> None:
    whole = llama(PROMPT, temperature=0, echo=echo)["choices"][0]
    *chunks, last = llama(PROMPT, temperature=0, echo=echo, stream=True)
    assert all(_shaped(chunk, _text(str)) for chunk in chunks)
    assert _shaped(last, _text("", whole["finish_reason"]))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    assert whole["text"].startswith(PROMPT) == echo
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1


def test_echoed_ids_are_text(llama: Llama) -> None:
    ids = llama.tokenize(PROMPT.encode())
    assert llama(ids, echo=True, max_tokens=1)["choices"][0]["text"].startswith(PROMPT)


@pytest.mark.parametrize("limit", [None, 0, -1])
def test_no_limit_is_the_context(llama: Llama, limit: int | None) -> None:
    eos = {EOS: -1000.0}
    answer = llama(PROMPT, max_tokens=limit, temperature=0, logit_bias=eos)
    assert answer["usage"]["total_tokens"] == llama.n_ctx() + 1
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.filterwarnings("ignore:n_ctx")
def test_a_chat_has_no_limit_unless_one_is_given(path: Path) -> None:
    with Llama(path, n_ctx=560) as llama:
        answer = llama.create_chat_completion(MESSAGES, temperature=0, logit_bias={EOS: -1000.0})
        assert answer["usage"]["total_tokens"] == 561


def test_seeds_are_those_of_the_call_or_of_the_model(llama: Llama) -> None:
    def text(**options: Any) -> str:
        return str(llama(PROMPT, temperature=5, **options)["choices"][0]["text"])

    assert text() == text() == text(seed=3)
    assert text(seed=4) != text()
    llama.set_seed(4)
    try:
        assert text() == text(seed=4)
        assert text(seed=3) != text()
    finally:
        llama.set_seed(3)


def test_arguments_mean_what_they_do_there(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    begin = LLM.generation
    monkeypatch.setattr(
        LLM, "generation", lambda llm, ids, params: given.append(params) or begin(llm, ids, params)
    )
    common = {"max_tokens": 2, "seed": 3}
    llama(PROMPT, max_tokens=2, stop=None, logit_bias=None, logprobs=None, grammar=None)
    llama(
        PROMPT, max_tokens=2, typical_p=0.5, mirostat_mode=2, top_k=-1, stop="x", tfs_z=0.5,
        logit_bias={"7": 1}, repeat_penalty=1.5,
    )  # fmt: skip
    llama.create_chat_completion(MESSAGES, max_tokens=2, seed=-1, response_format={"type": "text"})
    assert given == [
        SamplingParams(**common),
        SamplingParams(
            **common, typ_p=0.5, mirostat=2, top_k=0, stop="x", logit_bias={7: 1},
            repeat_penalty=1.5,
        ),
        SamplingParams(max_tokens=2, temperature=0.2),
    ]  # fmt: skip


@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_are_those_of_generate(llama: Llama, echo: bool) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=2, prompt_logprobs=2)
    expected = llama.llm.generate(PROMPT, params)
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logprobs": 2, "echo": echo}
    whole = llama(PROMPT, **options)["choices"][0]
    n = len(expected.token_ids) + (expected.stats.n_prompt if echo else 0)
    told = whole["logprobs"]
    assert {name: len(column) for name, column in told.items()} == dict.fromkeys(COLUMNS, n)
    assert expected.logprobs
    alone = [each.logprob for each in expected.logprobs]
    assert told["token_logprobs"][-len(alone) :] == alone
    assert told["text_offset"][-len(alone)] == len(PROMPT)
    assert (told["token_logprobs"][0] is None) == echo
    chunks = [each["choices"][0] for each in llama(PROMPT, stream=True, **options)]
    tables = [each["logprobs"] for each in chunks if each["logprobs"]]
    assert {name: [*chain(*(t[name] for t in tables))] for name in COLUMNS} == told
    assert "".join(each["text"] for each in chunks) == whole["text"]
    answer = llama.create_chat_completion(MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2)
    for entry in (content := answer["choices"][0]["logprobs"]["content"]):
        assert _shaped(entry, TOKEN | {"top_logprobs": [TOKEN, TOKEN]})
    assert len(content) == answer["usage"]["completion_tokens"]


COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
TOKEN = {"id": int, "token": str, "bytes": list, "logprob": float}


def test_processors_are_given_arrays(llama: Llama) -> None:
    def only_seven(ids: Any, logits: Any) -> Any:
        assert ids.dtype == np.intc
        logits[:] = -np.inf
        logits[7] = len(ids)
        return logits

    answer = llama(PROMPT, max_tokens=3, logits_processor=[only_seven])
    assert llama.save_state().input_ids[-3:].tolist() == [7, 7, 7]
    assert answer["usage"]["completion_tokens"] == 3


# ---- conversations -------------------------------------------------------------------------------


def test_a_chat_is_what_chat_gives(llama: Llama) -> None:
    expected = llama.llm.chat(MESSAGES, temperature=0, max_tokens=8)
    answer = llama.create_chat_completion(MESSAGES, temperature=0, max_tokens=8)
    message = {"role": "assistant", "content": expected.text}
    choice = {"message": message, "finish_reason": expected.finish_reason}
    assert _shaped(answer, _answer("chat.completion", choice, usage=NUMBERS))
    assert answer["id"].startswith("chatcmpl-")
    stream = llama.create_chat_completion(MESSAGES, temperature=0, max_tokens=8, stream=True)
    first, *chunks, last = stream
    assert _shaped(first, _chunk({"role": "assistant"}))
    assert all(_shaped(chunk, _chunk({"content": str})) for chunk in chunks)
    assert _shaped(last, _chunk({}, expected.finish_reason))
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == expected.text


def test_with_tools_calls_are_read(llama: Llama, say: Say) -> None:
    say(llama.llm.tokenizer, f"so {CALL}")
    function = {"name": "add", "arguments": '{"a": 1}'}
    call = {"id": str, "type": "function", "function": function}
    message = {"role": "assistant", "content": str, "tool_calls": [call]}
    answer = llama.create_chat_completion(MESSAGES, tools=TOOLS)
    choice = {"message": message, "finish_reason": "tool_calls"}
    assert _shaped(answer, _answer("chat.completion", choice, usage=NUMBERS))
    stream = [*llama.create_chat_completion(MESSAGES, tools=TOOLS, stream=True)]
    deltas = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in stream]
    assert _shaped([calls for calls in deltas if calls], [
        [{"index": 0, **call, "function": {"name": "add", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a": 1}'}}],
    ])  # fmt: skip
    assert stream[-1]["choices"][0]["finish_reason"] == "tool_calls"
    for tools, choice_of in ((TOOLS, "none"), (None, "auto"), (None, None)):
        answer = llama.create_chat_completion(MESSAGES, tools=tools, tool_choice=choice_of)
        content = answer["choices"][0]["message"]["content"]
        assert content.strip() == f"so {CALL}"  # the text as it was written


# ---- tokens, vectors, state ----------------------------------------------------------------------


def test_tokens_are_those_of_the_tokenizer(llama: Llama) -> None:
    tokenizer = llama.llm.tokenizer
    assert llama.tokenize(b"to be") == tokenizer.encode("to be")
    assert llama.tokenize(b"to be", add_bos=False) == tokenizer.encode("to be", add_special=False)
    assert llama.tokenize(b"</s>", False, True) == [EOS]
    assert EOS not in llama.tokenize(b"</s>", add_bos=False)
    ids = llama.tokenize("é to".encode())
    assert ids[0] == BOS
    assert llama.detokenize(ids) == "é to".encode()
    assert llama.detokenize(ids[1:]) == " é to".encode()
    assert llama.detokenize(ids, special=True) == "<s> é to".encode()
    assert llama.detokenize([]) == b""
    assert (llama.token_bos(), llama.token_eos()) == (BOS, EOS)
    assert (llama.n_ctx(), llama.n_vocab(), llama.n_embd()) == (256, N_VOCAB, 256)
    with pytest.raises(ValueError, match="text is 'to'; it must be bytes"):
        llama.tokenize("to")  # type: ignore[arg-type]


def test_vectors_are_lists(llama: Llama, path: Path) -> None:
    texts = ["to be", "an é"]
    vectors, n_tokens = llama.embed(texts, return_count=True)
    expected = llama.llm.embed(texts, normalize=False)
    assert np.array_equal(np.array(vectors, np.float32), expected)
    assert llama.embed(texts[0]) == vectors[0]
    assert np.linalg.norm(llama.embed(texts[0], normalize=True)) == pytest.approx(1)
    number = [{"object": "embedding", "embedding": vectors[i], "index": i} for i in range(2)]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    shape = {"object": "list", "data": number, "model": str, "usage": usage}
    assert _shaped(llama.create_embedding(texts), shape)
    assert _shaped(llama.create_embedding("to be")["data"], number[:1])
    long = "to " * 300
    assert len(llama.embed(long)) == 256  # cut, as there
    with pytest.raises(ContextOverflow):
        llama.embed(long, truncate=False)
    with (
        Llama(path, n_ctx=64) as other,
        pytest.raises(RuntimeError, match="give Llama embedding=True"),
    ):
        other.embed("to be")


def test_a_state_is_the_tokens_so_far(llama: Llama) -> None:
    answer = llama(PROMPT, temperature=0)
    state = llama.save_state()
    assert isinstance(state, LlamaState)
    assert state.n_tokens == llama.n_tokens == answer["usage"]["total_tokens"]
    llama.reset()
    assert llama.n_tokens == 0
    llama.load_state(state)
    assert llama.n_tokens == state.n_tokens
    ids = [*state.input_ids.tolist(), *llama.tokenize(b" and", add_bos=False)]
    on = llama(ids, temperature=0)
    assert on["choices"] == llama(ids, temperature=0)["choices"]
    stream = llama(PROMPT, temperature=0, stream=True)
    next(stream)
    assert 0 < llama.n_tokens < state.n_tokens
    stream.close()


def test_metadata_is_text(llama: Llama) -> None:
    assert llama.metadata["general.name"] == "tiny"
    assert llama.metadata["general.quantized"] == "true"
    assert llama.metadata["general.sampling.temp"] == "0.250000"
    assert llama.metadata["llama.block_count"] == "2"
    assert "tokenizer.ggml.tokens" not in llama.metadata


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_what_changes_nothing_is_taken(path: Path) -> None:
    options = {
        "n_gpu_layers": -1, "flash_attn": True, "use_mlock": True, "logits_all": True,
        "rope_freq_base": 0.0, "lora_path": None, "chat_format": None, "type_k": 1, "n_ubatch": 64,
    }  # fmt: skip
    with Llama(path, n_ctx=0, verbose=False, n_batch=1 << 20, n_threads=0, **options) as llama:
        assert llama.n_ctx() == 256  # that it was trained on


@pytest.mark.parametrize(
    ("options", "warning"),
    [({"chat_format": "llama-2"}, "chat template all the same")],
)
def test_what_is_otherwise_is_a_warning(
    path: Path, options: dict[str, Any], warning: str
) -> None:  # fmt: skip
    with pytest.warns(UserWarning, match=warning), Llama(path, n_ctx=64, **options):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_path": "x"}, "lora_path is 'x'; it must be None: linnet has no such"),
        ({"rope_freq_base": 1e6}, "rope_freq_base is 1000000.0; it must be 0.0"),
        ({"pooling_type": 0}, r"pooling_type is 0; it must be one of \[-1, 1, 2, 3\]"),
        ({"type_k": 2}, r"type_k is 2; it must be None or one of 0 \(f32\), 1 \(f16\), 8 \(q8_0\)"),
        ({"n_ctx": -1}, "n_ctx is -1"),
    ],
)
def test_what_would_change_results_is_refused(
    path: Path, options: dict[str, Any], message: str
) -> None:  # fmt: skip
    with pytest.raises(ValueError, match=message):
        Llama(path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suffix": "end"}, "suffix is 'end'; it must be None"),
        ({"logprobs": 21}, "logprobs is 21; it must be"),
        ({"grammar": "root ::= x"}, "grammar is"),
        ({"mirostat_mode": 1}, "mirostat is 1"),
        ({"temperature": -1}, "temperature is -1"),
        ({"max_tokens": "many"}, "max_tokens is 'many'"),
    ],
)
def test_calls_refuse_what_there_is_not(
    llama: Llama, options: dict[str, Any], message: str
) -> None:  # fmt: skip
    for stream in (False, True):
        with pytest.raises(ValueError, match=message):
            llama(PROMPT, stream=stream, **options)


def test_what_nobody_knows_is_a_type_error(llama: Llama, path: Path) -> None:
    with pytest.raises(TypeError, match=r"'n_gpu_layer' is no argument .* mean n_gpu_layers"):
        Llama(path, n_gpu_layer=1)
    with pytest.raises(TypeError, match=r"'repeat_penality' is no .* mean repeat_penalty"):
        llama(PROMPT, repeat_penality=1.1)
    with pytest.raises(ContextOverflow):
        llama([BOS] * 257)


def test_the_module_needs_no_extra() -> None:
    assert linnet.compat.Llama is Llama


# ---- beside llama-cpp-python ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Llama, Any]]:
    """Ours and theirs, of the model that linnet ships."""
    llama_cpp = pytest.importorskip("llama_cpp")
    options: dict[str, Any] = {"n_ctx": 256, "seed": 3, "embedding": True, "verbose": False}
    theirs = llama_cpp.Llama(str(DEMO_MODEL), logits_all=True, **options)
    with Llama(DEMO_MODEL, **options) as ours:
        yield ours, theirs
    theirs.close()


def test_theirs_says_the_same(both: tuple[Llama, Any]) -> None:
    ours, theirs = both
    assert ours.metadata == theirs.metadata
    for name in ("n_ctx", "n_vocab", "n_embd", "token_bos", "token_eos"):
        assert getattr(ours, name)() == getattr(theirs, name)()
    for text in (b"def f(x):\n", " é</s><s>".encode(), b""):
        for flags in ((True, False), (False, False), (False, True), (True, True)):
            ids = ours.tokenize(text, *flags)
            assert ids == theirs.tokenize(text, *flags)
            for special in (False, True):
                data = theirs.detokenize(ids, special=special)
                assert ours.detokenize(ids, special=special) == data


def test_theirs_has_the_same_shapes(both: tuple[Llama, Any]) -> None:
    def results(llama: Any) -> list[Any]:
        stream = [*llama("def f(", max_tokens=4, temperature=0, stream=True)]
        return [
            llama("def f(", max_tokens=4, temperature=0, echo=True),
            stream[0], stream[-1], llama.create_embedding(["def", "x"]),
            llama("def f(", max_tokens=4, temperature=0, logprobs=1),
        ]  # fmt: skip

    ours, theirs = (results(each) for each in both)
    assert _types(ours) == _types(theirs)


def _types(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _types(value) for key, value in found.items()}
    if isinstance(found, list):
        return list(map(_types, found[:2]))
    return type(found)
