"""The model behind all wire formats: prompts and parameters of requests, and their queue."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from linnet import __version__
from linnet.engine.async_llm import AsyncLLM
from linnet.engine.chat.template import RESERVED, template_variables
from linnet.engine.sampling.constraint import ConstraintError
from linnet.engine.sampling.params import PARAMETERS, SHAPES, SamplingParams
from linnet.engine.server.answers import Answers, Call
from linnet.engine.server.errors import APIError, refused, unavailable
from linnet.engine.server.metrics import Metrics
from linnet.engine.server.settings import Settings
from linnet.engine.text.tokenizer import Tokenizer

NOT_VARIABLES = RESERVED | {"tools", "begun"}  # arguments of their own
OF_CHAT = {"tools", "tool_choice", "reasoning_budget"}  # fields of ChatRequest
_T = TypeVar("_T")


class Service:
    """A model behind a server: loading, ready, or draining as it shuts down."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = int(time.time())
        self.draining = False
        self.n_open = 0  # answers under way, those that wait among them
        self.metrics = Metrics()
        self._llm: AsyncLLM | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the model has been loaded."""
        return self._llm is not None

    def ready(self, llm: AsyncLLM) -> None:
        """The model has been loaded."""
        self._llm = llm
        llm.llm.scheduler.on_pass = self.metrics.passed

    def stop(self) -> None:
        """End all that is under way, with an error."""
        if self._llm is not None:
            self._llm.llm.stop()

    def close(self) -> None:
        """Let go of the model."""
        if self._llm is not None:
            self._llm.close()

    @property
    def llm(self) -> AsyncLLM:
        """Raises APIError, 503, while it is loading."""
        if self._llm is None:
            raise unavailable("the model is loading")
        return self._llm

    @property
    def model_id(self) -> str:
        """The name that answers carry. Raises APIError, 503, while it is loading."""
        name = self.llm.llm.path.name
        return self.settings.alias or name

    def head(self, kind: str, prefix: str) -> dict[str, Any]:
        """What an answer of OpenAI's API begins with: an id of its own, and a fingerprint of what
        its bits depend on beside the request: program, instruction set and numerics."""
        llm = self.llm.llm
        numerics = f"{llm.activations}-{llm.cache_type_k}-{llm.cache_type_v}"
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model_id,
            "system_fingerprint": f"linnet-{__version__}-{llm.isa}-{numerics}",
        }

    def params(self, given: Mapping[str, Any]) -> SamplingParams:
        """What a request gives, else what the server was started with, else the file's."""
        is_shaped = not given.keys().isdisjoint(SHAPES)  # in place of what the server has for all
        ours = self.settings.sampling.items()
        fields = {name: value for name, value in ours if not (is_shaped and name in SHAPES)}
        llm, fields = self.llm.llm, {"max_tokens": None, **fields, **given}
        if "logit_bias" in fields:
            fields["logit_bias"] = _by_id(fields["logit_bias"], llm.tokenizer)
        try:
            return llm.sampling_params(**fields)
        except ValueError as error:
            raise APIError(400, str(error), param=_field(error)) from error

    def reasoning_budget(self, given: int | None) -> int | None:
        """Tokens, or None without a limit: what a request gives, where -1 is none, or what the
        server was started with."""
        if given is None:
            return self.settings.reasoning_budget
        return None if given == -1 else given

    def check_model(self, name: str | None) -> None:
        """Raises APIError, with --strict-model, for one that is not served here."""
        if self.settings.strict_model and name is not None:
            self.find_model(name, param="model")

    def find_model(self, name: str, *, param: str | None = None) -> None:
        """Raises APIError for one that is not served here; `param`: the field that names it."""
        if name not in (self.model_id, self.llm.llm.path.name):
            message = f"there is no model {name!r} here; it is {self.model_id!r}"
            raise APIError(404, message, param=param, code="model_not_found")

    async def conversation(
        self, messages: Sequence[Mapping[str, Any]], *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None, goes_on: bool = False, param: str = "messages",
    ) -> list[int]:  # fmt: skip
        """The ids of a conversation, up to where the answer begins; `goes_on`: within the last
        message, which is the beginning of one. `param`: the field that it came in, for errors."""
        earlier, begun = _begun(messages, goes_on)
        given = self._variables(variables)

        def encoded() -> list[int]:
            template, values = self.llm.llm.chat_template, template_variables(given)
            return template.encode(earlier, tools=tools or None, begun=begun, **values)

        return await self._templated(encoded, param)

    async def rendered(
        self, messages: Sequence[Mapping[str, Any]], *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None, goes_on: bool = False,
    ) -> str:  # fmt: skip
        """The text that `conversation` gives the ids of."""
        earlier, begun = _begun(messages, goes_on)
        given = self._variables(variables)

        def rendered() -> str:
            template, values = self.llm.llm.chat_template, template_variables(given)
            return template.render(earlier, tools=tools or None, **values) + begun

        return await self._templated(rendered)

    def _variables(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Of a template. Raises APIError for names that are not for the client to give."""
        for name in NOT_VARIABLES & (given or {}).keys():
            message = f"chat_template_kwargs has {name!r}, which is not for a template"
            raise APIError(400, message, param="chat_template_kwargs")
        return {"enable_thinking": True, **self.settings.variables, **(given or {})}

    async def _templated(self, work: Callable[[], _T], param: str = "messages") -> _T:
        try:
            return await self.llm.aside(work)
        except Exception as error:
            raise refused(error, param=param) from error

    def enter(self, n: int, param: str) -> None:
        """Count `n` more answers under way, until `leave`. Raises APIError where the queue is
        full."""
        most = self.llm.llm.n_parallel + self.settings.max_queue
        if n > most:
            message = f"{n} answers to one request; they must be at most {most}, see --max-queue"
            raise APIError(400, message, param=param)
        if self.n_open + n > most:
            raise unavailable(f"{self.n_open} requests are under way; at most {most} may be")
        self.n_open += n

    def leave(self, n: int) -> None:
        """So many are over."""
        self.n_open -= n

    async def begin(self, *calls: Call) -> Answers:
        """Queue the answers to a call, or to several of one request. Raises APIError."""
        llm, n = self.llm, sum(call.n for call in calls)
        self.enter(n, calls[0].param)
        try:
            requests = [request for call in calls for request in call.each]
            readers = await llm.aside(lambda: [request.begin() for request in requests])
        except BaseException as error:
            self.leave(n)
            if isinstance(error, Exception):
                raise refused(error, param=_blamed(error, calls[0])) from error
            raise
        return Answers(
            llm, requests, readers, timeout=self.settings.timeout, metrics=self.metrics,
            on_close=self.leave,
        )  # fmt: skip


def _blamed(error: Exception, call: Call) -> str:
    """The field of a call that an error is about."""
    first = str(error).partition(" ")[0].removesuffix(":")
    if first in OF_CHAT:
        return first
    name = _field(error)
    if name in SHAPES or isinstance(error, ConstraintError | ModuleNotFoundError):
        return call.shaped_by or name or "tools"
    return name or call.param


def _field(error: Exception) -> str | None:
    """The field of SamplingParams that an error is about: "top_k is ...", "a token id in ..."."""
    words = [word.partition("[")[0] for word in str(error).split()[:5]]
    name = next((word for word in words if word in PARAMETERS), None)
    return "typical_p" if name == "typ_p" else name


def _by_id(bias: Mapping[int | str, float], tokenizer: Tokenizer) -> dict[int, float]:
    """A text stands for each of its tokens, as in llama-server."""
    found: dict[int, float] = {}
    for token, value in bias.items():
        ids = [token] if isinstance(token, int) else tokenizer.encode(token, add_special=False)
        found |= dict.fromkeys(ids, value)
    return found


def _begun(
    messages: Sequence[Mapping[str, Any]], goes_on: bool
) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The messages before an answer, and the beginning of it. Raises APIError."""
    if not goes_on:
        return messages, ""
    *earlier, last = messages
    content = last.get("content") or ""
    if last.get("role") != "assistant" or not isinstance(content, str):
        raise APIError(
            400, "the last message, which is to be continued, must be one of the assistant with a"
            " text as its content", param="messages",
        )  # fmt: skip
    return earlier, content
