"""Renders a chat template, as a process of its own: `sandbox` starts it, and says why.

Requests come to stdin by `marshal`: (seconds, source), of the template to compile, or (seconds,
values), of a rendering of it. For each, and once it is ready for the first, an answer goes to
stdout: "+" before a text, or "-" before what the template does wrong; then the length of that, in 8
bytes; then UTF-8, half surrogate pairs included. Imports nothing of linnet, so that it starts soon.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import marshal
import re
import signal
import sys
from functools import reduce
from typing import Any, Final, NoReturn

if __name__ == "__main__":
    sys.path += sys.argv[1:]

import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MEMORY: Final = 1 << 29  # bytes of address space
TOO_LARGE: Final = f"takes more than {MEMORY >> 20} MiB of memory"
LARGEST: Final = 1 << 22  # characters of what a template writes
ESCAPED: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u(dc[0-9a-f]{2})")


def main() -> None:
    limit_memory()
    answer(b"+", "")
    template = None
    while True:
        try:
            seconds, given = marshal.load(sys.stdin.buffer)
        except EOFError:  # whoever asked is gone
            return
        except MemoryError:  # and what is left of the request cannot be told from the next
            answer(b"-", TOO_LARGE)
            return
        end_after(seconds + 1)
        does, text = "fails", ""
        try:
            if template is None:
                does = "is malformed"
                template = Sandbox().from_string(given)
            else:
                text = template.render(given, raise_exception=refuse, strftime_now=now)
            wrong = f"writes more than {LARGEST} characters" if len(text) > LARGEST else ""
        except MemoryError:
            wrong = TOO_LARGE
        except Refusal as error:
            wrong = f"refuses the messages: {str(error)[:200]}"
        except Exception as error:  # of any kind: the template is a program
            wrong = f"{does}: {type(error).__name__}: {str(error)[:200]}"
        end_after(0)
        answer(b"-" if wrong else b"+", wrong or text)


def answer(how: bytes, text: str) -> None:
    data = text.encode(errors="surrogatepass")
    sys.stdout.buffer.write(how + len(data).to_bytes(8, "little") + data)
    sys.stdout.buffer.flush()


def limit_memory() -> None:
    """Limit address space to `MEMORY` and forbid core dumps, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def end_after(seconds: float) -> None:
    """Have the system end this process after so long, in case its parent is gone; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


# ---- the environment of templates ----------------------------------------------------------------


class Refusal(Exception):
    """What a template raises itself."""


def refuse(message: object) -> NoReturn:
    raise Refusal(message)


def now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


class Sandbox(ImmutableSandboxedEnvironment):
    """Set up as transformers does it."""

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are not worked out while compiling
            finalize=written,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
        )
        self.filters |= {"tojson": to_json, "string": written}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = Concatenations().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree


class GenerationBlock(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}: marks what is trained on; here, only its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Concatenations(NodeTransformer):
    """Has "~" write values as everything else does."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        parts: list[nodes.Expr] = [
            nodes.Filter(self.visit(part), "string", [], [], None, None, lineno=node.lineno)
            for part in node.nodes
        ]
        return reduce(lambda a, b: nodes.Add(a, b, lineno=node.lineno), parts)


def written(value: Any) -> str:
    """A value as text."""
    return value if isinstance(value, str) else unescaped(str(value))


def unescaped(text: str) -> str:
    """`text` with half surrogate pairs as they were: hidden control tokens are made of them."""
    return ESCAPED.sub(lambda found: found[1] + chr(int(found[2], 16)), text)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: without HTML's escapes, and keys in their order."""
    return unescaped(
        json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
    )


if __name__ == "__main__":
    main()
