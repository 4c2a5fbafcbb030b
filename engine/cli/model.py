"""The model that a command is given, and the text beside it.

What a model may be, `linnet.engine.gguf.named` says; here is which of the words without a flag is
one. Of two, the first is the model and the second the text. One alone is the text where a flag
gives the model, and the model where a flag gives the text or the command wants a model. Where
neither is so, as in `generate X`, it is the model if it can hardly be anything else, as a .gguf
file or user/model:Q8_0, and else the text.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from linnet.engine.gguf.located import check_there, located
from linnet.engine.gguf.named import FORMS, hub_address, is_model, is_one, url

WANTED = "a model is wanted: MODEL, -m MODEL or -hf USER/MODEL"
QUOTES = "a text of several words goes in quotes"
DEMO = "no model is given: this is the demo model, of 7M parameters, which knows Python code alone"


def add_model(
    parser: argparse.ArgumentParser, *, required: bool = False, text: str | None = None,
    help: str | None = None, texts: Collection[str] = (),
) -> None:  # fmt: skip
    """MODEL, -m, -hf and what goes with them, for `model_path`; without any, unless one is
    `required`, the model linnet ships.

    `text`: what stands for a text beside MODEL, which arguments have as `prompt`, and its `help`;
    `texts`: where they have it if a flag gives it.
    """
    add_model_flags(parser)
    how: dict[str, Any] = {"action": _Words, "needs_model": required, "texts": texts}
    add = parser.add_argument
    what = FORMS if required else f"{FORMS}; without it, the model linnet ships"
    if text is None:
        add("word", nargs="?", metavar="MODEL", help=what, **how)
    else:
        add("word", nargs="?", metavar="MODEL", help=what)
        add("prompt", nargs="?", metavar=text, help=help, **how)


def add_models(parser: argparse.ArgumentParser) -> None:
    """The same for any number of models, also as a,b: see `model_paths`."""
    add_model_flags(parser, several=True)
    what = f"{FORMS}; several, too, or a,b; without any, the model linnet ships"
    parser.add_argument("words", nargs="*", metavar="MODEL", help=what)


def add_model_flags(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """-m, -hf and what goes with them, without MODEL."""
    group = parser.add_argument_group("model")
    one = group if several else group.add_mutually_exclusive_group()
    how: dict[str, Any] = {"dest": "model"}
    if several:
        how |= {"action": "append", "default": []}
    one.add_argument("-m", "--model", metavar="MODEL", help="as MODEL", **how)
    one.add_argument(
        "-hf", "-hfr", "--hf-repo", type=_type(hub_address, several), metavar="USER/MODEL[:QUANT]",
        help="as MODEL, of one on the Hugging Face hub: Q4_K_M unless it says", **how,
    )  # fmt: skip
    one.add_argument(
        "-mu", "--model-url", type=_type(url, several), metavar="URL",
        help="as MODEL, of a .gguf file on the web", **how,
    )  # fmt: skip
    add = group.add_argument
    add("-hff", "--hf-file", metavar="FILE", help="its file on the hub, or a glob pattern of it")
    add("-hft", "--hf-token", metavar="TOKEN", help="for the hub; default HF_TOKEN, or its login")
    add("--offline", action="store_true", help="no network: take from the cache what is there")


def model_path(arguments: argparse.Namespace) -> str | None:
    """The file, downloaded if need be; None for the model linnet ships. Raises what `located`
    raises."""
    if arguments.model is None and arguments.hf_file is not None:
        raise ValueError(f"-hff is for a model on the hub; {WANTED}")
    return None if arguments.model is None else _path(arguments.model, arguments)


def model_paths(arguments: argparse.Namespace) -> list[str]:
    """The files of `add_models`."""
    given = (*arguments.words, *arguments.model)
    lists = [[text] if os.path.exists(text) else text.split(",") for text in given]
    return [_path(model, arguments) for models in lists for model in models]


def note_demo(arguments: argparse.Namespace) -> None:
    """A line on stderr where no model is given, unless -q is."""
    if arguments.model is None and not arguments.quiet:
        print(f"linnet: {DEMO}", file=sys.stderr, flush=True)


def _path(model: str, arguments: argparse.Namespace) -> str:
    return str(
        located(
            model, file=arguments.hf_file, token=arguments.hf_token, offline=arguments.offline
        )
    )  # fmt: skip


class _Words(argparse.Action):
    """The last of the words: says which is the model, `model`, and which the text, `prompt`. Flags
    are read before."""

    def __init__(self, *, needs_model: bool, texts: Collection[str], **options: Any) -> None:
        super().__init__(**options)
        self._needs_model, self._texts = needs_model, texts

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        words = [value] if self.dest == "word" else [namespace.word, value]
        words = [word for word in words if word is not None]
        is_given = namespace.model != parser.get_default("model")  # by a flag
        has_text = any(getattr(namespace, name) is not None for name in self._texts)
        wants_model = self._needs_model and namespace.model is None
        needs_model = has_text or wants_model or self.dest == "word"
        try:
            model, text = _placed(words, is_given=is_given, needs_model=needs_model)
        except ValueError as error:
            parser.error(str(error))
        if self.dest == "word" and text is not None:
            parser.error(f"two models are given, {text!r} and that of a flag; one will do")
        if model is not None:
            check_there(model)
            namespace.model = model
        if self._needs_model and namespace.model is None:
            parser.error(WANTED)
        if self.dest != "word":
            setattr(namespace, self.dest, text)


def _placed(
    words: Sequence[str], *, is_given: bool, needs_model: bool
) -> tuple[str | None, str | None]:  # fmt: skip
    """Model and text. Raises ValueError for two words of which none is a model."""
    if len(words) == 2:
        if is_given:
            raise ValueError(f"the model is given, and two texts: {QUOTES}")
        if not is_one(words[0]):
            raise ValueError(f"{words[0]!r} is no model, which is {FORMS}; {QUOTES}")
        return words[0], words[1]
    word = words[0] if words else None
    is_the_model = word is not None and not is_given and (needs_model or is_model(word))
    return (word, None) if is_the_model else (None, word)


def _type(check: Callable[[str], str], several: bool) -> Callable[[str], str]:
    """An argument type that says what is wrong; `several`: also of a,b."""

    def parse(text: str) -> str:
        try:
            return ",".join(map(check, text.split(",") if several else [text]))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse
