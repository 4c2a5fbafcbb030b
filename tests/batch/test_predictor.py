"""Tables in, the same tables with answers out: those that LLM gives, whatever holds the rows."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.scripted import fail_amid, scripted
from support.serving import TEMPLATE

from linnet import LLM
from linnet.batch import Predictor
from linnet.engine.batch import predictor

TOO_LONG = "x" * 40_000
PROMPTS = ["def add(a, b):", "class Stack:", "", TOO_LONG, "import"]
TALKS = [
    [{"role": "user", "content": "hello"}],
    [{"role": "wizard"}, 3],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "def f(x):"}],
]
FEW = {"max_tokens": 6, "temperature": 0}
SMALL = {"n_threads": 1, "n_ctx": 512}
KINDS = ["lists", "arrays", "pandas", "arrow", "arrow batch"]
COLUMNS = ["text", "finish_reason", "n_prompt", "n_generated", "error"]
Make = Callable[..., Predictor]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes predictors, whose models are closed when the test is over."""
    made: list[Predictor] = []

    def make(*arguments: Any, **options: Any) -> Predictor:
        made.append(Predictor(*arguments, **SMALL, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert not predictor._MODELS


def table(kind: str, values: list[Any], name: str = "prompt") -> Any:
    """A batch of two columns; skips where the package is not there."""
    columns: dict[str, list[Any]] = {"id": [*range(len(values))], name: values}
    if kind == "lists":
        return columns
    if kind == "arrays":
        cells = np.empty(len(values), object)
        cells[:] = values
        return {"id": np.arange(len(values)), name: cells}
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(columns)
    arrow = pytest.importorskip("pyarrow")
    made = arrow.table(columns)
    return made if kind == "arrow" else made.to_batches()[0]


def columns_of(batch: Any) -> dict[str, list[Any]]:
    """As lists; None for what a package calls its own nothing."""
    if hasattr(batch, "to_pydict"):
        return dict(batch.to_pydict())
    cells = {str(name): [*batch[name]] for name in batch}
    return {name: [None if v is not v or str(v) == "<NA>" else v for v in column]
            for name, column in cells.items()}  # fmt: skip


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(chat_template=TEMPLATE, **SMALL) as llm:
        yield llm


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_any_table_are_answered_as_llm_answers_them(
    kind: str, make: Make, llm: LLM
) -> None:
    batch = table(kind, PROMPTS)
    answered = make(**FEW)(batch)
    assert type(answered) is type(batch)
    columns = columns_of(answered)
    assert [*columns] == ["id", "prompt", *COLUMNS]
    assert columns["id"] == [0, 1, 2, 3, 4]
    for index, expected in enumerate(llm.generate(PROMPTS, return_exceptions=True, **FEW)):
        found = [columns[name][index] for name in COLUMNS]
        if isinstance(expected, Exception):
            error = f"{type(expected).__name__}: {expected}"
            assert found == [None, None, 0, 0, error]
        else:
            n = expected.stats.n_prompt, expected.stats.n_generated
            assert found == [expected.text, expected.finish_reason, *n, None]
    assert [error is None for error in columns["error"]] == [True, True, True, False, True]


@pytest.mark.parametrize("kind", ["lists", "arrays", "pandas"])
def test_conversations_are_answered_by_the_template_a_wrong_one_by_its_error(
    kind: str, make: Make, llm: LLM
) -> None:
    answered = make(messages="talk", output="said", chat_template=TEMPLATE, **FEW)(
        table(kind, TALKS, "talk")
    )
    columns = columns_of(answered)
    assert [*columns][2:] == ["said", *COLUMNS[1:], "reasoning", "tool_calls"]
    for index in (0, 2):
        expected = llm.chat(TALKS[index], **FEW)
        assert columns["said"][index] == expected.content
        assert columns["n_prompt"][index] == expected.stats.n_prompt
        assert columns["error"][index] is None
    assert columns["said"][1] is None
    assert "messages" in columns["error"][1]


def test_messages_that_an_engine_keeps_in_structs_and_arrays_are_read(make: Make, llm: LLM) -> None:
    arrow = pytest.importorskip("pyarrow")
    batch = arrow.table({"messages": [TALKS[0], TALKS[2]]})
    predict = make(messages="messages", chat_template=TEMPLATE, **FEW)
    expected = [llm.chat(talk, **FEW).content for talk in (TALKS[0], TALKS[2])]
    assert predict(batch)["text"].to_pylist() == expected
    pytest.importorskip("pandas")
    assert [*predict(batch.to_pandas())["text"]] == expected


def test_reasoning_and_calls_have_columns_of_their_own(
    make: Make, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = '<tool_call>{"name": "temperature", "arguments": {"city": "Bergen"}}</tool_call>'
    scripted(monkeypatch)(llm.tokenizer, f"<think>well</think>so{call}")
    tool = {"type": "function", "function": {"name": "temperature"}}
    predict = make(messages="messages", chat_template=TEMPLATE, tools=[tool])
    answered = predict({"messages": [TALKS[0]]})
    assert (answered["text"], answered["reasoning"]) == (["so"], ["well"])
    (found,) = json.loads(answered["tool_calls"][0])
    assert found["function"] == {"name": "temperature", "arguments": {"city": "Bergen"}}


def test_token_ids_are_prompts_too(make: Make, llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPTS[0])
    answered = make(**FEW)({"prompt": np.array([ids, ids])})
    assert [*answered["text"]] == [llm.generate(PROMPTS[0], **FEW).text] * 2


def test_an_error_amid_an_answer_is_that_rows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_amid(monkeypatch)
    answered = make(**FEW)({"prompt": [[5, 6, 7], [5, 6, 7, 8]]})
    assert answered["error"] == ["MemoryError: none left", None]


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_batch_without_rows_has_the_columns_and_opens_no_model(kind: str) -> None:
    predict = Predictor("nowhere.gguf")
    columns = columns_of(predict(table(kind, [])))
    assert columns == {name: [] for name in ["id", "prompt", *COLUMNS]}


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
def test_types_of_columns_do_not_depend_on_what_is_in_them(kind: str, make: Make) -> None:
    predict = make(**FEW)
    schemas = []
    for values in (["def"], [TOO_LONG], ["def", TOO_LONG]):
        answered = predict(table(kind, values))
        schemas.append(str(answered.dtypes if kind == "pandas" else answered.schema))
    assert len({*schemas}) == 1


def test_a_predictor_is_pickled_without_its_model_and_copies_share_it(make: Make) -> None:
    predict = make(**FEW)
    before = len(pickle.dumps(predict))
    expected = predict({"prompt": PROMPTS[:2]})
    assert len(pickle.dumps(predict)) == before < 1000
    copy = pickle.loads(pickle.dumps(predict))
    assert copy({"prompt": PROMPTS[:2]}) == expected
    assert len(predictor._MODELS) == 1
    make(seed=1)({"prompt": ["import"]})  # of the same model, another way to ask
    assert len(predictor._MODELS) == 1


def test_threads_that_call_one_predictor_open_one_model(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[LLM] = []

    def opening(*arguments: Any, **options: Any) -> LLM:
        opened.append(LLM(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(predictor, "LLM", opening)
    predict = make(**FEW)
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(predict, [{"prompt": PROMPTS[:2]}] * 8)]
    assert len(opened) == 1
    assert all(each == answers[0] for each in answers)


def test_another_process_has_a_model_of_its_own(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = make(**FEW)
    predict({"prompt": ["import"]})
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        predict({"prompt": ["import"]})
        assert len(predictor._MODELS) == 2
        predict.close()
    assert len(predictor._MODELS) == 1


def test_a_model_that_was_closed_is_opened_again(make: Make) -> None:
    predict = make(**FEW)
    batch = {"prompt": ["import"]}
    expected = predict(batch)
    predict.close()
    predict.close()
    assert predict(batch) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": "a", "messages": "b"}, ValueError, "prompt is 'a', and messages 'b'"),
        ({"temprature": 0}, TypeError, "no option 'temprature'"),
        ({"logprobs": 2}, TypeError, "no option 'logprobs'"),
        ({"tools": []}, TypeError, "no option 'tools'"),
        ({"top_p": 2}, ValueError, "top_p is 2"),
    ],
)
def test_wrong_options_are_told_before_a_model_is_opened(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Predictor("nowhere.gguf", **options)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"id": [1]}, ValueError, "no column 'prompt'; it has: id"),
        ({"prompt": ["a"], "error": [1]}, ValueError, "a column 'error' already"),
        (["a"], TypeError, "the batch is a list"),
        ({"prompt": ["a"]}, FileNotFoundError, "nowhere.gguf"),
    ],
)
def test_wrong_batches_are_refused(batch: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Predictor("nowhere.gguf")(batch)


def test_a_file_without_a_template_is_no_rows_fault(make: Make) -> None:
    with pytest.raises(ValueError, match="chat_template is missing"):
        make(messages="messages")({"messages": TALKS})


def test_options_of_the_three_do_not_share_a_name() -> None:
    """A name that two of them had would be given to one without a word."""
    kinds = [predictor.OPENING, predictor.SAMPLING]
    own = {"model", "prompt", "messages", "output"}
    for others in (predictor.OF_CHATS, predictor.OF_PROMPTS):
        names = [name for kind in (*kinds, others, own) for name in kind]
        assert len(names) == len({*names})
