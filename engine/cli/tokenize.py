"""`linnet tokenize`: texts in, the ids of each on a line."""

from __future__ import annotations

import argparse

from linnet.engine.cli.markup import add_parse_special, note_markup
from linnet.engine.cli.model import add_model, model_path
from linnet.engine.cli.reading import add_escape, read_text
from linnet.engine.text.tokenizer import Tokenizer


def configure(parser: argparse.ArgumentParser) -> None:
    add_model(parser, required=True)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the text; without it, stdin")
    source.add_argument("-f", "--file", metavar="FILE", help="a file of texts, one a line")
    add_escape(parser)
    add_parse_special(parser)
    parser.add_argument("--no-special", action="store_true", help="add no bos or eos token")


def run(arguments: argparse.Namespace) -> int:
    """The text of -p is one text, line breaks and all; of a file or stdin each line is one."""
    tokenizer = Tokenizer.from_gguf(str(model_path(arguments)))
    if arguments.prompt is not None:
        texts = [arguments.prompt]
    else:
        texts = _lines(read_text(arguments.file))
    add_special, parse_special = not arguments.no_special, arguments.parse_special
    note_markup(tokenizer, *texts, arguments=arguments)
    for text in texts:
        print(tokenizer.encode(text, add_special=add_special, parse_special=parse_special))
    return 0


def _lines(text: str) -> list[str]:
    """Cut at line feeds alone: other separators are text."""
    return text.removesuffix("\n").split("\n")
