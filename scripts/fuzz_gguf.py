"""Load spoiled model files, and generate from those that load, until something else than an error
of ours comes of it.

    python scripts/fuzz_gguf.py --seconds 60 [--jobs 2] [--seed 0] [--out fuzz-finds]
    python scripts/fuzz_gguf.py --loads 1000000
    python scripts/fuzz_gguf.py --seed 0 --case 1234        # one again, with its traceback

A case is a number: with the seed it determines the file (`mutate_gguf`). A worker process loads it
(reader, vocabulary, chat template, model) and continues some texts by four tokens; the parent
watches. A find is an exception that we do not document, a signal, a hang, more than 64 MiB or 2 s
of processor time for loading; its file is saved as `<seed>-<case>.gguf` next to what was seen.
Ends with status 1 if there were finds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mutate_gguf import Seeds, mutate  # noqa: E402
from support.fuzz_seeds import TEMPLATE, seeds  # noqa: E402

import linnet.engine.chat.template  # noqa: E402
from linnet import LLM, SamplingParams  # noqa: E402
from linnet.engine.chat.sandbox import TemplateError  # noqa: E402
from linnet.engine.chat.template import KEY, ChatTemplate  # noqa: E402
from linnet.engine.gguf.reader import GGUFError, GGUFFile  # noqa: E402
from linnet.engine.running.sequence import ContextOverflow  # noqa: E402
from linnet.engine.sampling.candidates import NonFiniteLogits  # noqa: E402
from linnet.engine.text.tokenizer import Tokenizer, TokenizerError  # noqa: E402
from linnet.models import ModelError, load_model  # noqa: E402

TYPED = (GGUFError, ModelError, TokenizerError, TemplateError, NonFiniteLogits, ContextOverflow)
GENERATED = 0.22  # of the files that load
HANG_SECONDS = 30.0
LOAD_SECONDS, LOAD_MIB = 2.0, 64.0
ADDRESS_SPACE = 8 << 30  # more than the process has to begin with
MESSAGES = [{"role": "user", "content": "an <s> and {{ 1 }} the é \n"}]
TEXT = "an <s> and\n the é 123"


# ---- a case --------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What came of the cases so far."""

    loads: int = 0
    accepted: int = 0
    generations: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        self.loads += other.loads
        self.accepted += other.accepted
        self.generations += other.generations
        self.errors += other.errors


class Expensive(Exception):
    """A file that took too much time or memory to load."""


def file_of(files: Seeds, seed: int, case: int) -> tuple[str, bytes]:
    """What case this is, and its file."""
    return mutate(files, random.Random(f"{seed}:{case}"))


def load(path: Path, counts: Counts) -> bool:
    """All that is read of a file before text is generated; whether it is whole."""
    counts.loads += 1
    try:
        file = GGUFFile(path)
    except GGUFError as error:
        counts.errors[type(error).__name__] += 1
        return False
    whole = True
    with file:
        metadata = dict(file.metadata)
        for part in (load_tokenizer, load_model):
            try:
                part(metadata, file.tensors)
            except TYPED as error:
                counts.errors[type(error).__name__] += 1
                whole = False
    counts.accepted += whole
    return whole


def load_tokenizer(metadata: dict[str, object], _: object) -> None:
    """The vocabulary and the template, each with something to do."""
    tokenizer = Tokenizer.from_metadata(metadata)
    ids = tokenizer.encode(TEXT, parse_special=True)
    tokenizer.decode([*ids, *range(min(300, tokenizer.n_vocab))], skip_special=False)
    if not _is(metadata.get(KEY), TEMPLATE):  # which takes longer than all the rest
        ChatTemplate.from_metadata(metadata, tokenizer).encode(MESSAGES)


def _is(value: object, text: str) -> bool:
    return isinstance(value, str) and value == text


def generate(path: Path, counts: Counts, rng: random.Random) -> None:
    """Four tokens from a file that loads."""
    params = SamplingParams(max_tokens=4, temperature=rng.choice((0.0, 1.0)), seed=1)
    exact = "f32" if rng.random() < 0.2 else "int8"
    counts.generations += 1
    try:
        with LLM(path, n_threads=1, n_ctx=32, n_batch=16, activations=exact) as llm:
            llm.generate(llm.tokenizer.encode(TEXT) or [0], params)  # all of it may be left out
    except TYPED as error:
        counts.errors[f"{type(error).__name__} while generating"] += 1


# ---- the worker ----------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Cases `start`, `start + jobs`, ...; writes into the file `progress` which it is at, and tells
    of the rest on stdout, in lines of JSON."""
    linnet.engine.chat.template.SECONDS = 0.5
    strict_warnings()
    files, parent = Seeds(seeds()), os.getppid()
    limit = _kilobytes("VmSize") * 1024 + ADDRESS_SPACE
    import resource  # of Linux, as all that is measured here; tests import the rest anywhere

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    end, counts, told = time.monotonic() + options.seconds, Counts(), time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=_memory_folder()) as folder,
        open(options.progress, "r+b", buffering=0) as progress,
    ):
        path = Path(folder) / "m-00001-of-00002.gguf"
        for case in range(options.start, options.loads, options.jobs):
            now = time.monotonic()
            if now > end or os.getppid() != parent:
                break
            if now - told > 0.5:
                _tell(counts)
                counts, told = Counts(), now
            os.pwrite(progress.fileno(), struct.pack("<q", case), 0)
            what, data = file_of(files, options.seed, case)
            path.write_bytes(data)
            try:
                run_case(path, counts, random.Random(case))
            except Exception:
                _tell(counts, find=(case, f"{what}\n{traceback.format_exc()}"))
                counts = Counts()
        _tell(counts)


def strict_warnings() -> None:
    """A warning is an error, too, but for our own."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", UserWarning)


def run_case(path: Path, counts: Counts, rng: random.Random) -> None:
    """Load the file, look at what that took, and generate from some of those that load."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before, started = _kilobytes("VmHWM"), time.process_time()
    whole = load(path, counts)
    seconds, mib = time.process_time() - started, (_kilobytes("VmHWM") - before) / 1024
    if seconds > LOAD_SECONDS or mib > LOAD_MIB:
        raise Expensive(f"loading took {seconds:.1f} s and {mib:.0f} MiB")
    if whole and rng.random() < GENERATED:
        generate(path, counts, rng)


def _tell(counts: Counts, find: tuple[int, str] | None = None) -> None:
    print(json.dumps({"counts": vars(counts), "find": find}), flush=True)


def _kilobytes(name: str) -> int:
    """A line of /proc/self/status, such as "VmHWM: 1234 kB"."""
    with open("/proc/self/status", "rb") as file:
        status = file.read()
    start = status.index(name.encode()) + len(name) + 1
    return int(status[start : status.index(b"kB", start)])


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# ---- the parent ----------------------------------------------------------------------------------


class Worker:
    """A process that works through cases; what became of it, and of them."""

    def __init__(self, command: list[str], folder: Path, start: int) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._progress, self._told = self._folder / "progress", self._folder / "told"
        self._progress.write_bytes(struct.pack("<q", start))
        self._read = 0
        more = ["--start", str(start), "--progress", str(self._progress)]
        with self._told.open("wb") as told:
            self._process = subprocess.Popen([*command, *more], stdout=told, stderr=told)
        self._case, self._since = start, time.monotonic()

    def look(self) -> str | None:
        """None while it works; then how it ended, "" for well. One that hangs is ended."""
        status = self._process.poll()
        if status is not None:
            self._case = self.case()
            ending = signal.Signals(-status).name if status < 0 else f"status {status}"
            return f"{ending}\n{self._last_words()}" if status else ""
        if self.case() != self._case:
            self._case, self._since = self.case(), time.monotonic()
        elif time.monotonic() - self._since > HANG_SECONDS:
            self.end()
            return f"no end after {HANG_SECONDS:.0f} s"
        return None

    def case(self) -> int:
        """The case it is at."""
        (case,) = struct.unpack("<q", self._progress.read_bytes())
        return int(case)

    def told(self) -> Iterator[dict[str, Any]]:
        """What it has told since the last call."""
        with self._told.open("rb") as told:
            told.seek(self._read)
            for line in told:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                if line.startswith(b"{"):
                    yield json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        return self._told.read_bytes()[-2000:].decode(errors="replace")


def watch(options: argparse.Namespace, command: list[str]) -> tuple[Counts, int]:
    """Run workers until all is done; returns what came of it, and the number of finds."""
    files, counts, n_finds = Seeds(seeds()), Counts(), 0
    out = Path(options.out)

    def found(case: int, what: str) -> None:
        nonlocal n_finds
        n_finds += 1
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{options.seed}-{case}.gguf").write_bytes(file_of(files, options.seed, case)[1])
        (out / f"{options.seed}-{case}.txt").write_text(what)
        print(f"find: case {case}: {what.splitlines()[0]} ... {what.splitlines()[-1]}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(command, Path(folder), start) for start in range(options.jobs)]
        try:
            while workers:
                time.sleep(0.1)
                for worker in [*workers]:
                    ending = worker.look()
                    for line in worker.told():
                        errors = Counter(line["counts"].pop("errors"))
                        counts.add(Counts(errors=errors, **line["counts"]))
                        if line["find"]:
                            found(*line["find"])
                    if ending is None:
                        continue
                    workers.remove(worker)
                    if ending:
                        found(worker.case(), ending)
                        start = worker.case() + options.jobs
                        workers.append(Worker(command, Path(folder), start))
        finally:
            for worker in workers:
                worker.end()
    return counts, n_finds


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the loading of GGUF files.")
    add = parser.add_argument
    add("--seconds", type=float, default=float("inf"))
    add("--loads", type=int, default=sys.maxsize)
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=1)
    add("--out", default="fuzz-finds", help="where finds are saved")
    add("--case", type=int, help="this one alone, in this process")
    add("--start", type=int, help=argparse.SUPPRESS)
    add("--progress", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        return show(options)
    if options.progress:
        work(options)
        return 0
    if options.seconds == float("inf") and options.loads == sys.maxsize:
        options.seconds = 60.0
    started = time.monotonic()
    counts, n_finds = watch(options, [sys.executable, __file__, *sys.argv[1:]])
    seconds = time.monotonic() - started
    print(
        f"{counts.loads:,} loads in {seconds:.0f} s ({counts.loads / seconds:.0f}/s), "
        f"{counts.accepted:,} accepted, {counts.generations:,} generations, {n_finds} finds"
    )
    for name, number in counts.errors.most_common():
        print(f"  {number:>9,} {name}")
    return 1 if n_finds else 0


def show(options: argparse.Namespace) -> int:
    """One case, with its traceback; the file stays in `out`."""
    what, data = file_of(Seeds(seeds()), options.seed, options.case)
    path = Path(options.out) / f"{options.seed}-{options.case}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    counts = Counts()
    strict_warnings()
    print(f"{what}: {path}")
    run_case(path, counts, random.Random(options.case))
    print(vars(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
