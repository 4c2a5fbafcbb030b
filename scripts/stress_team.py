"""A team of threads through a million barriers: quiet, with cores taken away, with busy neighbours.

    python scripts/stress_team.py [--rounds 1000000] [--threads 1 2 4 8]

A round is a step that needs all that the last one made, so threads meet at every one; numbers say
whether each saw what others wrote. Prints rounds a second, and what share of a core the threads
take that wait: within a pass for one that is slow, and between passes. A third of the rounds each:
as it comes; while all threads are put on one core and back, twenty times a second; and with a
process on every core that does nothing but count. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests"):
    sys.path.insert(0, str(folder))

from support.team_programs import WaitForFlag, chain, lowered  # noqa: E402

from linnet.kernels.compiler.host import choose_isa  # noqa: E402
from linnet.kernels.compiler.jit import Library  # noqa: E402
from linnet.kernels.runtime.team import Team  # noqa: E402

STEPS, ITEMS = 1000, 16  # of a pass, of a step
PATIENCE = 600  # seconds after which a pass that is under way has hung
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1_000_000, help="for each team (1000000)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8], help="(1 2 4 8)")
    args = parser.parse_args(arguments)
    library = Library(choose_isa())
    surroundings = {"quiet": contextlib.nullcontext, "cores": cores_come_and_go, "busy": neighbours}
    print(f"{len(CORES)} cores; rounds a second, and waiting threads' share of a core each")
    print(f"{'threads':>7}", *(f"{name:>10}" for name in (*surroundings, "in a pass", "idle")))
    for n_threads in args.threads:
        team = Team(library, n_threads)
        n_passes = max(1, args.rounds // STEPS // 3 + 1)
        rates = [stress(library, team, n_passes, around) for around in surroundings.values()]
        with on_one_core():
            waiting, idle = cpu_within_a_pass(library, team), cpu_of_an_idle_team()
        team.close()
        shares = (f"{share:>10.2%}" for share in (waiting, idle))
        print(f"{n_threads:>7}", *(f"{rate:>10,.0f}" for rate in rates), *shares, flush=True)


def stress(
    library: Library, team: Team, n_passes: int,
    around: Callable[[], contextlib.AbstractContextManager[None]],
) -> float:  # fmt: skip
    """Rounds a second. Raises RuntimeError for a wrong result; a hang ends the process."""
    program, numbers = chain(library, STEPS, ITEMS)
    with around():
        started = time.perf_counter()
        for n_done in range(1, n_passes + 1):
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            team.run(program)
            if (numbers != n_done * STEPS).any():
                raise RuntimeError(f"after pass {n_done} numbers are {numbers.tolist()}")
        faulthandler.cancel_dump_traceback_later()
        return n_passes * STEPS / (time.perf_counter() - started)


# ---- what happens around a team ------------------------------------------------------------------


def set_cores(cores: set[int]) -> None:
    """For every thread of this process."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    set_cores({min(CORES)})
    try:
        yield
    finally:
        set_cores(CORES)


@contextlib.contextmanager
def cores_come_and_go() -> Iterator[None]:
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            with on_one_core():
                over.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def neighbours() -> Iterator[None]:
    """A process on every core that never waits."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in CORES]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# ---- what waiting costs --------------------------------------------------------------------------


def cpu_within_a_pass(library: Library, team: Team, seconds: float = 1.0) -> float:
    """What share of a core each thread takes that waits while one works on the only item."""
    began, flag = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    program = lowered(library, (WaitForFlag(), {"out": began, "flag": flag}))
    shares: list[float] = []

    def watch() -> None:
        while not began[0]:
            time.sleep(0.001)
        time.sleep(0.1)  # by now whoever waits has begun to sleep
        before = cpu_of_threads()
        time.sleep(seconds)
        used = sorted(after - before[thread] for thread, after in cpu_of_threads().items())
        shares.append(sum(used[:-1]) / max(1, len(used) - 1) / seconds)  # one of them works
        flag[0] = 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    team.run(program)
    watcher.join()
    return shares[0]


def cpu_of_threads() -> dict[int, float]:
    """Seconds of CPU that each thread of this process but the calling one has had."""
    others = [t.ident for t in threading.enumerate() if t != threading.current_thread()]
    return {t: time.clock_gettime(time.pthread_getcpuclockid(t)) for t in others if t}


def cpu_of_an_idle_team(seconds: float = 1.0) -> float:
    """What share of a core this process takes once a pass is a while ago."""
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - before) / seconds


if __name__ == "__main__":
    main()
