"""Weights are read where they lie in the file: no copy of a matrix is ever made.

What a model costs beyond its mapped file is measured in a process of its own, which this file,
run as a script with a model's path, is.
"""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import pytest
from support.kernel_harness import run_python
from support.systems import needs_proc
from support.tiny_llama import TinyLlama

from linnet import LLM, SamplingParams

resource = pytest.importorskip("resource")  # which Windows has not

MAPS = Path("/proc/self/smaps_rollup")
MB = 10**6
PRIVATE_MB = 40  # measured: 7, and 21 where kernels are compiled as well
WIDE = TinyLlama(type="Q4_K", n_layers=2, n_embd=4096, n_ff=14336, n_heads=32, n_kv_heads=8)


def own_memory() -> int:
    """Bytes of memory that hold no page of a file: anonymous, shared or swapped out."""
    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB", MAPS.read_text(), re.MULTILINE))
    return 1024 * sum(int(kilobytes.get(name, 0)) for name in ("Anonymous", "Pss_Shmem", "Swap"))


def measure(path: str) -> int:
    """Bytes of its own that a process needs more once it has loaded a model and generated.

    On the way it gets no more than PRIVATE_MB: not even a copy that lives a moment is overlooked.
    """
    before = own_memory()
    threading.stack_size(1 << 20)
    data = int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
    limit = 1024 * data + PRIVATE_MB * MB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with LLM(path, n_threads=2, n_ctx=64) as llm:
        ids = [1, *range(300, 320)]
        output = llm.generate(ids, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
        assert len(output.token_ids) == 8
        return own_memory() - before


@needs_proc
def test_no_copy_of_the_weights_is_made(tmp_path: Path) -> None:
    path = WIDE.write(tmp_path / "wide.gguf")
    assert path.stat().st_size > 5 * PRIVATE_MB * MB
    assert WIDE.n_ff * WIDE.n_embd > PRIVATE_MB * MB  # a copy of one matrix in int8 would show
    child = run_python(__file__, path)
    path.unlink()
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < PRIVATE_MB * MB


if __name__ == "__main__":
    print(measure(sys.argv[1]))
