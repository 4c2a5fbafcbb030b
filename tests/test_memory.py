"""Weights are read where they lie in the file: no copy of a matrix is ever made.

What a model costs beyond its mapped file is measured in a process of its own, which this file,
run as a script with a model's path, is.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from kernel_harness import run_python
from tiny_llama import TinyLlama

from linnet import LLM, SamplingParams

MAPS = Path("/proc/self/smaps_rollup")
MB = 10**6
PRIVATE_MB = 40  # measured: 7 to 14, and 21 where kernels are compiled as well
WIDE = TinyLlama(type="Q4_K", n_layers=2, n_embd=4096, n_ff=14336, n_heads=32, n_kv_heads=8)


def own_memory() -> int:
    """Bytes of memory that hold no page of a file: anonymous, shared or swapped out."""
    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB", MAPS.read_text(), re.MULTILINE))
    return 1024 * sum(int(kilobytes.get(name, 0)) for name in ("Anonymous", "Pss_Shmem", "Swap"))


def measure(path: str) -> dict[str, int]:
    """Bytes that loading added, and loading and generating together."""
    before = own_memory()
    with LLM(path, n_threads=2, n_ctx=64) as llm:
        loaded = own_memory()
        ids = [1, *range(300, 320)]
        output = llm.generate(ids, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
        assert len(output.token_ids) == 8
        return {"load": loaded - before, "generate": own_memory() - before}


@pytest.mark.skipif(not MAPS.exists(), reason=f"needs {MAPS}")
def test_no_copy_of_the_weights_is_made(tmp_path: Path) -> None:
    path = WIDE.write(tmp_path / "wide.gguf")
    assert path.stat().st_size > 5 * PRIVATE_MB * MB
    assert WIDE.n_ff * WIDE.n_embd > PRIVATE_MB * MB  # a copy of one matrix in int8 would show
    child = run_python(__file__, path)
    path.unlink()
    assert child.returncode == 0, child.stderr
    added = json.loads(child.stdout)
    assert added["load"] < PRIVATE_MB * MB, added
    assert added["generate"] < PRIVATE_MB * MB, added


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
