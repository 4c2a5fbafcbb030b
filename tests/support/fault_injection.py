"""Fault injection, in child processes: limits of address space, and system calls that fail.

python -c "from support.fault_injection import *; print(limits(generated, 3_000_000, 60))" FILE
"""

from __future__ import annotations

import _thread
import builtins
import gc
import io
import json
import mmap
import os
import resource
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from types import TracebackType
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.random
import sentencepiece  # noqa: F401
import tokenizers  # noqa: F401

from linnet import LLM, SamplingParams, Tokenizer
from linnet.engine.gguf.reader import GGUFFile
from linnet.kernels.compiler.jit import Library

__all__ = ["attempts", "decoded", "forked", "generated", "json", "limits", "sys", "tokenized"]
GREEDY = SamplingParams(temperature=0, max_tokens=6)


# ---- what is tried -------------------------------------------------------------------------------


def generated(path: str) -> str:
    """Open, generate, close."""
    with LLM(path, n_threads=2, n_ctx=64, n_batch=8) as llm:
        text: str = llm.generate("once upon a time", GREEDY).text
        return text


def tokenized(path: str) -> int:
    return len(Tokenizer.from_gguf(GGUFFile(path)).encode("to be or not " * 20_000))


# ---- in a process that may end -------------------------------------------------------------------


def forked(case: Callable[..., Any], *arguments: object) -> Any:
    """What it returns, in a list, or the name of the error it raises, or its signal's number."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            found: Any = [case(*arguments)]
        except BaseException as error:
            found = type(error).__name__
        try:
            os.write(writer, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status or not said else json.loads(said)


def limits(case: Callable[[str], Any], step: int, n: int) -> list[Any]:
    """What becomes of it with `n` limits of address space, each by `step` bytes higher.

    And with one that is ample: between the two, what malloc sets aside for threads decides.
    """
    return [forked(_limited, n_bytes, case) for n_bytes in (*range(0, n * step, step), AMPLE)]


AMPLE = 2 << 30


def _limited(n_bytes: int, case: Callable[[str], Any]) -> Any:
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + n_bytes, size + n_bytes))
    return case(sys.argv[1])


# ---- what is held --------------------------------------------------------------------------------


def private_bytes() -> int:
    """Memory of this process's own, files that it alone maps left out."""
    with open("/proc/self/smaps_rollup") as file:
        (line,) = (line for line in file if line.startswith("Anonymous:"))
        return int(line.split()[1]) << 10


def held(path: str) -> tuple[int, int, int]:
    """File descriptors, threads, and mappings of the file."""
    gc.collect()
    with open("/proc/self/maps") as file:
        n_mapped = sum(path in line for line in file)
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), n_mapped


def holds_again(path: str, before: tuple[int, int, int]) -> bool:
    """Whether it comes to that: the system lists a thread that has ended for a moment more."""
    end = time.monotonic() + 5
    while (now := held(path)) != before and time.monotonic() < end:
        time.sleep(0.001)
    return now == before


def decoded() -> list[int]:
    """Private memory behind 1,000 and 4,000 tokens; the same of Python's, and its peak. Without
    drafts, which look the text up in an index of it."""
    with LLM(sys.argv[1], n_threads=2, spec_type="none") as llm:
        params = SamplingParams(seed=1, ignore_eos=True, max_tokens=-1)
        for _ in llm.stream([1], params):  # fills the cache
            pass
        figures = [private_bytes() for n, _ in enumerate(llm.stream([1], params)) if n in MARKS]
        tracemalloc.start()
        for n, _ in enumerate(llm.stream([1], params)):
            if n in MARKS:
                figures.append(tracemalloc.get_traced_memory()[0])
                tracemalloc.reset_peak()
        figures.append(tracemalloc.get_traced_memory()[1])
        return figures


MARKS = (1000, 4000)


# ---- the n-th failure ----------------------------------------------------------------------------


class Failing:
    """Counts the calls of what asks the system for something; the n-th raises."""

    def __init__(self, n: int) -> None:
        self.n, self.count, self.where = n, 0, ""
        memory, disk = MemoryError("no more"), OSError(5, "Input/output error")
        thread = RuntimeError("can't start new thread")
        system = "open fstat stat replace mkdir read"
        arrays = "empty zeros full arange frombuffer concatenate stack array ascontiguousarray"
        self._points: dict[tuple[Any, str], Exception] = {
            **{(np, name): memory for name in arrays.split()},
            **{(os, name): disk for name in system.split()},
            **{(where, "open"): disk for where in (builtins, io)},
            (mmap, "mmap"): OSError(12, "Cannot allocate memory"),
            (_thread, "start_new_thread"): thread,
            (threading, "_start_new_thread"): thread,
            (llvm, "parse_assembly"): memory,
            (llvm, "create_mcjit_compiler"): memory,
            (llvm.ObjectFileRef, "from_data"): memory,
        }
        self._kept = {point: getattr(*point) for point in self._points}

    def __enter__(self) -> Failing:
        for point, error in self._points.items():
            setattr(*point, self._failing(point, error))
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        for point, function in self._kept.items():
            setattr(*point, function)

    def _failing(self, point: tuple[Any, str], error: Exception) -> Any:
        function, tick = self._kept[point], self._tick
        if isinstance(function, type):

            class Failing(function):  # type: ignore[misc]
                def __new__(cls, *arguments: Any, **options: Any) -> Any:
                    tick(point, error)
                    return super().__new__(cls, *arguments, **options)

            return Failing

        def call(*arguments: Any, **options: Any) -> Any:
            tick(point, error)
            return function(*arguments, **options)

        return call

    def _tick(self, point: tuple[Any, str], error: Exception) -> None:
        self.count += 1
        if self.count == self.n:
            self.where = f"{point[0].__name__}.{point[1]}"
            raise type(error)(*error.args)  # a new one: errors hold on to where they were raised


def attempts(*, every: int) -> dict[str, Any]:
    """`generated` with the n-th failure, for each n, or for one in so many, until there is none.

    Raises AssertionError where something is left behind or the next try gives another text. Memory
    is counted where nothing was compiled: llvmlite 0.50 keeps 0.1 MB of every pipeline that it ran.
    """
    path = sys.argv[1]
    compiled = _count_compiled()
    expected = generated(path)
    for _ in range(2):  # now all is imported, and caches are filled
        assert generated(path) == expected
    before, errors, grown, n = held(path), {}, 0, 1
    while True:
        text, n_compiled, private = None, len(compiled), private_bytes()
        with Failing(n) as failing:
            try:
                text = generated(path)
            except (MemoryError, OSError, RuntimeError) as error:
                errors[f"{failing.where}: {type(error).__name__}"] = n
        if failing.count < n:
            break
        assert text in (None, expected), (n, failing.where)
        assert holds_again(path, before), (n, failing.where, held(path), before)
        assert generated(path) == expected, (n, failing.where)
        assert holds_again(path, before), (n, failing.where, held(path), before)
        if len(compiled) == n_compiled:
            grown += private_bytes() - private
        n += every
    return {"n": n, "errors": errors, "grown": grown}


def _count_compiled() -> list[object]:
    """A list that gets longer with each kernel that is compiled from now on."""
    compiled: list[object] = []
    compile = Library._compile

    def count(library: Library, source: Any) -> bytes:
        compiled.append(source)
        return compile(library, source)

    Library._compile = count  # type: ignore[method-assign]
    return compiled
