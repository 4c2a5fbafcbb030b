"""How to choose tokens and when to stop, with every value checked as it comes in."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from linnet.models.errors import ModelError

MAX_STOP_CHARACTERS: Final = 1_000_000  # in all stop strings together

_MAX_INT: Final = 2**31 - 1
_INTEGERS: Final = {  # field: lowest, highest
    "max_tokens": (0, _MAX_INT),
    "top_k": (0, _MAX_INT),
    "repeat_last_n": (-1, _MAX_INT),
    "seed": (0, 2**64 - 1),
}
_NUMBERS: Final = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}
_MAX_BIAS: Final = 1000.0
METADATA: Final = {  # field: what a GGUF file calls it
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
    "repeat_last_n": "general.sampling.penalty_last_n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens, and when to stop; the defaults are those of llama-cli.

    `max_tokens`: the most to generate; None for as many as fit the context.
    `temperature`: divides logits; at 0 the likeliest token is always taken.
    `top_k`: keep the so many likeliest; 0 is off.
    `top_p`: keep the fewest that together are this probable; 1 is off.
    `min_p`: keep those at least this many times as likely as the likeliest; 0 is off.
    `repeat_penalty`: divides logits above 0 of recent tokens, and multiplies others; 1 is off.
    `repeat_last_n`: how many tokens are recent, those of the prompt included; 0 for none, -1 all.
    `presence_penalty`: is taken from the logits of recent tokens; 0 is off.
    `frequency_penalty`: is taken from them as often as the token is there; 0 is off.
    `logit_bias`: what is added to logits, by token id; -inf rules a token out.
    `seed`: the same one draws the same tokens; None for another every time.
    `stop`: a string, or several, before which the text ends; kept as a tuple.
    `ignore_eos`: go on where the model would end.

    Raises `ValueError` naming the field, its value and the limits. For what the samplers do, see
    `linnet.engine.sampling`.
    """

    max_tokens: int | None = None  # None: until the model ends, or its context is full
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    repeat_penalty: float = 1.0  # 1: off
    repeat_last_n: int = 64  # how many tokens the penalties look back; 0: off, -1: all
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)  # by token id
    seed: int | None = None  # None: a new one for every generation
    stop: Sequence[str] = ()  # one string, or several; kept as a tuple
    ignore_eos: bool = False  # go on where the model would end

    def __post_init__(self) -> None:
        for name, (low, high) in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None or name not in ("max_tokens", "seed"):
                self._set(name, _integer(name, value, low, high))
        for name, limits in _NUMBERS.items():
            self._set(name, _number(name, getattr(self, name), *limits))
        self._set("logit_bias", _bias(self.logit_bias))
        self._set("stop", _stop_strings(self.stop))
        if not isinstance(self.ignore_eos, bool):
            raise _error("ignore_eos", self.ignore_eos, "True or False")

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], **given: Any) -> SamplingParams:
        """The fields given; for others what a file's metadata says, as `general.sampling.top_k`
        does, or the defaults.

        Keys of samplers we do not have (`sequence`, `xtc_*`, `mirostat*`) change nothing. Raises
        `ModelError` naming the key, its value and the limits; `ValueError` for a given field, and
        TypeError for one there is not.
        """
        found: dict[str, Any] = {}
        for name, key in METADATA.items():
            if name in given or key not in metadata:
                continue
            try:
                if name in _INTEGERS:
                    found[name] = _integer(key, metadata[key], *_INTEGERS[name])
                else:
                    found[name] = _number(key, metadata[key], *_NUMBERS[name])
            except ValueError as error:
                raise ModelError(str(error)) from None
        return cls(**found, **given)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and low <= value <= high:
        return int(value)
    raise _error(name, value, f"an integer from {low} to {high}")


def _number(name: str, value: object, low: float, high: float) -> float:
    if (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and low <= value <= high  # NaN is not
    ):
        return float(value)
    raise _error(name, value, f"a number from {low:g} to {high:g}")


def _bias(bias: object) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise _error("logit_bias", bias, "a mapping from token ids to numbers")
    return {
        _integer("a token id in logit_bias", token_id, 0, _MAX_INT): _number(
            f"logit_bias[{token_id}]", value, -math.inf, _MAX_BIAS
        )
        for token_id, value in bias.items()
    }


def _stop_strings(stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple):
        raise _error("stop", stop, "a string, or a list of strings")
    for i, string in enumerate(strings):
        if not isinstance(string, str) or not string:
            raise _error(f"stop[{i}]", string, "a string of at least 1 character")
    if sum(map(len, strings)) > MAX_STOP_CHARACTERS:
        raise ValueError(
            f"stop has {sum(map(len, strings))} characters; it must be at most "
            f"{MAX_STOP_CHARACTERS} in all strings together"
        )
    return tuple(strings)


def _error(name: str, value: object, limits: str) -> ValueError:
    return ValueError(f"{name} is {reprlib.repr(value)}; it must be {limits}")
