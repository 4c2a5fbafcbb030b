"""IR text to native functions: optimise, compile, cache, look up.

Object code is kept on disk under a key of everything it depends on: the kernel's name, the sources
of this package, LLVM's version, the target, its CPU and its features. An entry is a SHA-256 digest,
of key and object, and the object; one whose digest does not match is compiled anew.

Environment: LINNET_CACHE_DIR moves the cache, LINNET_CACHE=0 turns it off. LINNET_DUMP=ir,opt,asm
writes each kernel, compiled anew, as text into ./linnet-dump/; LINNET_PERF=1 tells `perf` where
kernels lie.
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

from linnet.kernels import log
from linnet.kernels.compiler import perf_map
from linnet.kernels.compiler.cpu_features import system_features
from linnet.kernels.compiler.object_cache import ObjectCache
from linnet.kernels.compiler.symbols import undefined_symbols
from linnet.kernels.ir import Family
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.isa.families import family
from linnet.kernels.memory import check_room

ROOM = 64 << 20  # more bytes than LLVM takes for a kernel
STAGES = {"ir": ".ll", "opt": ".opt.ll", "asm": ".s"}  # of compiling, and how their files end
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


class Compiler:
    """From the IR of one instruction set to optimised IR, assembly and object code.

    Nothing is run: this CPU need not have the instruction set, nor be of its family. `triple`,
    `cpu`: the machine, by LLVM's names; by default this one, or any of the instruction set's
    family. Raises RuntimeError for a triple that this LLVM has no code for.
    """

    def __init__(self, isa: ISA, triple: str = "", cpu: str = "") -> None:
        self.isa = isa
        is_here = not triple and type(isa.family) in (type(family()), Family)
        self.triple = triple or (_triple() if is_here else isa.family.triple)
        self.cpu, self.features = target(isa) if is_here else (cpu, isa.target_attributes)
        if is_here:  # a start need not wait for the others
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
        else:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
        self._target = llvm.Target.from_triple(self.triple)
        self._machine = self.machine()

    def empty(self) -> Any:
        """A module for this machine, without a function."""
        return llvm.parse_assembly(f'target triple = "{self.triple}"')

    def machine(self) -> Any:
        """A description of the CPU, in LLVM's terms."""
        return self._target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, jit=True
        )

    def text(self, source: Source, stage: str) -> str:
        """A kernel after one of the `STAGES`: as written ("ir"), optimised ("opt"), in assembly
        ("asm"). Raises CompileError."""
        machine = f"-mcpu={self.cpu}" if self.cpu else f"-mattr={self.features}"
        heading = f"{'#' if stage == 'asm' else ';'} {source.symbol} for {self.isa.name}"
        code: Any = self._written(source) if stage == "ir" else self._optimized(source)
        if stage == "asm":
            code = self._machine.emit_assembly(code)
        return f"{heading}: -mtriple={self.triple} {machine}\n{code}"

    def object_code(self, source: Source) -> bytes:
        """A kernel as an object file, whatever that calls. Raises CompileError."""
        code: bytes = self._machine.emit_object(self._optimized(source))
        return code

    def _written(self, source: Source) -> str:
        with _uncollected():
            lines = source.ir(self.isa).splitlines()
        kept = (line for line in lines if not line.startswith("target "))
        return "\n".join([f'target triple = "{self.triple}"', *kept, ""])

    def _optimized(self, source: Source) -> Any:
        written = self._written(source)
        try:
            module = llvm.parse_assembly(written)
            module.verify()
        except RuntimeError as error:
            raise CompileError(f"{source.symbol}: {error}") from error
        passes = llvm.create_pass_builder(self._machine, _pipeline())
        passes.getModulePassManager().run(module, passes)
        return module


class Library:
    """Compiled functions for one ISA, alive as long as this object.

    `compile_seconds` and `n_compiled` say what the cache did not save.
    """

    def __init__(self, isa: ISA) -> None:
        """Raises MemoryError, and ValueError for a LINNET_DUMP or LINNET_PERF of another word."""
        self.isa = isa
        self._dumped = _dumped_stages()
        self._in_perf = perf_map.wanted()
        self.compile_seconds = 0.0
        self.n_compiled = 0
        self._addresses: dict[str, int] = {}
        self._lock = threading.Lock()
        check_room(ROOM)
        self._objects = ObjectCache(None) if self._dumped else ObjectCache.from_environment()
        self._compiler = Compiler(isa)
        self._engine = llvm.create_mcjit_compiler(self._compiler.empty(), self._compiler.machine())
        log.info(
            __name__, "kernels for %s (%s), compiled ones kept in %s", isa.name,
            self._compiler.cpu or "any CPU that has it", self._objects.folder or "memory alone",
        )  # fmt: skip

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
                else:
                    log.debug(__name__, "%s: compiled before", symbol)
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
                self._engine.finalize_object()
                address = self._engine.get_function_address(symbol)
                if not address:
                    raise CompileError(f"{symbol}: its code has no function of that name")
                if self._in_perf:
                    perf_map.add(symbol, address, code)
                self._addresses[symbol] = address
            return self._addresses[symbol]

    @property
    def fingerprint(self) -> str:
        """A digest of all that results follow from: the sources, LLVM and the instruction set."""
        parts = sources_digest(), llvm.llvm_version_info, _triple(), self.isa.target_attributes
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _key(self, symbol: str) -> str:
        compiler = (llvm.llvm_version_info, llvmlite.__version__, _triple())
        code = (self._compiler.cpu, self._compiler.features, self.isa.tuning.in_code)
        parts = (symbol, sources_digest(), *compiler, *code)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _compile(self, source: Source) -> bytes:
        for stage in self._dumped:
            folder = Path("linnet-dump")
            folder.mkdir(exist_ok=True)
            text = self._compiler.text(source, stage)
            (folder / f"{source.symbol}{STAGES[stage]}").write_text(text, "utf-8")
        started = time.perf_counter()
        code = self._compiler.object_code(source)
        missing = undefined_symbols(code) - ALLOWED_SYMBOLS
        if missing:
            raise CompileError(f"{source.symbol} calls {', '.join(sorted(missing))}")
        seconds = time.perf_counter() - started
        self.compile_seconds += seconds
        self.n_compiled += 1
        log.info(__name__, "%s: compiled in %.0f ms", source.symbol, 1e3 * seconds)
        return code


def _pipeline() -> Any:
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
    if not stages <= STAGES.keys():
        raise ValueError(f"LINNET_DUMP is {asked!r}; it must be one or more of {','.join(STAGES)}")
    return stages
