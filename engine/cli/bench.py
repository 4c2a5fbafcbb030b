"""`linnet bench`: tests by llama-bench's flags, kernels alone, and a pass step by step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from linnet import __version__
from linnet.engine.cli.counts import count, count_list, counts
from linnet.engine.cli.machine import add_machine, numerics
from linnet.engine.gguf import hub
from linnet.engine.machine import MOST_THREADS, usable_threads
from linnet.engine.measure.bench import plot, report
from linnet.engine.measure.bench.layers import layers
from linnet.engine.measure.bench.measure import BenchModel, BenchTest, all_tests, measure, roofs
from linnet.engine.measure.bench.ops import names, ops
from linnet.engine.measure.synthetic import SHAPES
from linnet.engine.open_model import DEMO_MODEL
from linnet.engine.running.runner import PROMPT_TOKENS
from linnet.models.parts.config import MAX_CONTEXT, MAX_LAYERS
from linnet.models.parts.numerics import Numerics

MOST_PARALLEL = 512


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-bench names them. Numbers are lists: 1,2 or 0-1024+256 or 1-8*2."""
    add, tokens = parser.add_argument, counts(0, MAX_CONTEXT)
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
    add(
        "--n-layers", type=count(1, MAX_LAYERS), metavar="N",
        help="layers of --synthetic models; default: the shape's own",
    )  # fmt: skip
    add("-p", "--n-prompt", **tokens, default=[512], help="prompts; default 512")
    add("-n", "--n-gen", **tokens, default=[128], help="generation; default 128")
    add(
        "-pg", action="append", type=_pair, default=[], metavar="PP,TG",
        help="a prompt and then a generation; may be repeated",
    )  # fmt: skip
    add("-d", "--n-depth", **tokens, default=[0], help="tokens cached before")
    add(
        "-b", "-ub", "--batch-size", "--ubatch-size", dest="n_batch", **counts(1, MAX_CONTEXT),
        default=[PROMPT_TOKENS],
        help=f"tokens in a prompt pass; default {PROMPT_TOKENS}",
    )  # fmt: skip
    add(
        "-npl", "--n-parallel", **counts(1, MOST_PARALLEL), default=[1], help="sequences at once"
    )  # fmt: skip
    add_machine(parser, threads=counts(1, MOST_THREADS))
    add("-r", "--repetitions", type=count(1, MAX_CONTEXT), default=5, metavar="N", help="default 5")
    add("--no-warmup", action="store_true", help="measure from the first run on")
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
        several = len(arguments.n_batch) > 1
        columns = report.TESTS_OF_BATCHES if several else report.TESTS
        report.write(_tests(arguments), columns, arguments.output, out)
        if arguments.output == "md":
            print(f"\nbuild: linnet {__version__}")
    return 0


def _tests(arguments: argparse.Namespace) -> Iterator[Any]:
    tests, models = _matrix(arguments), _models(arguments)
    total = len(tests) * arguments.repetitions * len(models)
    with _progress(total) as bar:
        for model in models:
            for test in tests:
                bar.set_description(f"{model.name}: {test.name}")
                yield measure(
                    model, test, repetitions=arguments.repetitions,
                    warmup=not arguments.no_warmup, isa=arguments.isa,
                    numerics=Numerics.of(**numerics(arguments)), tick=bar.update,
                )  # fmt: skip


def _layers(arguments: argparse.Namespace) -> Iterator[Any]:
    tests, models = _matrix(arguments), _models(arguments)
    with _progress(len(tests) * len(models)) as bar:
        for model in models:
            for test in tests:
                bar.set_description(f"{model.name}: {test.name}")
                rows = layers(
                    model, test, repetitions=arguments.repetitions, isa=arguments.isa,
                    numerics=Numerics.of(**numerics(arguments)),
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
                numerics=Numerics.of(**numerics(arguments)), repetitions=arguments.repetitions,
            ):  # fmt: skip
                bar.set_description(f"{row['op']} {row['type']}")
                bar.update()
                yield row


def _plot(arguments: argparse.Namespace, rows: list[Any]) -> None:
    model, test = _models(arguments)[0], _matrix(arguments)[0]
    how = Numerics.of(**numerics(arguments))
    bandwidth, peaks = roofs(model, test, isa=arguments.isa, numerics=how)
    title = f"{rows[0]['model_type']}, {rows[0]['n_threads']} threads, {rows[0]['isa']}"
    plot.plot(arguments.plot, rows, bandwidth=bandwidth, peaks=peaks, title=title)
    print(f"{arguments.plot}: written", file=sys.stderr)


def _models(arguments: argparse.Namespace) -> list[BenchModel]:
    files = [*arguments.model, *map(str, map(hub.download, arguments.hf_repo))]
    if arguments.n_layers and not arguments.synthetic:
        raise ValueError("--n-layers is for synthetic models: give --synthetic SHAPE:TYPE, too")
    if not files and not arguments.synthetic:
        files = [str(DEMO_MODEL)]
    return [BenchModel(path) for path in files] + [
        BenchModel(name, synthetic=True, n_layers=arguments.n_layers)
        for name in arguments.synthetic
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


def _pair(text: str) -> tuple[int, int]:
    numbers = count_list(0, MAX_CONTEXT)(text)
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers: a prompt, a generation")
    return numbers[0], numbers[1]
