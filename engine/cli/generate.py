"""`linnet generate`: a prompt or a message in, text on stdout, one closing line on stderr."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from linnet.engine.cli.markup import add_parse_special, note_markup
from linnet.engine.cli.model import add_model
from linnet.engine.cli.options import (
    add_chatting,
    add_drafts,
    add_running,
    add_sampling,
    draft_options,
    drafted,
    is_chat,
    open_conversation,
    open_model,
    sampling_fields,
)
from linnet.engine.cli.prompt_file import add_prompt_cache, load_prompt, save_prompt
from linnet.engine.cli.reading import add_escape, read_prompt
from linnet.engine.cli.terminal import write
from linnet.engine.llm import LLM
from linnet.engine.machine import peak_memory
from linnet.engine.running.generation import Chunk, Output, Stats
from linnet.engine.sampling.logprobs import TokenLogprob
from linnet.engine.sampling.params import PARAMETERS, SamplingParams
from linnet.engine.text.tokenizer import Tokenizer

NEGLIGIBLE = 0.005  # seconds, which show as 0.00
Stream = Callable[..., Iterator[Chunk]]  # takes `progress`, as LLM.stream does


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-cli names them."""
    add = parser.add_argument
    add("prompt", nargs="?", metavar="PROMPT", help="the text to continue; - or nothing: stdin")
    add_model(parser)
    add("-p", "--prompt", dest="prompt_text", metavar="TEXT", help="as PROMPT")
    add(
        "-f", "--file", metavar="FILE",
        help="a file with the prompt; of files and stdin one last line feed is dropped",
    )  # fmt: skip
    add_escape(parser)
    add_parse_special(parser)
    add("--no-display-prompt", action="store_true", help="the text without the prompt")
    add_sampling(parser)
    add_running(parser)
    add_drafts(parser)
    add_prompt_cache(parser)
    add_chatting(parser)
    add(
        "--chat", action="store_true",
        help="PROMPT is a message, and the answer is printed alone; implied by flags of chat",
    )  # fmt: skip
    add("-q", "--quiet", action="store_true", help="the text alone: no bar, no closing line")
    add(
        "-o", "--output", choices=("text", "json"), default="text",
        help="json: one object, at the end",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Prompt and text, or the answer to a message, go to stdout, everything else to stderr."""
    prompt = _prompt(arguments)
    fields = sampling_fields(arguments)
    for name in ("logprobs", "prompt_logprobs"):
        if arguments.output != "json" and fields.get(name) is not None:
            raise ValueError(f"{PARAMETERS[name].flags[0]} is for -o json")
    with open_model(arguments, **draft_options(arguments)) as llm:
        params = llm.sampling_params(**fields)
        given, stream, encode = _begin(llm, prompt, params, arguments)
        load_prompt(llm, arguments)
        if arguments.output == "json":
            output = Output.of(list(stream()))
            scores = {
                name: _scored(llm.tokenizer, getattr(output, name))
                for name in ("logprobs", "prompt_logprobs")
            }
            figures = _figures(llm, output.stats)
            print(json.dumps({**given, **dataclasses.asdict(output), **scores, **figures}))
            save_prompt(llm, arguments, encode)
            return 0
        last = Chunk("")
        shown = "" if arguments.no_display_prompt else str(given.get("prompt", ""))
        for last in _shown(llm, shown, stream, quiet=arguments.quiet):
            write(last.text)
        print(flush=True)
        if not arguments.quiet and last.stats:
            print(_closing_line(llm, last.stats), file=sys.stderr)
        save_prompt(llm, arguments, encode)
    return 0


def _begin(
    llm: LLM, prompt: str, params: SamplingParams, arguments: argparse.Namespace
) -> tuple[dict[str, object], Stream, Callable[[], list[int]]]:
    """What the model is given, a prompt or messages, the stream that it begins, and its ids."""
    if not (arguments.chat or is_chat(arguments)):
        note_markup(llm.tokenizer, prompt, arguments=arguments)
        stream = partial(llm.stream, prompt, params, parse_special=arguments.parse_special)
        encode = partial(llm.tokenizer.encode, prompt, parse_special=arguments.parse_special)
        return {"prompt": prompt}, stream, encode
    if arguments.parse_special:
        raise ValueError("--parse-special is for a prompt: a message to chat is text")
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


def _prompt(arguments: argparse.Namespace) -> str:
    """The one prompt given, or what is piped into stdin. Raises ValueError for none, or several."""
    given = [arguments.prompt, arguments.prompt_text, arguments.file]
    sources = [source for source in given if source is not None]
    if len(sources) == 1 and arguments.file is None and sources != ["-"]:
        return str(sources[0])
    piped = not sources and sys.stdin is not None and not sys.stdin.isatty()
    if len(sources) == 1 or piped:
        text = read_prompt(arguments.file)
        if text or not piped:
            return text
    raise ValueError("give one prompt: as PROMPT, with -p TEXT, in a file with -f FILE, or piped")


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
    return (
        f"prompt {stats.n_prompt} tokens, {f['prompt_tokens_per_second']:.1f} tok/s | "
        f"{generated} | load {f['load_s']:.2f} s, {compiling}, "
        f"first token {f['first_token_s']:.2f} s | peak memory {f['peak_memory'] / 1e6:.0f} MB"
    )
