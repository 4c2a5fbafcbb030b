"""Measure speed: tokens a second and how near that is to what the machine can do."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from linnet import __version__
from linnet.engine import hub
from linnet.engine.bench import plot, report
from linnet.engine.bench.layers import layers
from linnet.engine.bench.measure import BenchTest, Source, all_tests, measure, roofs
from linnet.engine.bench.ops import names, ops
from linnet.engine.llm import DEMO_MODEL
from linnet.engine.machine import usable_threads
from linnet.engine.session import PROMPT_TOKENS
from linnet.engine.synthetic import SHAPES
from linnet.kernels.isa import ISAS

MOST_TOKENS, MOST_THREADS, MOST_PARALLEL = 1 << 24, 1024, 512
RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-bench names them. Numbers are lists: 1,2 or 0-1024+256 or 1-8*2."""
    add = parser.add_argument
    add(
        "-m", "--model", action="append", default=[], metavar="FILE",
        help="a GGUF file; may be repeated; without it, the model linnet ships",
    )  # fmt: skip
    add(
        "-hf", "--hf-repo", action="append", default=[], metavar="USER/MODEL[:QUANT]",
        help="a model on the Hugging Face hub; may be repeated",
    )  # fmt: skip
    add(
        "--synthetic", action="append", default=[], metavar="SHAPE:TYPE",
        help=f"random weights in real shapes, as llama-3.2-1b:Q4_K_M; shapes: {', '.join(SHAPES)}",
    )  # fmt: skip
    add("-p", "--n-prompt", type=_tokens, default=[512], metavar="N", help="prompts; default 512")
    add("-n", "--n-gen", type=_tokens, default=[128], metavar="N", help="generation; default 128")
    add(
        "-pg", action="append", type=_pair, default=[], metavar="PP,TG",
        help="a prompt and then a generation; may be repeated",
    )  # fmt: skip
    add("-d", "--n-depth", type=_tokens, default=[0], metavar="N", help="tokens cached before")
    add(
        "-b", "-ub", "--batch-size", "--ubatch-size", dest="n_batch", type=_positive,
        default=[PROMPT_TOKENS], metavar="N",
        help=f"tokens in a prompt pass; default {PROMPT_TOKENS}",
    )  # fmt: skip
    add("-npl", "--n-parallel", type=_parallel, default=[1], metavar="N", help="sequences at once")
    add("-t", "--threads", type=_threads, metavar="N", help="by default, the cores we may use")
    add("-r", "--repetitions", type=_repetitions, default=5, metavar="N", help="default 5")
    add("--no-warmup", action="store_true", help="measure from the first run on")
    add("--isa", choices=[isa.name for isa in ISAS], help="instruction set (or LINNET_ISA)")
    add("--activations", choices=("int8", "f32"), default="int8", help="f32 is the exact mode")
    add("-o", "--output", choices=report.FORMATS, default="md", help="default md, for people")
    add(
        "--ops", nargs="?", const="", metavar="NAMES",
        help=f"kernels instead of a model: all, or of {','.join(names())}",
    )  # fmt: skip
    add("--layers", action="store_true", help="where the time of a pass goes, step by step")
    add("--plot", metavar="FILE.svg", help="the roofline with each step on it; needs matplotlib")


def run(arguments: argparse.Namespace) -> int:
    """Tables on stdout, progress on stderr."""
    out = sys.stdout
    if arguments.ops is not None:
        models = [*arguments.model, *arguments.hf_repo, *arguments.synthetic]
        if models or arguments.layers or arguments.plot:
            raise ValueError(
                "--ops measures kernels alone: without -m, -hf, --synthetic, --layers, --plot"
            )
        report.write(_ops(arguments), report.OPS, arguments.output, out)
    elif arguments.layers or arguments.plot:
        if arguments.plot:
            plot.check_path(arguments.plot)
        rows = list(_layers(arguments))
        if arguments.layers:
            report.write(rows, report.LAYERS, arguments.output, out)
        if arguments.plot:
            _plot(arguments, rows)
    else:
        report.write(_tests(arguments), report.TESTS, arguments.output, out)
        if arguments.output == "md":
            print(f"\nbuild: linnet {__version__}")
    return 0


def _tests(arguments: argparse.Namespace) -> Iterator[Any]:
    tests, sources = _matrix(arguments), _sources(arguments)
    total = len(tests) * arguments.repetitions * len(sources)
    with _progress(total) as bar:
        for source in sources:
            for test in tests:
                bar.set_description(f"{source.name}: {test.name}")
                yield measure(
                    source, test, repetitions=arguments.repetitions,
                    warmup=not arguments.no_warmup, isa=arguments.isa,
                    exact=arguments.activations == "f32", tick=bar.update,
                )  # fmt: skip


def _layers(arguments: argparse.Namespace) -> Iterator[Any]:
    tests, sources = _matrix(arguments), _sources(arguments)
    with _progress(len(tests) * len(sources)) as bar:
        for source in sources:
            for test in tests:
                bar.set_description(f"{source.name}: {test.name}")
                rows = layers(
                    source, test, repetitions=arguments.repetitions, isa=arguments.isa,
                    exact=arguments.activations == "f32",
                )  # fmt: skip
                yield from rows
                bar.update()
                bar.write(_times(rows), file=sys.stderr)


def _times(rows: list[Any]) -> str:
    """What watching costs."""
    plain, watched = rows[0]["pass_us"], sum(row["us"] for row in rows)
    return f"{rows[0]['test']}: {plain:,.0f} us a pass, {watched:,.0f} us while watched"


def _ops(arguments: argparse.Namespace) -> Iterator[Any]:
    wanted = [name for name in arguments.ops.split(",") if name]
    with _progress(None) as bar:
        for n_threads in _thread_counts(arguments):
            for row in ops(
                wanted, n_threads=n_threads, isa=arguments.isa,
                exact=arguments.activations == "f32", repetitions=arguments.repetitions,
            ):  # fmt: skip
                bar.set_description(f"{row['op']} {row['type']}")
                bar.update()
                yield row


def _plot(arguments: argparse.Namespace, rows: list[Any]) -> None:
    source, test = _sources(arguments)[0], _matrix(arguments)[0]
    exact = arguments.activations == "f32"
    bandwidth, peaks = roofs(source, test, isa=arguments.isa, exact=exact)
    title = f"{rows[0]['model_type']}, {rows[0]['n_threads']} threads, {rows[0]['isa']}"
    plot.plot(arguments.plot, rows, bandwidth=bandwidth, peaks=peaks, title=title)
    print(f"{arguments.plot}: written", file=sys.stderr)


def _sources(arguments: argparse.Namespace) -> list[Source]:
    files = [*arguments.model, *map(str, map(hub.download, arguments.hf_repo))]
    if not files and not arguments.synthetic:
        files = [str(DEMO_MODEL)]
    return [Source(path) for path in files] + [
        Source(name, synthetic=True) for name in arguments.synthetic
    ]


def _matrix(arguments: argparse.Namespace) -> list[BenchTest]:
    tests = all_tests(
        prompts=arguments.n_prompt, gens=arguments.n_gen, both=arguments.pg,
        depths=arguments.n_depth, batches=arguments.n_batch, threads=_thread_counts(arguments),
        parallel=arguments.n_parallel,
    )  # fmt: skip
    if not tests:
        raise ValueError("nothing to measure: -p and -n are both 0, and there is no -pg")
    return tests


def _thread_counts(arguments: argparse.Namespace) -> list[int]:
    return arguments.threads or [usable_threads()]


def _progress(total: int | None) -> Any:
    """A bar on stderr, where that is a terminal."""
    return tqdm(total=total, disable=None, leave=False, file=sys.stderr)


# ---- arguments -----------------------------------------------------------------------------------


def _numbers(text: str, low: int, high: int) -> list[int]:
    """1,2 or first-last, first-last+step, first-last*factor, as llama-bench takes them."""
    numbers: list[int] = []
    for part in text.split(","):
        found = RANGE.fullmatch(part)
        if not found:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers")
        first, last, sign, step = found.groups()
        n, end, by = int(first), int(last or first), int(step or 1)
        if last and (end < n or (by < 2 if sign == "*" else by < 1) or (sign == "*" and n == 0)):
            raise argparse.ArgumentTypeError(f"{part!r} is no range")
        while n <= end:
            if not low <= n <= high:
                raise argparse.ArgumentTypeError(f"{n} is not from {low} to {high}")
            numbers.append(n)
            n = n * by if sign == "*" else n + by
    return numbers


def _tokens(text: str) -> list[int]:
    return _numbers(text, 0, MOST_TOKENS)


def _positive(text: str) -> list[int]:
    return _numbers(text, 1, MOST_TOKENS)


def _threads(text: str) -> list[int]:
    return _numbers(text, 1, MOST_THREADS)


def _parallel(text: str) -> list[int]:
    return _numbers(text, 1, MOST_PARALLEL)


def _repetitions(text: str) -> int:
    numbers = _numbers(text, 1, MOST_TOKENS)
    if len(numbers) != 1:
        raise argparse.ArgumentTypeError("is one number")
    return numbers[0]


def _pair(text: str) -> tuple[int, int]:
    numbers = _tokens(text)
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers: a prompt, a generation")
    return numbers[0], numbers[1]
