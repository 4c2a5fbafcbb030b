"""For the documentation's reference: what docstrings say of arguments becomes a list.

A paragraph that begins with "`name`: ..." tells of one argument after another, each at the
beginning of a line. mkdocs.yml has mkdocstrings use this.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ARGUMENT = re.compile(r"^(`\w+`(?:, `\w+`)*: )", re.MULTILINE)


def with_lists(text: str) -> str:
    """A docstring in which each argument of such a paragraph is an item."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        ARGUMENT.sub(r"- \1", each) if ARGUMENT.match(each) else each for each in paragraphs
    )


class DocstringLists(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = with_lists(obj.docstring.value)
