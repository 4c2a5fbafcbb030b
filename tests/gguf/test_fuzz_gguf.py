"""The fuzzer of model files: what it starts from, what it makes of it, and that it finds things."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from pathlib import Path

import fuzz_gguf
import pytest
from fuzz_gguf import Counts, Expensive, file_of, load, run_case, watch
from gguf_parts import File
from mutate_gguf import Seeds
from support.fuzz_seeds import seeds
from support.systems import needs_linux
from support.tiny_architectures import TINY

from linnet.engine.gguf.reader import GGUFError, GGUFFile
from linnet.kernels.quants import WEIGHT_TYPES

pytestmark = needs_linux  # whose /proc the script measures by
FILES = Seeds(seeds())


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES.files)
def test_a_seed_is_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "seed.gguf"
    path.write_bytes(FILES.files[name])
    counts = Counts()
    assert load(path, counts)
    assert not counts.errors


def test_there_is_a_seed_of_every_architecture_and_type() -> None:
    assert FILES.files.keys() == {*TINY, *(f"llama in {name}" for name in WEIGHT_TYPES)}


@pytest.mark.parametrize("name", FILES.files)
def test_a_file_taken_apart_and_built_again_is_the_same(name: str) -> None:
    assert File.parse(FILES.files[name]).build() == FILES.files[name]


def test_a_case_is_the_same_file_every_time() -> None:
    cases, anew = [file_of(FILES, 5, case) for case in range(200)], Seeds(seeds())
    assert cases == [file_of(anew, 5, case) for case in range(200)]
    assert len({data for _, data in cases}) > 180
    assert cases != [file_of(FILES, 6, case) for case in range(200)]


@pytest.mark.filterwarnings("ignore:.*bytes after the last tensor")
def test_changes_of_meaning_get_past_the_reader(tmp_path: Path) -> None:
    """Half of the files at least; changes of bytes mostly do not."""
    n_opened = {True: 0, False: 0}
    path = tmp_path / "case.gguf"
    for case in range(400):
        what, data = file_of(FILES, 1, case)
        path.write_bytes(data)
        of_meaning = "change_value" in what or "change_key" in what or "change_tensor" in what
        try:
            GGUFFile(path).close()
        except GGUFError:
            continue
        n_opened[of_meaning] += 1
    assert n_opened[True] > 80
    assert n_opened[False] > 10


# ---- finds ---------------------------------------------------------------------------------------


def test_errors_of_ours_are_counted_and_others_are_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "case.gguf"
    path.write_bytes(FILES.files["llama"].replace(b"llama.block_count", b"llama.block_kount"))
    counts = Counts()
    run_case(path, counts, random.Random(1))
    assert (counts.loads, counts.accepted, counts.errors) == (1, 0, {"ModelError": 1})

    def fail(*_: object) -> None:
        raise KeyError("of another kind")

    monkeypatch.setattr(fuzz_gguf, "load_model", fail)
    with pytest.raises(KeyError):
        run_case(path, counts, random.Random(1))


def test_memory_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "case.gguf"
    path.write_bytes(b"")
    hoard = []

    def load_a_lot(*_: object) -> bool:
        hoard.append(b"\1" * (100 << 20))
        return False

    monkeypatch.setattr(fuzz_gguf, "load", load_a_lot)
    with pytest.raises(Expensive, match="MiB"):
        run_case(path, Counts(), random.Random(1))


WORKER = """
import os, struct, sys, time
values = dict(zip(sys.argv[1::2], sys.argv[2::2]))
for case in range(int(values["--start"]), 5):
    with open(values["--progress"], "r+b") as file:
        file.write(struct.pack("<q", case))
    if case == 1:
        os.kill(os.getpid(), 11)
    if case == 2:
        time.sleep(60)
    if case == 3:
        sys.exit("unheard of")
"""


def test_signals_hangs_and_ends_are_finds_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_gguf, "HANG_SECONDS", 0.5)
    options = argparse.Namespace(jobs=1, seed=7, out=str(tmp_path / "finds"))
    _, n_finds = watch(options, [sys.executable, "-c", WORKER])
    assert n_finds == 3
    told = {path.stem: path.read_text() for path in (tmp_path / "finds").glob("*.txt")}
    assert told.keys() == {"7-1", "7-2", "7-3"}
    assert "SIGSEGV" in told["7-1"]
    assert "no end after" in told["7-2"]
    assert "unheard of" in told["7-3"]
    assert (tmp_path / "finds" / "7-1.gguf").read_bytes() == file_of(FILES, 7, 1)[1]


def test_the_script_fuzzes(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, fuzz_gguf.__file__, "--loads", "100", "--jobs", "2", "--out", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("100 loads in ")
    assert "0 finds" in result.stdout
    assert "GGUFError" in result.stdout
