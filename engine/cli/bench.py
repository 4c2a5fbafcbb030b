"""`linnet bench`: tests by llama-bench's flags, kernels alone, and a pass step by step."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from linnet.engine.cli.counts import Extend, count, count_list, counts, number
from linnet.engine.cli.machine import add_machine, numerics
from linnet.engine.cli.measuring import Progress
from linnet.engine.cli.model import add_models, model_paths
from linnet.engine.machine import MOST_THREADS, usable_threads
from linnet.engine.measure.bench import plot, report, tables
from linnet.engine.measure.bench.layers import layers
from linnet.engine.measure.bench.measure import BenchModel, BenchTest, all_tests, measure, roofs
from linnet.engine.measure.bench.ops import Shape, names, ops
from linnet.engine.measure.bench.report import Row
from linnet.engine.measure.synthetic import SHAPES
from linnet.engine.open_model import DEMO_MODEL
from linnet.engine.running.runner import PROMPT_TOKENS
from linnet.models.parts.config import MAX_CONTEXT, MAX_LAYERS
from linnet.models.parts.numerics import Numerics

FORMATS = tuple(report.WRITERS)
MOST_DELAY = 3600  # seconds
MOST_SIDE = 1 << 20  # of a matrix
MOST_PARALLEL = 512


class Words(Extend):
    """Names between commas."""

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        super().__call__(parser, namespace, self.words(values), flag)

    def words(self, text: str) -> list[str]:
        return text.split(",")


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-bench names them."""
    parser.epilog = (
        "Where N may be a list, it is 1,2,4 or a range: 512-2048+512 is 512, 1024, 1536, 2048, and "
        "1-8*2 is 1, 2, 4, 8. A flag with a list may come again, and every combination is measured."
    )
    add, tokens = parser.add_argument, counts(0, MAX_CONTEXT)
    add_models(parser)
    add(
        "--synthetic", action=Words, default=[], metavar="SHAPE:TYPE",
        help="random weights in real shapes, as llama-3.2-1b:Q4_K_M, or a,b; shapes: "
        f"{', '.join(SHAPES)}",
    )  # fmt: skip
    add(
        "--n-layers", type=count(1, MAX_LAYERS), metavar="N",
        help="layers of --synthetic models; default: the shape's own",
    )  # fmt: skip
    add("-p", "--n-prompt", **tokens, default=[512], help="prompts; default 512; a list")
    add("-n", "--n-gen", **tokens, default=[128], help="generation; default 128; a list")
    add(
        "-pg", action="append", type=_pair, default=[], metavar="PP,TG",
        help="a prompt and then a generation; may be repeated",
    )  # fmt: skip
    add("-d", "--n-depth", **tokens, default=[0], help="tokens cached before; a list")
    add(
        "-ub", "--ubatch-size", **counts(1, MAX_CONTEXT), default=[],
        help=f"tokens in a prompt pass; default {PROMPT_TOKENS}; a list",
    )  # fmt: skip
    add(
        "-b", "--batch-size", **counts(1, MAX_CONTEXT), default=[],
        help="the same; of both, the smaller counts",
    )  # fmt: skip
    add(
        "-npl", "--n-parallel", **counts(1, MOST_PARALLEL), default=[1],
        help="sequences at once; default 1; a list",
    )  # fmt: skip
    add_machine(parser, threads=counts(1, MOST_THREADS))
    add("-r", "--repetitions", type=count(1, MAX_CONTEXT), default=5, metavar="N", help="default 5")
    add("--no-warmup", action="store_true", help="measure from the first run on")
    add(
        "--delay", type=number(0, MOST_DELAY), default=0, metavar="SECONDS",
        help="rest before each test but the first, for a CPU that runs hot",
    )  # fmt: skip
    add("-o", "--output", choices=FORMATS, default="md", help="on stdout; default md, for people")
    add("-oe", "--output-err", choices=("none", *FORMATS), default="none", help="on stderr, too")
    add("--progress", action="store_true", help="a line on stderr for every repetition, and no bar")
    add(
        "--ops", nargs="?", const="", metavar="NAMES",
        help=f"kernels instead of a model: all, or a,b of {', '.join(names())}",
    )  # fmt: skip
    add(
        "--shape", type=_shapes, action=Extend, default=[], metavar="MxK",
        help="weights of --ops with M rows, which are outputs, and K columns, or a,b",
    )  # fmt: skip
    add("--layers", action="store_true", help="where the time of a pass goes, step by step")
    add(
        "--plot", metavar="FILE",
        help="a picture of the roofline with each step on it, as roof.svg; needs matplotlib",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Tables on stdout, progress on stderr."""
    if arguments.ops is None and arguments.shape:
        raise ValueError("--shape is for kernels: give --ops, too")
    if arguments.ops is not None:
        models = [*arguments.words, *arguments.model, *arguments.synthetic]
        if models or arguments.layers or arguments.plot:
            raise ValueError(
                "--ops measures kernels alone: without a model, --synthetic, --layers and --plot"
            )
        report.write(_ops(arguments), tables.OPS, _outputs(arguments))
    elif arguments.layers or arguments.plot:
        _layers(arguments)
    else:
        models, tests = _models(arguments), _matrix(arguments)
        several = len(_batches(arguments)) > 1
        table = tables.of_tests([test.name for test in tests], batches=several)
        report.write(_tests(arguments, models, tests), table, _outputs(arguments))
    return 0


def _outputs(arguments: argparse.Namespace) -> list[tuple[str, TextIO]]:
    both = (arguments.output, sys.stdout), (arguments.output_err, sys.stderr)
    return [(format, out) for format, out in both if format != "none"]


def _tests(
    arguments: argparse.Namespace, models: Sequence[BenchModel], tests: Sequence[BenchTest]
) -> Iterator[Row]:
    repetitions = arguments.repetitions
    with Progress(len(tests) * repetitions * len(models), lines=arguments.progress) as progress:
        for i, (model, test) in enumerate(itertools.product(models, tests)):
            if i:
                time.sleep(arguments.delay)
            progress.begin(_label(model, test, models))
            row = measure(
                model, test, repetitions=repetitions, warmup=not arguments.no_warmup,
                isa=arguments.isa, numerics=Numerics.of(**numerics(arguments)), tick=progress.step,
            )  # fmt: skip
            progress.clear()
            yield row


def _layers(arguments: argparse.Namespace) -> None:
    models, tests, rows = _models(arguments), _matrix(arguments), list[Row]()
    if arguments.plot:
        if len(models) > 1 or len({test.n_threads for test in tests}) > 1:
            raise ValueError("--plot shows one model, on one number of threads")
        plot.check_path(arguments.plot)
    with Progress(len(tests) * len(models), lines=arguments.progress) as progress:
        for model, test in itertools.product(models, tests):
            progress.begin(_label(model, test, models))
            steps = layers(
                model, test, repetitions=arguments.repetitions, isa=arguments.isa,
                numerics=Numerics.of(**numerics(arguments)),
            )  # fmt: skip
            rows += steps
            progress.step()
            progress.clear()
            print(_times(steps), file=sys.stderr)
    if arguments.layers:
        for format, out in _outputs(arguments):
            shown = tables.layers_in_short(rows) if format == "md" else rows
            report.write(shown, tables.LAYERS, [(format, out)])
    if arguments.plot:
        _plot(arguments, rows)


def _times(steps: Sequence[Row]) -> str:
    """What watching costs."""
    test, plain, watched = steps[0]["test"], steps[0]["pass_us"], sum(row["us"] for row in steps)
    return f"{test}: {report.duration(plain)} a pass, {report.duration(watched)} while watched"


def _ops(arguments: argparse.Namespace) -> Iterator[Row]:
    wanted = [name for name in arguments.ops.split(",") if name]
    with Progress(None, lines=arguments.progress) as progress:
        for n_threads in _thread_counts(arguments):
            for row in ops(
                wanted, shapes=arguments.shape, n_threads=n_threads, isa=arguments.isa,
                numerics=Numerics.of(**numerics(arguments)), repetitions=arguments.repetitions,
            ):  # fmt: skip
                progress.begin(f"{row['op']} {row['type']}")
                progress.step()
                progress.clear()
                yield row


def _plot(arguments: argparse.Namespace, rows: Sequence[Row]) -> None:
    model, test = _models(arguments)[0], _matrix(arguments)[0]
    how = Numerics.of(**numerics(arguments))
    bandwidth, peaks = roofs(model, test, isa=arguments.isa, numerics=how)
    plot.plot(arguments.plot, rows, bandwidth=bandwidth, peaks=peaks, title=tables.heading(rows[0]))
    print(f"{arguments.plot}: written", file=sys.stderr)


def _models(arguments: argparse.Namespace) -> list[BenchModel]:
    files = model_paths(arguments)
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
        depths=arguments.n_depth, batches=_batches(arguments), threads=_thread_counts(arguments),
        parallel=arguments.n_parallel,
    )  # fmt: skip
    if not tests:
        raise ValueError("nothing to measure: -p and -n are both 0, and there is no -pg")
    return tests


def _batches(arguments: argparse.Namespace) -> list[int]:
    """Tokens in a pass. Here a batch is no more than that: what llama.cpp calls a ubatch."""
    batches, ubatches = arguments.batch_size, arguments.ubatch_size
    if batches and ubatches:
        return list(dict.fromkeys(map(min, itertools.product(batches, ubatches))))
    return batches or ubatches or [PROMPT_TOKENS]


def _thread_counts(arguments: argparse.Namespace) -> list[int]:
    return arguments.threads or [usable_threads()]


def _label(model: BenchModel, test: BenchTest, models: Sequence[BenchModel]) -> str:
    """The test; and the model's name, without folders, where there are several."""
    return f"{test.name} {Path(model.name).stem}" if len(models) > 1 else test.name


def _shapes(text: str) -> list[Shape]:
    shapes = []
    for word in text.split(","):
        found = re.fullmatch(r"([0-9]+)x([0-9]+)", word)
        if not found:
            raise argparse.ArgumentTypeError(f"{word[:80]!r} is not MxK, as 4096x2048")
        n_out, n_columns = map(count(1, MOST_SIDE), found.groups())
        shapes.append((n_out, n_columns))
    return shapes


def _pair(text: str) -> tuple[int, int]:
    numbers = count_list(0, MAX_CONTEXT)(text)
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers: a prompt, a generation")
    return numbers[0], numbers[1]
