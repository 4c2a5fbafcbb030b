"""`linnet generate`: a prompt or a message in, text on stdout, one closing line on stderr."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from linnet.engine.chat.template import ChatTemplate
from linnet.engine.cli.interrupts import INTERRUPTED
from linnet.engine.cli.markup import add_parse_special, note_markup
from linnet.engine.cli.model import add_model, note_demo
from linnet.engine.cli.options import (
    add_chatting,
    add_drafts,
    add_running,
    add_sampling,
    draft_options,
    drafted,
    is_chat,
    note_limit,
    open_conversation,
    open_model,
    sampling_fields,
)
from linnet.engine.cli.prompt_file import add_prompt_cache, load_prompt, save_prompt
from linnet.engine.cli.reading import TEXTS, add_escape, add_text, given_text, read_prompt
from linnet.engine.cli.terminal import write
from linnet.engine.cli.watched import Watched
from linnet.engine.llm import LLM
from linnet.engine.machine import peak_memory
from linnet.engine.running.generation import Chunk, Output, Stats
from linnet.engine.sampling.logprobs import TokenLogprob
from linnet.engine.sampling.params import PARAMETERS, SamplingParams
from linnet.engine.text.tokenizer import Tokenizer

NEGLIGIBLE = 0.005  # seconds, which show as 0.00
Stream = Callable[..., Iterator[Chunk]]  # takes `progress`, as LLM.stream does


def configure(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Flags are named as llama-cli names them. `required`: whether a model is."""
    add = parser.add_argument
    what = "a message to answer, or, without a chat template, a text to continue; -: stdin"
    add_model(parser, required=required, text="PROMPT", help=what, texts=TEXTS)
    file = "a file with the prompt; of files and stdin one last line feed is dropped"
    add_text(parser, "as PROMPT", file)
    add_escape(parser)
    add_parse_special(parser)
    add("--no-display-prompt", action="store_true", help="the text without the prompt")
    add_sampling(parser)
    add_running(parser)
    add_drafts(parser)
    add_prompt_cache(parser)
    add_chatting(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--chat", "-cnv", "--conversation", action="store_true",
        help="PROMPT is a message, and the answer is printed alone: so it is by default where the "
        "model has a chat template, and with flags of chat",
    )  # fmt: skip
    how.add_argument(
        "--raw", "-no-cnv", "--no-conversation", action="store_true",
        help="PROMPT is a text to continue, whatever the model has; implied by --parse-special",
    )  # fmt: skip
    add("-q", "--quiet", action="store_true", help="the text alone: no bar, no closing line")
    add(
        "-o", "--output", choices=("text", "json", "jsonl"), default="text",
        help="json: one object, at the end; jsonl: and before it a line for each token",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Prompt and text, or the answer to a message, go to stdout, everything else to stderr."""
    prompt = given_text(arguments, read_prompt)
    fields = sampling_fields(arguments)
    for name in ("logprobs", "prompt_logprobs"):
        if arguments.output == "text" and fields.get(name) is not None:
            raise ValueError(f"{PARAMETERS[name].flags[0]} is for -o json and jsonl")
    with open_model(arguments, **draft_options(arguments)) as llm:
        note_demo(arguments)
        params = llm.sampling_params(**fields)
        given, stream, encode = _begin(llm, prompt, params, arguments)
        load_prompt(llm, arguments)
        if arguments.output != "text":
            chunks = []
            for chunk in stream():
                chunks.append(chunk)
                if arguments.output == "jsonl" and not chunk.stats:
                    print(json.dumps(_told(llm.tokenizer, chunk)), flush=True)
            output = Output.of(chunks)
            scores = {
                name: _scored(llm.tokenizer, getattr(output, name))
                for name in ("logprobs", "prompt_logprobs")
            }
            figures = _figures(llm, output.stats)
            print(json.dumps({**given, **dataclasses.asdict(output), **scores, **figures}))
            save_prompt(llm, arguments, encode)
            return 0
        last, watched = Chunk(""), Watched(stream)
        shown = "" if arguments.no_display_prompt else str(given.get("prompt", ""))
        try:
            for last in _shown(llm, shown, watched, quiet=arguments.quiet):
                write(last.text)
        except KeyboardInterrupt:
            if arguments.quiet or not watched.stats.n_generated:
                raise
            print(f"\n{_closing_line(llm, watched.stats)}", file=sys.stderr)
            return INTERRUPTED
        print(flush=True)
        if not arguments.quiet and last.stats:
            lines = note_limit(last, fields), _closing_line(llm, last.stats)
            print(*filter(None, lines), sep="\n", file=sys.stderr)
        save_prompt(llm, arguments, encode)
    return 0


def _begin(
    llm: LLM, prompt: str, params: SamplingParams, arguments: argparse.Namespace
) -> tuple[dict[str, object], Stream, Callable[[], list[int]]]:
    """What the model is given, a prompt or messages, the stream that it begins, and its ids."""
    is_message = _is_message(llm, arguments)
    if not (arguments.chat or is_chat(arguments)):  # --parse-special is for a text to continue
        note_markup(llm.tokenizer, prompt, arguments=arguments)
    if not is_message:
        is_markup = bool(arguments.parse_special)
        stream = partial(llm.stream, prompt, params, parse_special=is_markup)
        encode = partial(llm.tokenizer.encode, prompt, parse_special=is_markup)
        return {"prompt": prompt}, stream, encode
    if arguments.parse_special:
        raise ValueError("--parse-special is for a prompt: a message to chat is text")
    if not prompt.strip():
        raise ValueError("the prompt is empty: a message to the model has a text")
    conversation = open_conversation(llm, params, arguments)
    asked = conversation.asked(prompt)
    encode = partial(conversation.encode, asked)
    return {"messages": asked}, partial(conversation.ask, prompt), encode


def _shown(llm: LLM, prompt: str, stream: Stream, *, quiet: bool) -> Iterator[Chunk]:
    """The stream, once the prompt is written to stdout; on a terminal, a bar comes before it."""
    if quiet or not sys.stderr.isatty():
        chunks = stream()
        write(prompt)
        yield from chunks
        return
    from linnet.engine.cli.progress import PromptBar  # tqdm takes a moment to import

    with PromptBar(prompt, llm.n_batch) as bar:
        yield from stream(progress=bar)


def _is_message(llm: LLM, arguments: argparse.Namespace) -> bool:
    """Whether the prompt is one, by the flags or else by what the file has. Raises ValueError for
    flags that do not go together."""
    if arguments.raw and is_chat(arguments):
        raise ValueError("--raw is for a text to continue: without --system and others of chat")
    if arguments.chat or is_chat(arguments):
        return True
    return ChatTemplate.is_in(llm.metadata) and not (arguments.raw or arguments.parse_special)


def _told(tokenizer: Tokenizer, chunk: Chunk) -> dict[str, Any]:
    """A chunk's own line: its text, what that is of an answer, and its token."""
    part = {} if chunk.part is None else {k: v for k, v in chunk.part._asdict().items() if v}
    (score,) = _scored(tokenizer, [chunk.logprobs]) or [None]
    logprobs = {} if score is None else {"logprobs": score}
    return {"text": chunk.text, "token_id": chunk.token_id, **part, **logprobs}


def _scored(
    tokenizer: Tokenizer, tokens: Sequence[TokenLogprob | None] | None
) -> list[dict[str, Any] | None] | None:
    """Each token's log-probability and the likeliest ones', with their texts."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.token_bytes(token_id).decode(errors="backslashreplace")
        return {"id": token_id, "text": text, "logprob": logprob}

    def scored(token: TokenLogprob) -> dict[str, Any]:
        top = [entry(*pair) for pair in token.top]
        return {**entry(token.token_id, token.logprob), "top": top}

    return None if tokens is None else [t if t is None else scored(t) for t in tokens]


def _figures(llm: LLM, stats: Stats) -> dict[str, float]:
    """Rates in tokens a second, compiling included; times in seconds, memory in bytes."""
    compile_seconds = llm.compile_seconds
    rate, limit = stats.pass_rate * llm.bytes_per_token, llm.read_bandwidth()
    return {
        "prompt_tokens_per_second": stats.prompt_rate,
        "generate_tokens_per_second": stats.generate_rate,
        "gb_s": rate / 1e9,
        "roofline": rate / limit,
        "load_s": llm.load_seconds,
        "compile_s": compile_seconds,
        "first_token_s": llm.load_seconds + stats.prompt_seconds,
        "peak_memory": peak_memory() or 0,
    }


def _closing_line(llm: LLM, stats: Stats) -> str:
    f = _figures(llm, stats)
    generated = f"generated {stats.n_generated} tokens"
    if stats.generate_rate:  # none where the first token was the last
        generated += (
            f", {f['generate_tokens_per_second']:.1f} tok/s, "
            f"{f['gb_s']:.1f} GB/s ({f['roofline']:.0%} of the memory roofline)"
        )
    generated += drafted(stats)
    compiling = f"compile {f['compile_s']:.2f} s"
    if f["compile_s"] >= NEGLIGIBLE:
        compiling += " (the rates include it)"
    peak = f" | peak memory {f['peak_memory'] / 1e6:.0f} MB" if f["peak_memory"] else ""
    return (
        f"prompt {stats.n_prompt} tokens, {f['prompt_tokens_per_second']:.1f} tok/s | "
        f"{generated} | load {f['load_s']:.2f} s, {compiling}, "
        f"first token {f['first_token_s']:.2f} s{peak}"
    )
