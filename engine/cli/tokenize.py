"""`linnet tokenize`: a text in, its tokens out, a line each or as a list of ids."""

from __future__ import annotations

import argparse

from linnet.engine.cli.markup import add_parse_special, note_markup
from linnet.engine.cli.model import add_model, model_path
from linnet.engine.cli.reading import TEXTS, add_escape, add_text, given_text, read_text
from linnet.engine.text.tokenizer import Tokenizer


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-tokenize names them."""
    text = "the text; - or nothing: stdin"
    add_model(parser, required=True, text="TEXT", help=text, texts=(*TEXTS, "stdin"))
    add = parser.add_argument
    add_text(parser, "as TEXT", "a file with the text, all of it, the last line feed included")
    add("--stdin", action="store_const", const=True, help="the text is what stdin has")
    add_escape(parser)
    add_parse_special(parser)
    what = "a list of ids, [1, 2, 3], in place of a line for each token"
    add("--ids", action="store_true", help=what)
    add("--show-count", action="store_true", help="the number of tokens, too, in a last line")
    add("--no-special", "--no-bos", action="store_true", help="add no bos or eos token")


def run(arguments: argparse.Namespace) -> int:
    """Ids, and what each stands for, on stdout."""
    text = _text(arguments)
    tokenizer = Tokenizer.from_gguf(str(model_path(arguments)))
    add_special, parse_special = not arguments.no_special, arguments.parse_special
    note_markup(tokenizer, text, arguments=arguments)
    ids = tokenizer.encode(text, add_special=add_special, parse_special=bool(parse_special))
    if arguments.ids:
        print(ids)
    else:
        for each in ids:
            piece = tokenizer.token_bytes(each).decode(errors="backslashreplace")
            print(f"{each:6} -> {piece!r}")
    if arguments.show_count:
        print(f"Total number of tokens: {len(ids)}")
    return 0


def _text(arguments: argparse.Namespace) -> str:
    """The one text given. Raises ValueError for none, or several."""
    if arguments.stdin and arguments.file is None:
        arguments.file = "-"
    elif arguments.stdin:
        raise ValueError("--stdin and -f are given; one will do")
    return given_text(arguments, read_text)
