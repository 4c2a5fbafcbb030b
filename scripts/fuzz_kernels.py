"""Random shapes, types, places and bit patterns through every kernel, next to numpy.

    python scripts/fuzz_kernels.py [--seconds 60] [--calls N] [--seed 1] [--jobs 1]
    python scripts/fuzz_kernels.py --seed 1 --case 4711     # one case again, call by call

Arrays lie against pages that no one may touch, those that are read in memory that kernels may not
write. Cases run in processes of their own, on every instruction set of this CPU but matrix
registers. A find is a result further from numpy's than rounding explains
(`tests/support/random_cases.py` says how far that is), a byte written beside an array, bits
that depend on where arrays lie or on how items are shared out, a signal, or a case that does not
end. Each is printed with its seed and number; the exit code is 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import mmap
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests"):
    sys.path.insert(0, str(folder))

from support.random_calls import Caller, make_case  # noqa: E402

from linnet.kernels.compiler.host import available_isas, choose_isa  # noqa: E402
from linnet.kernels.quants import WEIGHT_TYPES  # noqa: E402

PATIENCE = 120  # seconds that a case may take; what it calls may have to be compiled first
MOST_FINDS = 100


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.child:
        child(args)
        return 0
    if args.case is not None:
        return replay(args)
    started, counts, finds = time.monotonic(), Counter[str](), 0
    jobs = [Job(args, i) for i in range(args.jobs)]
    while any(job.running for job in jobs):
        time.sleep(0.05)
        for job in jobs:
            finds += job.look_after()
        if finds > MOST_FINDS:
            print("too many finds: it ends here")
            for job in jobs:
                job.end()
    for job in jobs:
        counts.update(job.counts)
    report(counts, sum(job.n_cases for job in jobs), finds, time.monotonic() - started, args)
    return 1 if finds else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--calls", type=int, help="how many calls, instead of how long")
    parser.add_argument("--seed", type=int, default=1, help="of all cases (1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--case", type=int, help="run this case alone, and say each call")
    parser.add_argument("--isa", action="append", help="instruction set; all without it")
    parser.add_argument("--type", action="append", help="type of weights; all without it")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--status", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    args.isa = args.isa or [isa.name for isa in available_isas() if isa.tiles is None]
    args.type = args.type or list(WEIGHT_TYPES)
    for name in args.isa:
        choose_isa(name)
    unknown = set(args.type) - WEIGHT_TYPES.keys()
    if unknown:
        parser.error(f"--type: {', '.join(sorted(unknown))}; there are {', '.join(WEIGHT_TYPES)}")
    return args


# ---- the process that calls ----------------------------------------------------------------------


def child(args: argparse.Namespace) -> None:
    """Cases from the first on, each so many after the last; results are lines of JSON."""
    number, step = args.child
    caller, n_cases, told = Caller(args.isa), 0, Counter[tuple[str, str]]()
    end = time.monotonic() + args.seconds
    with open(args.status, "r+b") as file:
        status = mmap.mmap(file.fileno(), 8)
    while time.monotonic() < end if args.calls is None else caller.counts.total() < args.calls:
        status[:] = number.to_bytes(8, "little")
        finds = list(caller.call(make_case(args.seed, number, args.type), args.seed, number))
        if finds:
            say(find=f"{finds[0]} ({len(finds)} such)", case=number)
        number += step
        n_cases += 1
        if n_cases % 100 == 0:
            say(calls=_named(caller.counts - told), cases=100)
            told = caller.counts.copy()
    say(calls=_named(caller.counts - told), cases=n_cases % 100)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _named(counts: Counter[tuple[str, str]]) -> dict[str, int]:
    return {f"{kernel} {isa}": n for (kernel, isa), n in counts.items()}


def replay(args: argparse.Namespace) -> int:
    """One case in this process, which a signal ends behind the name of the call."""
    case = make_case(args.seed, args.case, args.type)
    shapes = {n: getattr(a, "shape", a) for n, a in case.arguments.items()}
    print(f"{case.op.symbol}, {case.n_rows} rows, {shapes}", flush=True)
    tell = lambda what: print(" ", what, flush=True)  # noqa: E731
    finds = list(Caller(args.isa).call(case, args.seed, args.case, tell))
    print("\n".join(finds) or "no find")
    return 1 if finds else 0


# ---- the process that looks on -------------------------------------------------------------------


class Job:
    """A share of the cases, in one process after another if they end early."""

    def __init__(self, args: argparse.Namespace, index: int) -> None:
        self._args, self._end = args, time.monotonic() + args.seconds
        self.counts, self.n_cases, self.running = Counter[str](), 0, True
        self._status = tempfile.NamedTemporaryFile(prefix="fuzz-")  # noqa: SIM115
        self._status.write(bytes(8))
        self._status.flush()
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._start(index)

    def _start(self, number: int) -> None:
        args = self._args
        command = [sys.executable, __file__, "--child", str(number), str(args.jobs)]
        command += ["--seed", str(args.seed), "--status", self._status.name]
        for option in ("isa", "type"):
            command += [part for value in getattr(args, option) for part in (f"--{option}", value)]
        if args.calls is None:
            command += ["--seconds", str(self._end - time.monotonic())]
        else:
            command += ["--calls", str(-(-args.calls // args.jobs) - self.counts.total())]
        self._case, self._since = number, time.monotonic()
        self._process = subprocess.Popen(command, stdout=self._output)

    def look_after(self) -> int:
        """How many finds there are since the last look; a process that found its end has a
        successor."""
        if not self.running:
            return 0
        code = self._process.poll()
        finds = self._read()
        case = int.from_bytes(Path(self._status.name).read_bytes(), "little")
        if case != self._case:
            self._case, self._since = case, time.monotonic()
        elif code is None and time.monotonic() - self._since > PATIENCE:
            self._process.kill()
            code = self._process.wait()
        if code is None:
            return finds
        if code == 0:
            self.running = False
            return finds
        seconds = time.monotonic() - self._since
        self._find(case, f"the process ended with {code} after {seconds:.1f} s")
        left = self._end > time.monotonic() if self._args.calls is None else True
        if left:
            self._start(case + self._args.jobs)
        self.running = left
        return finds + 1

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.running = False

    def _read(self) -> int:
        """Take the lines that were written whole."""
        self._output.seek(getattr(self, "_read_to", 0))
        finds = 0
        while (line := self._output.readline()).endswith("\n"):
            said = json.loads(line)
            if "find" in said:
                self._find(said["case"], said["find"])
                finds += 1
            else:
                self.counts.update(said["calls"])
                self.n_cases += said["cases"]
            self._read_to = self._output.tell()
        self._output.seek(0, 2)
        return finds

    def _find(self, case: int, what: str) -> None:
        types = "" if set(self._args.type) == set(WEIGHT_TYPES) else "".join(
            f" --type {type}" for type in self._args.type
        )  # fmt: skip
        print(f"FIND --seed {self._args.seed} --case {case}{types}: {what}", flush=True)


def report(
    counts: Counter[str], n_cases: int, finds: int, seconds: float, args: argparse.Namespace
) -> None:
    kernels = sorted({name.split()[0] for name in counts})
    width = max(map(len, kernels), default=0)
    print(" " * width, *(f"{isa:>11}" for isa in args.isa))
    for kernel in kernels:
        each = (counts[f"{kernel} {isa}"] for isa in args.isa)
        print(f"{kernel:<{width}}", *(f"{n:>11,}" for n in each))
    total = counts.total()
    print(
        f"{total:,} calls in {n_cases:,} cases of seed {args.seed}, {seconds:.0f} s, "
        f"{total / seconds:,.0f} calls/s: {finds} finds"
    )


if __name__ == "__main__":
    sys.exit(main())
