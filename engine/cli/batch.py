"""`linnet batch`: a file of requests in, a file of answers out, with which it goes on."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from linnet.engine.cli.batch_progress import Progress
from linnet.engine.cli.counts import count
from linnet.engine.cli.loop_signals import hear
from linnet.engine.cli.model import add_model_flags, note_demo
from linnet.engine.cli.served import add_served, opened, settings
from linnet.engine.extras import installing

if TYPE_CHECKING:
    from linnet.engine.batch.output import Output
    from linnet.engine.batch.pool import Workable
    from linnet.engine.batch.source import Source
    from linnet.engine.server.settings import Settings

MISSING = f"linnet batch needs packages of its own: {installing('serve')}"
N_PARALLEL = 16
AHEAD = 4  # requests that are made ready while others run
AUTO = "auto"
MOST_WORKERS = 10_000
MOST_SHARDS = 1_000_000
FILES = "two files are wanted: linnet batch IN OUT, or -i IN -o OUT"


def configure(parser: argparse.ArgumentParser) -> None:
    """Files go as they are or, as `vllm run-batch` has them, by flags."""
    what = "requests, one a line, as OpenAI's batches have them"
    parser.add_argument("input", nargs="?", metavar="IN", help=what)
    what = "answers, one a line; of those that it has, none is asked again"
    parser.add_argument("output", nargs="?", metavar="OUT", help=what)
    add = parser.add_argument_group("batch").add_argument
    add("-i", "--input-file", metavar="IN", help="as IN")
    add("-o", "--output-file", metavar="OUT", help="as OUT")
    add("--shard", type=_shard, default=(1, 1), metavar="I/N",
        help="every N-th line alone, from line I on; each shard has an OUT of its own")  # fmt: skip
    add("--ordered", action="store_true", help="once all are there, put them in the order of IN")
    add("--retry-errors", action="store_true", help="ask again what OUT has an error for")
    add("--ray", nargs="?", const=AUTO, type=_address, metavar="ADDRESS",
        help="ask workers on a Ray cluster, at HOST:PORT or, without it, that of RAY_ADDRESS or of "
        "this machine; -t is the CPUs of each, by default those of the smallest node")  # fmt: skip
    add("--workers", type=count(1, MOST_WORKERS), metavar="N",
        help="on the cluster; default as many as it has room for")  # fmt: skip
    what = "nothing on stderr but errors and warnings"
    parser.add_argument("-q", "--quiet", action="store_true", help=what)
    add_model_flags(parser)
    add_served(parser, n_parallel=N_PARALLEL)


def run(arguments: argparse.Namespace) -> int:
    """Answer what has no answer yet. The status is 0 once all have one, be it an error; Ctrl-C and
    SIGTERM leave files with which the same command goes on."""
    try:
        from linnet.engine.batch.output import Output
        from linnet.engine.batch.source import Source
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    given = settings(arguments)
    in_path, out_path = _files(arguments)
    if arguments.workers is not None and arguments.ray is None:
        raise ValueError("--workers is of a cluster; it goes with --ray")
    with (
        closing(Source(in_path, arguments.shard)) as source,
        closing(Output(out_path, source, retry_errors=arguments.retry_errors)) as output,
    ):
        status = 0
        progress = Progress(output.counts, output.before, output.n, quiet=arguments.quiet)
        if output.counts.answers < output.n:
            note_demo(arguments)
            with _workers(arguments, given) as workers:
                n_each = arguments.parallel + AHEAD
                status = asyncio.run(_answer(workers, n_each, source, output, progress))
        if status == 0 and arguments.ordered:
            output.put_in_order()
        progress.conclude()
    return status


@contextmanager
def _workers(arguments: argparse.Namespace, given: Settings) -> Iterator[Sequence[Workable]]:
    """One in this process, or those on a cluster; they end with the block."""
    from linnet.engine.batch.worker import Worker

    make = partial(Worker, partial(opened, arguments), given)
    if arguments.ray is None:
        with closing(make()) as worker:
            yield [worker]
        return
    try:
        from linnet.engine.batch.cluster import Cluster
    except ImportError as error:
        raise ImportError(
            f"--ray needs packages of its own: {installing('ray')} ({error})"
        ) from error
    with closing(Cluster(arguments.ray)) as cluster:
        arguments.threads = arguments.threads or min(cluster.cpus, default=1)
        yield cluster.workers(make, arguments.workers, arguments.threads)


async def _answer(
    workers: Sequence[Workable], n_each: int, source: Source, output: Output, progress: Progress
) -> int:
    """Until all is answered, or a signal comes; a second one ends the process at once, which leaves
    files as good. Returns the status."""
    from linnet.engine.batch.pool import answer_all

    came: list[int] = []
    here = asyncio.current_task()

    def on_signal(number: int) -> None:
        if came:
            os._exit(128 + number)
        came.append(number)
        if here is not None:
            here.cancel()

    def on_answer(index: int, line: bytes) -> None:
        output.add(index, line)
        progress.update()

    hear(on_signal)
    with progress:
        try:
            await answer_all(source.requests(output.missing()), workers, n_each, on_answer)
        except asyncio.CancelledError:
            if not came:
                raise
    return 128 + came[0] if came else 0


def _files(arguments: argparse.Namespace) -> tuple[str, str]:
    """Raises ValueError where they are not two."""
    words = [word for word in (arguments.input, arguments.output) if word is not None]
    flags = [name for name in (arguments.input_file, arguments.output_file) if name is not None]
    if sorted([len(words), len(flags)]) != [0, 2]:
        raise ValueError(FILES)
    source, output = words or flags
    return source, output


def _address(text: str) -> str:
    """An argument type: of a Ray cluster, and no file that follows the flag."""
    if text != AUTO and not re.search(r":\d+$", text):
        what = "it is HOST:PORT; a flag without it goes behind the files"
        raise argparse.ArgumentTypeError(f"{text!r} is no address: {what}")
    return text


def _shard(text: str) -> tuple[int, int]:
    """An argument type: 2/8."""
    numbers = count(1, MOST_SHARDS)
    first, slash, last = text.partition("/")
    i, n = numbers(first), numbers(last if slash else "")
    if i > n:
        raise argparse.ArgumentTypeError(f"{text!r} is no shard: there are {n}, from 1/{n} on")
    return i, n
