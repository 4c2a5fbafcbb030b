"""`linnet logits`: what is predicted after a text, as a table, JSON or an array."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import numpy as np

from linnet.engine.cli.counts import count
from linnet.engine.cli.markup import add_parse_special, note_markup
from linnet.engine.cli.model import add_model
from linnet.engine.cli.options import add_running, open_model
from linnet.engine.cli.reading import TEXTS, add_escape, add_text, given_text, read_prompt
from linnet.engine.measure.perplexity import log_sum_exp
from linnet.engine.running.finite import finite
from linnet.engine.running.runner import Floats
from linnet.engine.text.tokenizer import Tokenizer, TokenizerError
from linnet.models.parts.config import MAX_CONTEXT

DEFAULT_TOP = 10


def configure(parser: argparse.ArgumentParser) -> None:
    add_model(parser, text="TEXT", help="the text; - or nothing: stdin", texts=(*TEXTS, "ids"))
    add = parser.add_argument
    add_text(parser, "as TEXT", "a file with the text")
    add("--ids", type=_ids, metavar="1,2,3", help="token ids in place of a text")
    add_escape(parser)
    add_parse_special(parser)
    add("--all", action="store_true", help="after every token, not the last alone")
    add(
        "--top", type=count(1, MAX_CONTEXT), metavar="N",
        help=f"the N likeliest; default {DEFAULT_TOP} for text",
    )  # fmt: skip
    add(
        "-o", "--output", choices=("text", "json", "npy"), default="text",
        help="text: a table; json: one object; npy: an array f32 (positions, n_vocab)",
    )  # fmt: skip
    add_running(parser)


def run(arguments: argparse.Namespace) -> int:
    """Everything on stdout."""
    if arguments.output == "npy" and arguments.top is not None:
        raise ValueError("--top is for -o text and -o json: an npy file has all logits")
    given = [arguments.prompt, arguments.prompt_text, arguments.file]
    if arguments.ids is not None and any(text is not None for text in given):
        raise ValueError("--ids are in place of a text; one of them will do")
    if arguments.ids is not None and arguments.parse_special:
        raise ValueError("--parse-special is for a text: --ids are tokens already")
    text = "" if arguments.ids is not None else given_text(arguments, read_prompt)
    with open_model(arguments) as llm:
        ids = arguments.ids
        if ids is None:
            note_markup(llm.tokenizer, text, arguments=arguments)
            ids = llm.tokenizer.encode(text, parse_special=bool(arguments.parse_special))
        tokenizer = None
        with suppress(TokenizerError):  # ids alone need none
            tokenizer = llm.tokenizer
        if arguments.all:
            _write(arguments, ids, 0, llm.logits(ids), tokenizer)
        else:
            with closing(llm.session()) as session:
                logits = finite(session.prompt(ids)[None])
                _write(arguments, ids, len(ids) - 1, logits, tokenizer)
    return 0


def _write(
    arguments: argparse.Namespace, ids: Sequence[int], first: int, logits: Floats,
    tokenizer: Tokenizer | None,
) -> None:  # fmt: skip
    """`logits`: (n, n_vocab), of the positions from `first` on."""
    if arguments.output == "npy":
        out = sys.stdout.buffer
        np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(logits))
        out.write(logits.tobytes())
    elif arguments.output == "json":
        positions: list[dict[str, Any]] = [
            {"position": first + i, "logits": [float(x) for x in row]}
            if arguments.top is None
            else {"position": first + i, "top": list(_likeliest(row, arguments.top, tokenizer))}
            for i, row in enumerate(logits)
        ]
        print(json.dumps({"ids": [*map(int, ids)], "positions": positions}))
    else:
        print(f"{'position':>8}  {'id':>7}  {'logit':>9}  {'p':>8}  text")
        for i, row in enumerate(logits):
            for t in _likeliest(row, arguments.top or DEFAULT_TOP, tokenizer):
                text = repr(t["text"]) if "text" in t else ""
                line = f"{first + i:8}  {t['id']:7}  {t['logit']:9.4f}  {t['p']:8.6f}  {text}"
                print(line.rstrip())


def _likeliest(row: Floats, n: int, tokenizer: Tokenizer | None) -> Iterator[dict[str, Any]]:
    """Likeliest first; of equals, the lower id."""
    (total,) = log_sum_exp(row[None])
    for token_id in np.argsort(-row, kind="stable")[:n].tolist():
        logit = float(row[token_id])
        found = {"id": token_id, "logit": logit, "p": float(np.exp(logit - total))}
        if tokenizer:
            data = tokenizer.token_bytes(token_id)
            found["text"] = data.decode(errors="backslashreplace")
        yield found


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers") from None
