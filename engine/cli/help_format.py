"""How help is laid out: a short usage, each flag with its value once, words left whole."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any

FLAGS_COLUMN = 30  # where the text begins
COLUMNS = 100  # at most


VARIABLES = (
    "Variables set flags, too: LINNET_ARG_CTX_SIZE=4096 is --ctx-size 4096. A flag that is given "
    "wins."
)
OTHERS = (
    "Flags of llama.cpp, mlx-lm, vLLM and ollama are understood where a model runs; those without "
    "a meaning here are ignored, with a note."
)

# Of flags that several commands have in groups of their own: before the others, and behind them.
FIRST = {
    "model": """
        --model --hf-repo --model-url --hf-file --hf-token --offline --synthetic --n-layers""",
    "prompt": "--prompt --file --ids --escape --parse-special --prompt-cache --chat --raw --load",
}
LAST = {
    "output": """
        --output --output-err --quiet --all --top --no-display-prompt --no-wrap --no-history
        --progress --layers --plot --kl-base --kl --kl-divergence""",
}


def arrange(parser: argparse.ArgumentParser) -> None:
    """Have help show flags without a group in those, and what is left at the end."""
    arguments, rest, *groups = parser._action_groups
    first, last = (
        [_taken(parser, rest, *each) for each in these.items()] for these in (FIRST, LAST)
    )
    parser._action_groups = [arguments, *first, *groups, *last, rest]


def _taken(
    parser: argparse.ArgumentParser, rest: argparse._ArgumentGroup, title: str, flags: str
) -> argparse._ArgumentGroup:  # fmt: skip
    """A group of those flags that the rest has."""
    names = set(flags.split())
    group = parser.add_argument_group(title)
    group._group_actions = [a for a in rest._group_actions if names.intersection(a.option_strings)]
    rest._group_actions = [a for a in rest._group_actions if a not in group._group_actions]
    return group


def ending(about: str | None, examples: Sequence[str]) -> str:
    """What stands below the flags: the command's own lines, examples, and variables."""
    wrapper = textwrap.TextWrapper(COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    lines = "\n".join(map(wrapper.fill, (about or "").split("\n")))
    shown = "\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else ""
    return "\n\n".join(filter(None, [lines, shown, textwrap.fill(VARIABLES, COLUMNS)]))


class _Wrapper(textwrap.TextWrapper):
    """Breaks lines at blanks, and behind the commas of a list; "Q8_0" stays whole."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=[,;])(?=\S))")


class HelpFormat(argparse.RawDescriptionHelpFormatter):
    """The layout of every command's help."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=FLAGS_COLUMN, **options)
        self._width = min(self._width, COLUMNS)

    def _split_lines(self, text: str, width: int) -> list[str]:
        wrapper = _Wrapper(width, break_long_words=False, break_on_hyphens=False)
        return wrapper.wrap(" ".join(text.split()))

    def _format_usage(self, usage: str | None, actions: Any, groups: Any, prefix: Any) -> str:
        """What goes without flags, and "[flags]": which those are is in the list below."""
        if usage is None:
            places = [self._place(action) for action in actions if not action.option_strings]
            flags = ["[flags]"] if any(action.option_strings for action in actions) else []
            usage = " ".join(["%(prog)s", *places, *flags])
        return super()._format_usage(usage, actions, groups, prefix)

    def _place(self, action: argparse.Action) -> str:
        return self._format_args(action, self._get_default_metavar_for_positional(action))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"
