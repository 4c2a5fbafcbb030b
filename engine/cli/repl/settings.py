"""Sampling parameters that are set between answers, by their flags' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.engine.cli.reading import unescaped
from linnet.engine.sampling.params import PARAMETERS, SamplingParams

WITHOUT = ("logprobs", "prompt_logprobs")  # of which a chat would show nothing
FLAGS = {  # a field's, without dashes
    field: [flag[2:] for flag in parameter.flags if flag.startswith("--")]
    for field, parameter in PARAMETERS.items() if parameter.flags and field not in WITHOUT
}  # fmt: skip
FIELDS = {flag: field for field, flags in FLAGS.items() for flag in flags}
NAMES = {field: flags[0] for field, flags in FLAGS.items()}
LOOKED_AT = {"temperature", "top_k", "top_p", "min_p"}
DEFAULTS = SamplingParams()
SWITCHES = {"on": True, "off": False}


def field_named(name: str) -> str:
    """The field that a flag sets, with or without dashes, or that has this name itself. Raises
    ValueError."""
    field = FIELDS.get(name.lstrip("-")) or (name if name in NAMES else None)
    if field is None:
        from linnet.engine.cli.guesses import close  # imports what few need

        likely = close(name, FIELDS)
        known = f"close: {', '.join(likely)}" if likely else "/params lists them"
        raise ValueError(f"there is no parameter {name[:100]!r} ({known})")
    return field


def value_of(field: str, text: str) -> Any:
    """What a flag makes of a text, not checked but for on and off; "none" is nothing."""
    argument, name = PARAMETERS[field].argument, NAMES[field]
    action = argument.get("action", "")
    if action.startswith("store_"):
        if text not in SWITCHES:
            raise ValueError(f"{name} is {text[:100]!r}; it must be on or off")
        return SWITCHES[text] == (action == "store_true")
    if action == "append":
        return () if text == "none" else (unescaped(text),)
    if text == "none":
        return None
    try:
        return argument.get("type", str)(text)
    except ValueError:
        return text  # which the parameter's check refuses, with its limits


def shown(params: SamplingParams, field: str) -> str:
    """A field's value as `value_of` takes it."""
    value, action = getattr(params, field), PARAMETERS[field].argument.get("action", "")
    if isinstance(value, bool) and action.startswith("store_"):
        return "on" if value == (action == "store_true") else "off"
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{token_id}{bias:+g}" for token_id, bias in value.items())
    if isinstance(value, tuple):
        return ";".join(map(str, value)) if field == "samplers" else ", ".join(map(repr, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def usage(field: str) -> str:
    """What the help of its flag says."""
    return str(PARAMETERS[field].argument["help"])


def summary(params: SamplingParams, *, all: bool = False) -> str:
    """Names and values of the parameters that most look at and of those that are not as they are by
    default, or of all."""
    return ", ".join(
        f"{name} {shown(params, field)}"
        for field, name in NAMES.items()
        if all or field in LOOKED_AT or getattr(params, field) != getattr(DEFAULTS, field)
    )
