"""IR text to native functions: optimise, compile, cache, look up.

Object code is kept on disk under a key of everything it depends on: the kernel's name, the sources
of this package, LLVM's version, the target, its CPU and its features. An entry is a SHA-256 digest,
of key and object, and the object; one whose digest does not match is compiled anew.

Environment: LINNET_CACHE_DIR moves the cache, LINNET_CACHE=0 turns it off, and
LINNET_DUMP=ir,opt,asm writes each kernel compiled, as text, into ./linnet-dump/.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import llvmlite
import llvmlite.binding as llvm

from linnet.kernels.compiler.cpu_features import system_features
from linnet.kernels.compiler.object_cache import ObjectCache
from linnet.kernels.compiler.symbols import undefined_symbols
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.memory import check_room

ROOM = 64 << 20  # more bytes than LLVM takes for a kernel
STAGES = ("ir", "opt", "asm")
# Of the C library; the last two are what LLVM prefers on macOS.
ALLOWED_SYMBOLS = frozenset({"memset", "memcpy", "memmove", "bzero", "memset_pattern16"})


class CompileError(RuntimeError):
    """A kernel could not be compiled, or a function is not there: its own or one that it calls."""


class Source(Protocol):
    """Something that compiles to one native function called `symbol`."""

    @property
    def symbol(self) -> str: ...

    def ir(self, isa: ISA) -> str: ...


@cache
def host_features() -> frozenset[str]:
    """LLVM's names for what this CPU and its operating system support."""
    return frozenset(name for name, present in _features_here().items() if present)


@cache
def _features_here() -> dict[str, bool]:
    return dict(sorted((llvm.get_host_cpu_features() | system_features()).items()))


def has(isa: ISA) -> bool:
    """Whether this CPU has an instruction set, and its system permits it."""
    return isa.needs <= host_features() and isa.permitted()


def target(isa: ISA) -> tuple[str, str]:
    """What LLVM compiles for: a CPU, by LLVM's name for it, and features, in a fixed order.

    For the fastest instruction set there is here, this CPU with all that it has: it may load, mix
    and shift bytes in fewer instructions than are in `ISA.needs`. For another one, no CPU in
    particular and what it needs: the code of a machine that has no more. Both give the same bits.
    """
    if isa.name != next(filter(has, ISAS)).name:
        return "", isa.target_attributes
    # The name alone may stand for features that a virtual machine hides.
    features = [f"{'+' if there else '-'}{name}" for name, there in _features_here().items()]
    return llvm.get_host_cpu_name(), ",".join([*features, isa.target_attributes]).strip(",")


class Library:
    """Compiled functions for one ISA, alive as long as this object.

    `compile_seconds` and `n_compiled` say what the cache did not save.
    """

    def __init__(self, isa: ISA) -> None:
        """Raises MemoryError, and ValueError for a LINNET_DUMP with an unknown word."""
        self.isa = isa
        self._cpu, self._features = target(isa)
        self._dumped = _dumped_stages()
        self.compile_seconds = 0.0
        self.n_compiled = 0
        self._addresses: dict[str, int] = {}
        self._lock = threading.Lock()
        check_room(ROOM)
        self._objects = ObjectCache.from_environment()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._target = llvm.Target.from_triple(_triple())
        self._machine = self._target_machine()
        self._engine = llvm.create_mcjit_compiler(self._parse(""), self._target_machine())

    def address(self, source: Source) -> int:
        """Where the compiled function lies; from any thread. Raises CompileError and
        MemoryError."""
        symbol = source.symbol
        with self._lock:
            if symbol not in self._addresses:
                check_room(ROOM)
                key = self._key(symbol)
                code = self._objects.read(key)
                if code is None:
                    code = self._compile(source)
                    self._objects.write(key, code)
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
                self._engine.finalize_object()
                address = self._engine.get_function_address(symbol)
                if not address:
                    raise CompileError(f"{symbol}: its code has no function of that name")
                self._addresses[symbol] = address
            return self._addresses[symbol]

    @property
    def fingerprint(self) -> str:
        """A digest of all that results follow from: the sources, LLVM and the instruction set."""
        parts = sources_digest(), llvm.llvm_version_info, _triple(), self.isa.target_attributes
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _target_machine(self) -> Any:
        return self._target.create_target_machine(
            cpu=self._cpu, features=self._features, opt=3, jit=True
        )

    def _key(self, symbol: str) -> str:
        compiler = (llvm.llvm_version_info, llvmlite.__version__, _triple())
        code = (self._cpu, self._features, self.isa.tuning.in_code)
        parts = (symbol, sources_digest(), *compiler, *code)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _parse(self, ir: str) -> Any:
        return llvm.parse_assembly(f'target triple = "{_triple()}"\n{ir}')

    def _compile(self, source: Source) -> bytes:
        started = time.perf_counter()
        with _uncollected():
            ir = source.ir(self.isa)
        text = "\n".join(line for line in ir.splitlines() if not line.startswith("target "))
        self._dump(source.symbol, "ir", text)
        try:
            module = self._parse(text)
            module.verify()
        except RuntimeError as error:
            raise CompileError(f"{source.symbol}: {error}") from error
        passes = llvm.create_pass_builder(self._machine, pipeline())
        passes.getModulePassManager().run(module, passes)
        self._dump(source.symbol, "opt", module)
        self._dump(source.symbol, "asm", module, self._machine)
        code: bytes = self._machine.emit_object(module)
        missing = undefined_symbols(code) - ALLOWED_SYMBOLS
        if missing:
            raise CompileError(f"{source.symbol} calls {', '.join(sorted(missing))}")
        self.compile_seconds += time.perf_counter() - started
        self.n_compiled += 1
        return code

    def _dump(self, symbol: str, stage: str, module: Any, machine: Any = None) -> None:
        if stage in self._dumped:
            folder = Path("linnet-dump")
            folder.mkdir(exist_ok=True)
            text = machine.emit_assembly(module) if machine else str(module)
            (folder / f"{symbol}.{stage}").write_text(text)


def pipeline() -> Any:
    """LLVM's, without what kernels have done for themselves: vectors and unrolled loops."""
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False
    return options


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python from looking for garbage meanwhile: a tree of IR that only grows has none, and
    the looking took a third of the time that building one did."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@cache
def _triple() -> str:
    """This process's target; as ELF on Windows too, whose own object format MCJIT does not load."""
    triple: str = llvm.get_process_triple()
    return triple + "-elf" if sys.platform == "win32" else triple


@cache
def sources_digest(folder: Path = Path(__file__).parents[1]) -> str:
    """A digest of the source files in a folder, by default this package's: any change of theirs
    makes new kernels."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _dumped_stages() -> frozenset[str]:
    """What LINNET_DUMP asks for. Raises ValueError for what there is not."""
    asked = os.environ.get("LINNET_DUMP", "")
    stages = frozenset(asked.split(",")) - {""}
    if not stages <= frozenset(STAGES):
        raise ValueError(f"LINNET_DUMP is {asked!r}; it must be one or more of {','.join(STAGES)}")
    return stages
