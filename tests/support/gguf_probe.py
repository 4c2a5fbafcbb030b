"""Open the files named on standard input, and report on each in one line of JSON.

Run as a process of its own: a file that kills or hangs the reader then costs a test, not the suite.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from linnet.engine.gguf.reader import GGUFError, GGUFFile
from linnet.engine.machine import peak_memory

WALL_SECONDS = 20  # then SIGALRM ends the process


def peak_mib() -> float:
    return (peak_memory() or 0) / 2**20


def forget_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def read_everything(file: GGUFFile) -> None:
    dict(file.metadata)
    for tensor in file.tensors.values():
        np.add.reduce(tensor.data, dtype=np.uint64)


def open_once(path: str, *, mmap: bool) -> tuple[str, float, float]:
    """What came of opening the file, the processor time it took, and the memory in MiB."""
    before = forget_peak()
    start = time.process_time()
    try:
        file = GGUFFile(path, mmap=mmap)
    except (GGUFError, OSError) as error:
        outcome, file = f"{type(error).__name__}: {error}", None
    else:
        outcome = "opened"
    seconds, mib = time.process_time() - start, peak_mib() - before
    if file is not None:
        with file:
            if mmap:
                read_everything(file)
    return outcome, seconds, mib


def probe(path: str) -> dict[str, object]:
    n_descriptors = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mapped, in_memory = open_once(path, mmap=True), open_once(path, mmap=False)
    return {
        "outcome": mapped[0],
        "same_in_memory": mapped[0] == in_memory[0],
        "seconds": max(mapped[1], in_memory[1]),
        "mib": max(mapped[2], in_memory[2]),
        "leaked": len(os.listdir("/proc/self/fd")) - n_descriptors,
        "warnings": [str(warning.message) for warning in caught],
    }


def main() -> None:
    for line in sys.stdin:
        signal.alarm(WALL_SECONDS)
        print(json.dumps(probe(line.rstrip("\n"))), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
