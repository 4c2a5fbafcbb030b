"""Renders a chat template, as a process of its own: `sandbox` starts it, and says why.

Requests come to stdin by `marshal`: (seconds, source), of the template to compile, (seconds,
values), of a rendering of it, or (seconds, list of values), of attempts at that. For each, and once
it is ready for the first, an answer goes to stdout: "+" before a text (of attempts: JSON of a list,
null for those that came to nothing), or "-" before what the template does wrong; then the length of
that, in 8 bytes; then UTF-8, half surrogate pairs included. Imports nothing of linnet, so that it
starts soon.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import json
import marshal
import re
import sys
from typing import Any, Final, NoReturn

if __name__ == "__main__":
    sys.path += sys.argv[1:]

import jinja2.ext
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY: Final = 1 << 29  # bytes of address space
TOO_LARGE: Final = f"takes more than {MEMORY >> 20} MiB of memory"
LARGEST: Final = 1 << 22  # characters of what a template writes
LARGEST_ATTEMPT: Final = LARGEST >> 6
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
            elif isinstance(given, list):
                text = json.dumps([attempted(template, values) for values in given])
            else:
                text = rendered(template, given)
            wrong = f"writes more than {LARGEST} characters" if len(text) > LARGEST else ""
        except MemoryError:
            wrong = TOO_LARGE
        except Refusal as error:
            wrong = f"refuses the messages: {str(error)[:200]}"
        except Exception as error:  # of any kind: the template is a program
            wrong = f"{does}: {type(error).__name__}: {str(error)[:200]}"
        end_after(0)
        answer(b"-" if wrong else b"+", wrong or text)


def rendered(template: jinja2.Template, values: dict[str, Any]) -> str:
    return template.render(values, raise_exception=refuse, strftime_now=now)


def attempted(template: jinja2.Template, values: dict[str, Any]) -> str | None:
    """The rendering, or None where the template refuses the values, fails, or writes a lot."""
    try:
        text = rendered(template, values)
    except MemoryError:
        raise
    except Exception:  # of any kind: the template is a program
        return None
    return text if len(text) <= LARGEST_ATTEMPT else None


def answer(how: bytes, text: str) -> None:
    data = text.encode(errors="surrogatepass")
    sys.stdout.buffer.write(how + len(data).to_bytes(8, "little") + data)
    sys.stdout.buffer.flush()


def limit_memory() -> None:
    """Limit address space to `MEMORY` and forbid core dumps, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def end_after(seconds: float) -> None:
    """Have this process end after so long, whatever it is at, in case its parent is gone; 0: never.

    By a thread that needs nothing of Python, and by no signal: Windows has no timer of those.
    """
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)  # to stderr, which nobody reads
    else:
        faulthandler.cancel_dump_traceback_later()


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
            finalize=written,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
        )
        self.code_generator_class = Generator
        self.filters |= {"tojson": to_json, "string": written}


class GenerationBlock(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}: marks what is trained on; here, only a scope."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Generator(CodeGenerator):
    """Has "~" join values as they are written everywhere else; the joining is jinja2's."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        if self.optimizer is not None and not frame.eval_ctx.volatile:
            constant = self.optimizer.visit(node, frame.eval_ctx)
            if constant != node:
                self.visit(constant, frame)
                return
        finalize = nodes.EnvironmentAttribute("finalize")
        parts: list[nodes.Expr] = [
            nodes.Call(finalize, [part], [], None, None) for part in node.nodes
        ]
        joined = nodes.Concat(parts, lineno=node.lineno)
        joined.set_environment(self.environment)
        super().visit_Concat(joined, frame)


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
