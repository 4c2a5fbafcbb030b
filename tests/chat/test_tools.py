"""Functions as tools: what a model is told of them, and its calls made."""

from __future__ import annotations

import asyncio
import enum
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, TypedDict

import pytest
from support.scripted import asked

from linnet import LLM, AsyncLLM, Output
from linnet.engine.chat.formats.parts import Part
from linnet.engine.chat.tools import Tools
from linnet.engine.running.generation import Chunk, Stats


class Unit(enum.Enum):
    C, F = "celsius", "fahrenheit"


@dataclass
class Place:
    city: str
    country: str = "FR"


class Box(TypedDict, total=False):
    width: float


def weather(
    place: Place, days: int, unit: Unit = Unit.C, kind: Literal["short", "long", 3] = "short",
    boxes: list[Box] | None = None, share: Annotated[float, "from 0 to 1"] = 0.5,
) -> str:  # fmt: skip
    """The weather of a place.

    Over some days.

    Args:
        place (Place): where: a city
            and a country.
        days: how many.
        unit: of degrees.

    Returns:
        A text.
    """
    return f"{place.city}, {place.country}: {days} {unit.name} {kind} {boxes} {share}"


def add(a: int, b: Optional[int] = None, *, more: dict[str, list[int]] = {}) -> int:  # noqa: B006, UP045
    """Add numbers.

    Parameters
    ----------
    a, b : int
        Numbers
        to add.
    more : dict
        Others.

    Returns
    -------
    int
        The sum.
    """
    return a + (b or 0) + sum(map(sum, more.values()))


def fail(anything: Any) -> None:
    raise KeyError(anything)


def test_a_function_is_told_by_its_hints_and_docstring() -> None:
    (schema,) = Tools([weather]).schemas
    about = schema["function"]
    assert (schema["type"], about["name"]) == ("function", "weather")
    assert about["description"] == "The weather of a place.\n\nOver some days."
    place = {
        "type": "object", "required": ["city"], "additionalProperties": False,
        "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    }  # fmt: skip
    box = {
        "type": "object", "required": [], "additionalProperties": False,
        "properties": {"width": {"type": "number"}},
    }  # fmt: skip
    assert about["parameters"] == {
        "type": "object", "required": ["place", "days"], "additionalProperties": False,
        "properties": {
            "place": place | {"description": "where: a city and a country."},
            "days": {"type": "integer", "description": "how many."},
            "unit": {"enum": ["celsius", "fahrenheit"], "description": "of degrees."},
            "kind": {"enum": ["short", "long", 3]},
            "boxes": {"anyOf": [{"type": "array", "items": box}, {"type": "null"}]},
            "share": {"type": "number", "description": "from 0 to 1"},
        },
    }  # fmt: skip


def test_a_docstring_may_be_numpys() -> None:
    properties = Tools([add]).schemas[0]["function"]["parameters"]["properties"]
    assert properties["a"] == {"type": "integer", "description": "Numbers to add."}
    assert properties["b"]["description"] == "Numbers to add."
    assert properties["more"]["additionalProperties"] == {
        "type": "array", "items": {"type": "integer"},
    }  # fmt: skip
    assert Tools([add]).schemas[0]["function"]["description"] == "Add numbers."


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_calls_get_values_of_the_hints_types() -> None:
    tools = Tools([weather, add])
    arguments = {"place": {"city": "Lyon"}, "days": 2.0, "unit": "fahrenheit", "kind": 3}
    first, second = tools.results([
        call("weather", arguments, id="abc"), call("add", '{"a": 1, "more": {"x": [2, 3]}}'),
    ])  # fmt: skip
    assert first == {
        "role": "tool", "name": "weather", "content": "Lyon, FR: 2 F 3 None 0.5",
        "tool_call_id": "abc",
    }  # fmt: skip
    assert second == {"role": "tool", "name": "add", "content": "6"}


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("add", {"a": "1"}, "ValueError: a is '1'; it must be an integer"),
        ("add", {"a": True}, "a is True; it must be an integer"),
        ("add", {"a": 1.5}, "a is 1.5"),
        ("add", {}, "add has no 'a'; it has a, b, more"),
        ("add", {"a": 1, "c": 1}, "has 'c', which there is not"),
        (
            "add",
            {"a": 1, "b": "x"},
            "b is 'x'; it must be an integer; or b is 'x'; it must be null",
        ),
        ("add", {"a": 1, "more": {"x": [1, "y"]}}, "more.x[1] is 'y'"),
        ("add", [1], "add is [1]; it must be an object"),
        ("add", "{", "JSONDecodeError"),
        ("weather", {"place": {}, "days": 1}, "place has no 'city'"),
        ("weather", {"place": {"city": "x"}, "days": 1, "kind": "3"}, "one of 'short', 'long', 3"),
        ("other", {}, "there is no tool 'other'; there are weather, add, fail"),
        ("fail", {"anything": 7}, "KeyError: 7"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model(name: str, arguments: Any, error: str) -> None:
    (message,) = Tools([weather, add, fail]).results([call(name, arguments)])
    assert error in message["content"]


def test_pydantic_models_are_types_and_results() -> None:
    pydantic = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", size=(int, ...))
    outer = pydantic.create_model("Outer", inner=(inner, ...))

    def take(it: Any) -> Any:
        return it.inner

    take.__annotations__["it"] = outer
    tools = Tools([take])
    parameters = tools.schemas[0]["function"]["parameters"]
    assert parameters["$defs"]["Inner"]["properties"]["size"]["type"] == "integer"
    assert "$defs" not in parameters["properties"]["it"]
    (good, bad) = tools.results([
        call("take", {"it": {"inner": {"size": 3}}}), call("take", {"it": {"inner": {}}})
    ])  # fmt: skip
    assert json.loads(good["content"]) == {"size": 3}
    assert "ValidationError" in bad["content"]


@dataclass
class Tree:
    left: Tree | None


def _bytes(data: bytes) -> None: ...
def _tree(tree: Tree) -> None: ...
def _position(a: int, /) -> None: ...
def _stars(*a: int) -> None: ...
def _pair(a: tuple[int, str]) -> None: ...


@pytest.mark.parametrize(
    ("tools", "error"),
    [
        ([_bytes], r"tools\[0\]: _bytes.data has the type .*bytes.*, which has no JSON schema"),
        ([_tree], r"made of itself"),
        ([_position], "cannot be given by its name"),
        ([_stars], "cannot be given by its name"),
        ([_pair], "is a tuple"),
        ([lambda x: x], "a function with a name"),
        ([add, add], r"tools\[1\] has the name 'add'"),
    ],
)
def test_functions_that_cannot_be_told_are_refused(
    tools: list[Callable[..., Any]], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        Tools(tools)


# ---- rounds --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    template = (
        "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {{ m.tool_calls }}\n{% endfor %}"
    )
    with LLM(chat_template=template, n_threads=1) as llm:
        yield llm


def answering(monkeypatch: pytest.MonkeyPatch, answers: list[Part]) -> list[Any]:
    """Have conversations be answered so; the messages and options of each."""
    seen: list[Any] = []

    def stream_chat(
        self: LLM, messages: Any, params: Any = None, **options: Any
    ) -> Iterator[Chunk]:
        seen.append(([*messages], options))
        part = answers[min(len(seen), len(answers)) - 1]
        yield Chunk(part.content, finish_reason="stop", stats=Stats(1), part=part)

    monkeypatch.setattr(LLM, "stream_chat", stream_chat)
    return seen


ASKED = [{"role": "user", "content": "1 + 2?"}]
CALL = Part(tool_calls=(call("add", {"a": 1, "b": 2}),))


def test_tools_run_until_an_answer_has_no_calls(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = answering(monkeypatch, [CALL, Part(content="3")])
    output = llm.chat(ASKED, tools=[add], run_tools=True, tool_choice="required")
    assert output.text == "3"
    assert seen[1][0] == [
        *ASKED, CALL.message, {"role": "tool", "name": "add", "content": "3"}
    ]  # fmt: skip
    assert [options.get("tool_choice") for _, options in seen] == ["required", None]


@pytest.mark.parametrize(("how", "n"), [({}, 8), ({"max_rounds": 3}, 3), ({"max_rounds": 1}, 1)])
def test_rounds_are_bounded(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], n: int
) -> None:
    seen = answering(monkeypatch, [CALL])
    assert llm.chat(ASKED, tools=[add], run_tools=True, **how).tool_calls == [*CALL.tool_calls]
    assert len(seen) == n


def test_calls_of_what_is_no_function_are_returned(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {"type": "function", "function": {"name": "mine", "parameters": {}}}
    both = Part(tool_calls=(*CALL.tool_calls, call("mine", {})))
    for answer, options in ((both, {"run_tools": True}), (CALL, {})):
        seen = answering(monkeypatch, [answer])
        output: Output = llm.chat(ASKED, tools=[add, mine], **options)
        assert output.tool_calls == [*answer.tool_calls]
        assert len(seen) == 1


def answering_tasks(monkeypatch: pytest.MonkeyPatch, answers: list[Part]) -> list[Any]:
    """The same of conversations with an `AsyncLLM`."""
    seen = answering(monkeypatch, answers)

    async def stream_chat(self: AsyncLLM, *given: Any, **options: Any) -> AsyncIterator[Chunk]:
        for chunk in self.llm.stream_chat(*given, **options):
            yield chunk

    monkeypatch.setattr(AsyncLLM, "stream_chat", stream_chat)
    return seen


async def await_sum(a: int, b: int) -> int:
    """Add, later."""
    await asyncio.sleep(0)
    return a + b


async def await_failure() -> None:
    raise KeyError("gone")


def where() -> bool:
    return threading.current_thread() is threading.main_thread()


def test_tasks_await_functions(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [call("await_sum", {"a": 1, "b": 2}), call("await_failure", {}), call("where", {}),
            call("await_sum", {"a": "x", "b": 1}), call("none", {})]  # fmt: skip
    seen = answering_tasks(monkeypatch, [Part(tool_calls=(*made,)), Part(content="3")])
    tools = [await_sum, await_failure, where]

    async def main() -> Output:
        return await AsyncLLM(llm).chat(ASKED, tools=tools, run_tools=True, tool_choice="required")

    assert asyncio.run(main()).text == "3"
    assert [message["content"] for message in seen[1][0][2:]] == [
        "3", "KeyError: 'gone'", "false", "ValueError: a is 'x'; it must be an integer",
        "ValueError: there is no tool 'none'; there are await_sum, await_failure, where",
    ]  # fmt: skip
    assert [options.get("tool_choice") for _, options in seen] == ["required", None]


def test_calls_run_at_the_same_time() -> None:
    """Each waits for the other."""
    reached = {name: asyncio.Event() for name in "ab"}

    async def meet(mine: str, other: str) -> str:
        reached[mine].set()
        await reached[other].wait()
        return mine

    async def main() -> Any:
        calls = [call("meet", {"mine": a, "other": b}) for a, b in ("ab", "ba")]
        return await asyncio.wait_for(Tools([meet]).awaited_results(calls), 10)

    assert [message["content"] for message in asyncio.run(main())] == ["a", "b"]


def test_what_has_to_be_awaited_is_for_tasks(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [CALL])
    with pytest.raises(ValueError, match="await_sum must be awaited, as AsyncLLM"):
        llm.chat(ASKED, tools=[await_sum, add], run_tools=True)
    assert llm.chat(ASKED, tools=[await_sum, add]).tool_calls


@pytest.mark.parametrize(("how", "n"), [({}, 8), ({"max_rounds": 3}, 3)])
def test_rounds_of_tasks_are_bounded(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], n: int
) -> None:
    seen = answering_tasks(monkeypatch, [CALL])
    asyncio.run(AsyncLLM(llm).chat(ASKED, tools=[add], run_tools=True, **how))
    assert len(seen) == n


def test_functions_and_schemas_are_told_to_the_template(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = asked(monkeypatch)
    mine = {"type": "function", "function": {"name": "mine", "parameters": {}}}
    llm.chat(ASKED, tools=[add, mine], max_tokens=1)
    assert llm.tokenizer.decode(prompts[0]).startswith("add mine user: 1 + 2?")
    with pytest.raises(ValueError, match="max_rounds is 0"):
        llm.chat(ASKED, max_rounds=0)
