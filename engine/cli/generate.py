"""Continue a prompt with a model, streaming the text to stdout."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator

from linnet.engine.cli.model import add_model, model_path
from linnet.engine.cli.reading import read_text
from linnet.engine.generation import Chunk, Stats
from linnet.engine.llm import LLM
from linnet.engine.machine import peak_memory
from linnet.engine.sampling_params import SamplingParams
from linnet.engine.session import PROMPT_TOKENS
from linnet.kernels.isa import ISAS

DEFAULTS = SamplingParams()


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-cli names them."""
    add = parser.add_argument
    add("prompt", nargs="?", metavar="PROMPT", help="the text to continue")
    add_model(parser)
    add("-p", "--prompt", dest="prompt_text", metavar="TEXT", help="the prompt; - reads stdin")
    add("-f", "--file", metavar="FILE", help="read the prompt from a file")
    add("-n", "--n-predict", type=int, default=-1, metavar="N", help="tokens at most; -1: no limit")
    add("--temp", type=float, default=DEFAULTS.temperature, metavar="T", help="0 is greedy")
    add("--top-k", type=int, default=DEFAULTS.top_k, metavar="K", help="0 is off")
    add("--top-p", type=float, default=DEFAULTS.top_p, metavar="P", help="1 is off")
    add("--min-p", type=float, default=DEFAULTS.min_p, metavar="P", help="0 is off")
    add("--repeat-penalty", type=float, default=DEFAULTS.repeat_penalty, metavar="X")
    add("--repeat-last-n", type=int, default=DEFAULTS.repeat_last_n, metavar="N")
    add("--presence-penalty", type=float, default=DEFAULTS.presence_penalty, metavar="X")
    add("--frequency-penalty", type=float, default=DEFAULTS.frequency_penalty, metavar="X")
    add("--stop", action="append", default=[], metavar="TEXT", help="end there; may be repeated")
    add("-s", "--seed", type=int, default=-1, metavar="SEED", help="-1: another each time")
    add("--ignore-eos", action="store_true", help="go on where the model would end")
    add("-t", "--threads", type=int, metavar="N", help="by default, the cores we may use")
    add("-c", "--ctx-size", type=int, metavar="N", help="by default the model's, at most 8192")
    add(
        "-b",
        "--batch-size",
        type=int,
        default=PROMPT_TOKENS,
        metavar="N",
        help="tokens of the prompt in one pass",
    )
    add("--isa", choices=[isa.name for isa in ISAS], help="instruction set (or LINNET_ISA)")
    add("--activations", choices=("int8", "f32"), default="int8", help="f32 is the exact mode")
    add("--no-mmap", action="store_true", help="read the file into memory instead of mapping it")
    add("-q", "--quiet", action="store_true", help="the text alone: no bar, no closing line")
    add(
        "-o",
        "--output",
        choices=("text", "json"),
        default="text",
        help="json: one object, at the end",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prompt and text go to stdout, everything else to stderr."""
    prompt = _prompt(arguments)
    params = _params(arguments)
    with LLM(
        model_path(arguments),
        n_threads=arguments.threads,
        n_ctx=arguments.ctx_size,
        n_batch=arguments.batch_size,
        isa=arguments.isa,
        activations=arguments.activations,
        mmap=not arguments.no_mmap,
    ) as llm:
        if arguments.output == "json":
            output = llm.generate(prompt, params)
            fields = {"prompt": prompt, **dataclasses.asdict(output), **_figures(llm, output.stats)}
            print(json.dumps(fields))
            return 0
        last = Chunk("")
        for last in _stream(llm, prompt, params, quiet=arguments.quiet):
            print(last.text, end="", flush=True)
        print(flush=True)
        if not arguments.quiet and last.stats:
            print(_closing_line(llm, last.stats), file=sys.stderr)
    return 0


def _stream(llm: LLM, prompt: str, params: SamplingParams, *, quiet: bool) -> Iterator[Chunk]:
    """The stream, with the prompt written to stdout: after a bar, where one is seen and needed."""
    if quiet or not sys.stderr.isatty():
        stream = llm.stream(prompt, params)
        print(prompt, end="", flush=True)
        yield from stream
        return
    from linnet.engine.cli.progress import PromptBar  # tqdm takes a moment to import

    with PromptBar(prompt, llm.n_batch) as bar:
        yield from llm.stream(prompt, params, progress=bar)


def _prompt(arguments: argparse.Namespace) -> str:
    """The one prompt given. Raises ValueError for none, or several."""
    given = [arguments.prompt, arguments.prompt_text, arguments.file]
    if sum(source is not None for source in given) != 1:
        raise ValueError("give one prompt: as PROMPT, with -p TEXT, or in a file with -f FILE")
    if arguments.file is not None:
        return read_text(arguments.file)
    if arguments.prompt_text == "-":
        return read_text(None)
    return str(arguments.prompt if arguments.prompt is not None else arguments.prompt_text)


def _params(arguments: argparse.Namespace) -> SamplingParams:
    return SamplingParams(
        max_tokens=None if arguments.n_predict == -1 else arguments.n_predict,
        temperature=arguments.temp,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repeat_penalty=arguments.repeat_penalty,
        repeat_last_n=arguments.repeat_last_n,
        presence_penalty=arguments.presence_penalty,
        frequency_penalty=arguments.frequency_penalty,
        seed=None if arguments.seed == -1 else arguments.seed,
        stop=tuple(arguments.stop),
        ignore_eos=arguments.ignore_eos,
    )


def _figures(llm: LLM, stats: Stats) -> dict[str, float]:
    """Rates in tokens a second, times in seconds, memory in bytes."""
    compile_seconds = llm.compile_seconds
    rate, limit = stats.generate_rate * llm.bytes_per_token, llm.read_bandwidth()
    return {
        "prompt_tokens_per_second": stats.prompt_rate,
        "generate_tokens_per_second": stats.generate_rate,
        "gb_s": rate / 1e9,
        "roofline": rate / limit,
        "load_s": llm.load_seconds,
        "compile_s": compile_seconds,
        "first_token_s": stats.prompt_seconds,
        "peak_memory": peak_memory() or 0,
    }


def _closing_line(llm: LLM, stats: Stats) -> str:
    f = _figures(llm, stats)
    return (
        f"prompt {stats.n_prompt} tokens, {f['prompt_tokens_per_second']:.1f} tok/s | "
        f"generated {stats.n_generated} tokens, {f['generate_tokens_per_second']:.1f} tok/s, "
        f"{f['gb_s']:.1f} GB/s ({f['roofline']:.0%} of the memory roofline) | "
        f"load {f['load_s']:.2f} s, compile {f['compile_s']:.2f} s, "
        f"first token {f['first_token_s']:.2f} s | peak memory {f['peak_memory'] / 1e6:.0f} MB"
    )
