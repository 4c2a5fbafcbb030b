"""What a docstring says of a function, and of its parameters, in Google's or numpy's style."""

from __future__ import annotations

import inspect
import re
from typing import Final

_SECTIONS: Final = (
    "Args|Arguments|Parameters|Params|Other Parameters|Keyword Args|Returns?|Yields?|Raises|"
    "Examples?|Notes?|Attributes|Warns|Warnings?|See Also|References"
)
_HEADING: Final = re.compile(rf"^({_SECTIONS})(?::[ ]*\n|[ ]*\n-{{3,}}[ ]*\n)", re.MULTILINE)
_OF_PARAMETERS: Final = ("Args", "Arguments", "Parameters", "Params", "Keyword Args")
_GOOGLE: Final = re.compile(r"^\*{0,2}(\w+)[ ]*(?:\([^)]*\))?:[ ]*(.*)$")
_NUMPY: Final = re.compile(r"^\*{0,2}(\w+(?:,[ ]*\w+)*)[ ]*(?::.*)?$")


def described(docstring: str | None) -> tuple[str, dict[str, str]]:
    """The text before the first section, and what is said of each parameter, in one line."""
    # The text, and then by turns a section's name and its own text.
    text, *sections = _HEADING.split(inspect.cleandoc(docstring or "") + "\n")
    found: dict[str, str] = {}
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        if name in _OF_PARAMETERS:
            found |= _parameters(body)
    return text.strip(), found


def _parameters(body: str) -> dict[str, str]:
    """Google's are further in than their heading, numpy's are not; more text is further in."""
    is_google, found = body.startswith((" ", "\t")), {}
    for item in re.split(r"^(?=\S)", inspect.cleandoc(body), flags=re.MULTILINE):
        first, _, rest = item.partition("\n")
        match = (_GOOGLE if is_google else _NUMPY).match(first)
        if match:
            begun = match[2] if is_google else ""
            for name in match[1].split(","):
                found[name.strip()] = " ".join(f"{begun} {rest}".split())
    return found
