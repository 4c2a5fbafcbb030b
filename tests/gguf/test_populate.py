"""Pages that are mapped before they are touched."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.systems import needs_linux

from linnet.engine.gguf.populate import Populating

N_BYTES = 8 << 20


def resident(array: NDArray[np.uint8]) -> int:
    """Bytes of the mapping an array lies in that this process has mapped."""
    begin = f"{array.ctypes.data:x}-"
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.startswith(begin))
    return int(next(line for line in lines if line.startswith("Rss:")).split()[1]) << 10


@needs_linux
def test_pages_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(N_BYTES))
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    array = np.frombuffer(mapping, np.uint8)
    assert resident(array) == 0
    Populating([array[100 : N_BYTES // 2], array[N_BYTES // 2 :]])
    for _ in range(1000):
        if resident(array) == N_BYTES:
            return
        time.sleep(0.01)
    pytest.skip("this system has no MADV_POPULATE_READ")


def test_what_cannot_be_mapped_is_left_to_who_touches_it(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(N_BYTES))
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    path.write_bytes(b"")  # cut short
    populating = Populating([np.frombuffer(mapping, np.uint8)])
    populating.stop()
    populating._run([np.frombuffer(mapping, np.uint8)])
