"""Request bodies: their fields, types and ranges.

Clients send null for what they leave out, so it is the same as absent; fields that nobody here
knows are ignored, as OpenAI's API gains some every month.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from linnet.engine.sampling.params import SamplingParams
from linnet.engine.server.errors import APIError
from linnet.engine.server.wire.shape import Shaped

LONGEST_BIASED = 256  # characters
MOST_STOPS = 16
MOST_STOP_CHARACTERS = 4096  # of all together
MOST_STOP_IDS = 1024
MOST_BIASES = 1024
MOST_MESSAGES = 4096
MOST_TOOLS = 512
# Of SamplingParams, those that llama-server tells by the same names.
SHOWN = (
    "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma",
    "xtc_probability", "xtc_threshold", "repeat_last_n", "repeat_penalty", "presence_penalty",
    "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n",
    "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "samplers", "stop",
    "ignore_eos",
)  # fmt: skip
Answers = Annotated[int, Meta(ge=1, le=8)]
BiasByToken = Annotated[dict[str, float | bool], Meta(max_length=MOST_BIASES)]
BiasPairs = Annotated[list[list[Any]], Meta(max_length=MOST_BIASES)]
Limit = Annotated[int, Meta(ge=1, le=2**31 - 1)]  # of tokens
Budget = Annotated[int, Meta(ge=-1, le=2**31 - 1)]  # of tokens; -1: no limit
MISSING = "Object missing required field `"  # what msgspec says, before the name
Body = TypeVar("Body", bound=Struct)


class Sampling(Shaped, kw_only=True):
    """What every request for text may say; llama-server's names beside OpenAI's."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_predict: int | None = None  # -1: to the end of the context
    min_tokens: int | None = None
    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    samplers: list[str] | str | None = None
    seed: int | None = None  # -1: another each time
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[list[int], Meta(max_length=MOST_STOP_IDS)] | None = None
    ignore_eos: bool | None = None
    logit_bias: BiasByToken | BiasPairs | None = None

    def fields(self) -> dict[str, Any]:
        """Those given, by the names of SamplingParams. Raises APIError."""
        given = {
            name: value
            for name in Sampling.__struct_fields__
            if name not in Shaped.__struct_fields__ and (value := getattr(self, name)) is not None
        }
        limits = [
            given.pop(name, None) for name in ("n_predict", "max_tokens", "max_completion_tokens")
        ]
        limit = next((limit for limit in limits[::-1] if limit is not None), None)
        if limit is not None and limit != -1:
            given["max_tokens"] = limit
        if given.get("seed") == -1:
            del given["seed"]
        if "typical_p" in given:
            given["typ_p"] = given.pop("typical_p")
        if "stop" in given:
            given["stop"] = _stops(given["stop"])
        if "logit_bias" in given:
            given["logit_bias"] = _bias(given["logit_bias"])
        if (shape := self.shape) is not None:
            given[shape.field] = shape.value
        return given


def _stops(given: str | list[str]) -> list[str]:
    """Those that are not empty."""
    stops = [text for text in ([given] if isinstance(given, str) else given) if text]
    if len(stops) > MOST_STOPS:
        message = f"stop has {len(stops)} strings; it must be at most {MOST_STOPS}"
        raise APIError(400, message, param="stop")
    if (n := sum(map(len, stops))) > MOST_STOP_CHARACTERS:
        message = f"stop has {n} characters; it must be at most {MOST_STOP_CHARACTERS}"
        raise APIError(400, message, param="stop")
    return stops


def _bias(given: BiasByToken | BiasPairs) -> dict[int | str, float]:
    """By token id, or text; llama-server's pairs too, with false for what may not come."""
    pairs = given.items() if isinstance(given, dict) else given
    try:
        return {
            _token(token): -math.inf if value is False else float(value) for token, value in pairs
        }
    except (ValueError, TypeError) as error:
        texts = f"text of up to {LONGEST_BIASED} characters"
        what = f"an object of numbers by token id, or {texts}, or a list of such pairs"
        raise APIError(400, f"logit_bias must be {what}", param="logit_bias") from error


def _token(given: Any) -> int | str:
    """An id, which is text where it is a key in JSON; or a text, not a long one."""
    if not isinstance(given, int | str) or isinstance(given, bool):
        raise TypeError
    if isinstance(given, int) or given.isdecimal():
        return int(given)
    if len(given) > LONGEST_BIASED:
        raise ValueError
    return given


class StreamOptions(Struct):
    include_usage: bool | None = None


class Completion(Sampling, kw_only=True):
    """Of chat and plain completions."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Answers | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """In a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Conversation(Completion, kw_only=True):
    """Of chat: messages, and what else a template takes."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MOST_MESSAGES)]
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MOST_TOOLS)] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_budget: Budget | None = None
    reasoning_budget_tokens: Budget | None = None
    thinking_budget_tokens: Budget | None = None
    continue_final_message: bool | None = None

    @property
    def budget(self) -> int | None:
        """Of reasoning, in llama-server's words of all times."""
        given = self.reasoning_budget, self.reasoning_budget_tokens, self.thinking_budget_tokens
        return next((budget for budget in given if budget is not None), None)

    @property
    def variables(self) -> dict[str, Any]:
        """The template's."""
        return template_variables(self.reasoning_effort, self.chat_template_kwargs)


def template_variables(effort: str | None, given: dict[str, Any] | None) -> dict[str, Any]:
    """A template's: what a request gives, and what its effort of reasoning stands for."""
    if effort is None:
        return given or {}
    return {"enable_thinking": effort != "none", "reasoning_effort": effort, **(given or {})}


def settings(params: SamplingParams, *, n_ctx: int) -> dict[str, Any]:
    """How an answer is sampled, by llama-server's names; -1 for no limit, and for another seed each
    time."""
    given = {name: getattr(params, name) for name in SHOWN}
    limit = -1 if params.max_tokens is None else params.max_tokens
    return {
        "n_ctx": n_ctx, **given, "typical_p": params.typ_p, "max_tokens": limit,
        "n_predict": limit, "seed": -1 if params.seed is None else params.seed,
        "logit_bias": [
            {"token": token_id, "bias": bias if math.isfinite(bias) else None}
            for token_id, bias in params.logit_bias.items()
        ],
    }  # fmt: skip


def chosen(data: bytes, kinds: Sequence[type[Body]]) -> Body:
    """A body of that kind; of two, the first is OpenAI's, for who names a model, as its clients
    always do, and the second llama-server's. Raises APIError, 400, naming the field."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise APIError(400, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise APIError(400, "the body must be an object in JSON")
    body: Body = converted(found, kinds[0 if found.get("model") is not None else -1])
    return body


def converted(found: Mapping[str, Any], kind: Any, name: str = "") -> Any:
    """An object of a kind of Struct, or of several; `name`: the field that it is. Raises APIError,
    400, naming the one in it that is wrong."""
    present = {key: item for key, item in found.items() if item is not None}
    try:
        return msgspec.convert(present, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        path, text = name + path.rstrip("`"), f": {message}"
        if message.startswith(MISSING):
            path, text = f"{path}.{message.removeprefix(MISSING).rstrip('`')}", " is missing"
        path = path.removeprefix(".")
        param = path.partition(".")[0].partition("[")[0]
        raise APIError(400, (path + text).removeprefix(": "), param=param or None) from None
