"""Compiling and caching: what is kept, what is not trusted, and what is refused."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import hashlib
import io
import multiprocessing
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from support.kernel_harness import run
from support.systems import is_private, needs_linux, needs_posix

from linnet.kernels.compiler.host import available_isas, choose_isa
from linnet.kernels.compiler.jit import CompileError, Compiler, Library, host_features
from linnet.kernels.compiler.object_cache import ObjectCache
from linnet.kernels.compiler.symbols import undefined_symbols
from linnet.kernels.ir import Family
from linnet.kernels.isa import ISA
from linnet.kernels.isa.families import ARM64, X86
from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops.elementwise import Add

PATIENCE = 120  # seconds that a process may take to start and to compile


class Answer:
    """A native function that stores 42."""

    symbol = "answer"

    def ir(self, isa: ISA) -> str:
        return "define void @answer(ptr %out) {\n store i32 42, ptr %out\n ret void\n}"


class Broken:
    """A kernel of the given IR."""

    symbol = "broken"

    def __init__(self, text: str) -> None:
        self.text = text

    def ir(self, isa: ISA) -> str:
        return self.text


CALLS_NOWHERE = """
declare void @nowhere(ptr)
define void @broken(ptr %p) {
 call void @nowhere(ptr %p)
 ret void
}"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that new libraries use."""
    monkeypatch.setenv("LINNET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def answer_of(library: Library) -> int:
    out = np.zeros(1, np.int32)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address(Answer()))(out.ctypes.data)
    return int(out[0])


def compile_anew() -> tuple[int, Library]:
    """The answer of a new library, and the library."""
    library = Library(choose_isa())
    return answer_of(library), library


# ---- the cache -----------------------------------------------------------------------------------


def test_a_kernel_is_compiled_once_and_then_read_back(folder: Path) -> None:
    answer, first = compile_anew()
    assert (answer, first.n_compiled) == (42, 1)
    assert first.compile_seconds > 0
    assert first.address(Answer()) == first.address(Answer())
    assert first.n_compiled == 1
    answer, second = compile_anew()
    assert (answer, second.n_compiled, second.compile_seconds) == (42, 0, 0)


def test_each_isa_has_its_own_entries(folder: Path) -> None:
    for isa in available_isas():
        assert answer_of(Library(isa)) == 42
    assert len(list(folder.iterdir())) == len(available_isas())


def test_the_cache_is_for_its_owner_alone_and_holds_nothing_half_written(folder: Path) -> None:
    compile_anew()
    (entry,) = folder.iterdir()
    assert is_private(folder)
    assert is_private(entry)
    assert len(entry.name) == 64


def corrupt(entry: bytes) -> bytes:
    return entry[:-1] + bytes([entry[-1] ^ 1])


def of_another_kernel(_: bytes) -> bytes:
    """An entry that is whole, and would lie under another name."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINNET_CACHE_DIR", folder)
        Library(choose_isa()).address(Add())
        (path,) = Path(folder).iterdir()
        return path.read_bytes()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit flipped": corrupt,
    "no code": lambda entry: entry[:32],
    "half of it": lambda entry: entry[: len(entry) // 2],
    "half a digest": lambda entry: entry[:7],
    "empty": lambda entry: b"",
    "another digest": lambda entry: bytes(32) + entry[32:],
    "another kernel": of_another_kernel,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_compiled_anew_and_replaced(
    folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    compile_anew()
    (path,) = folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(damage(good))
    answer, library = compile_anew()
    assert (answer, library.n_compiled) == (42, 1)
    assert path.read_bytes() == good


@needs_posix
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_entry_that_others_may_write_is_not_run(folder: Path, mode: int) -> None:
    compile_anew()
    (path,) = folder.iterdir()
    path.chmod(mode)
    answer, library = compile_anew()
    assert (answer, library.n_compiled) == (42, 1)
    assert is_private(path)


def test_zero_turns_the_cache_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_CACHE", "0")
    for _ in range(2):
        answer, library = compile_anew()
        assert (answer, library.n_compiled) == (42, 1)
    assert not folder.exists()


def test_without_a_folder_of_its_own_the_cache_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINNET_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_anew()
    assert len(list((tmp_path / "linnet" / "kernels").iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LINNET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        answer, library = compile_anew()
        assert (answer, library.n_compiled) == (42, 1)


def test_a_folder_in_place_of_an_entry_costs_only_time(folder: Path) -> None:
    compile_anew()
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    answer, library = compile_anew()
    assert (answer, library.n_compiled) == (42, 1)
    assert list(folder.iterdir()) == [path]


def fill(barrier: Any, results: Any) -> None:
    """A process of its own: the kernels of all instruction sets, as soon as the others begin."""
    barrier.wait(PATIENCE)
    library = Library(choose_isa())
    with contextlib.redirect_stdout(io.StringIO()) as said:
        answers = [sum_of(library, width) for width in range(1, 9)]
        answers += [answer_of(Library(isa)) for isa in available_isas()]
    results.put((answers, said.getvalue()))


def sum_of(library: Library, width: int) -> float:
    """1 + 2 by a kernel; `width` times, and as so many columns."""
    x, y, out = np.ones(width, "f4"), np.full(width, 2, "f4"), np.zeros(width, "f4")
    run(library, Add(), 1, x=x, y=y, out=out, width=width)
    return float(out.sum())


def test_several_processes_may_fill_it_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    n, results = 4, context.Queue()
    barrier = context.Barrier(n)
    processes = [context.Process(target=fill, args=(barrier, results)) for _ in range(n)]
    for process in processes:
        process.start()
    expected = [3.0 * width for width in range(1, 9)] + [42.0] * len(available_isas())
    for _ in processes:
        assert results.get(timeout=PATIENCE) == (expected, "")
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert all(len(path.name) == 64 for path in folder.iterdir())  # nothing half written
    assert len(list(folder.iterdir())) == 1 + len(available_isas())
    for path in folder.iterdir():
        entry = path.read_bytes()
        assert hashlib.sha256(path.name.encode() + entry[32:]).digest() == entry[:32]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_process_that_ends_while_it_writes_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Ctrl-C is heard; a full disk costs only time."""
    compile_anew()
    (path,) = folder.iterdir()
    good = path.read_bytes()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    heard = pytest.raises(error) if error is KeyboardInterrupt else contextlib.nullcontext()
    with heard:
        ObjectCache(folder).write(path.name, b"other code")
    assert list(folder.iterdir()) == [path]
    assert path.read_bytes() == good


def test_a_folder_that_may_only_be_read_costs_only_time(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds is used; what it lacks is compiled, and nothing is said. (Root may write
    anywhere, so the system's refusal is feigned.)"""
    compile_anew()

    open_anyhow = os.open

    def refuse(path: str, flags: int, *arguments: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EROFS, "read-only file system")
        return open_anyhow(path, flags, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    answer, library = compile_anew()
    assert (answer, library.n_compiled) == (42, 0)
    for _ in range(2):
        library = Library(choose_isa())
        assert sum_of(library, 3) == 9.0
        assert library.n_compiled == 1
    assert len(list(folder.iterdir())) == 1
    assert capfd.readouterr() == ("", "")


def test_an_entry_of_another_cpu_is_not_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one of another LLVM: what an entry depends on is its name."""
    compile_anew()
    isa = available_isas()[-1]
    one, another = sorted(host_features())[:2]
    for attributes in (f"+{one}", f"+{one},+{another}"):
        monkeypatch.setattr(type(isa), "target_attributes", attributes)
        library = Library(isa)
        assert answer_of(library) == 42
        assert library.n_compiled == 1
    monkeypatch.setattr(llvm, "llvm_version_info", (99, 0, 0))
    library = Library(isa)
    assert answer_of(library) == 42
    assert library.n_compiled == 1
    assert len(list(folder.iterdir())) == 4


def test_a_damaged_entry_is_not_spoken_of(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compile_anew()
    (path,) = folder.iterdir()
    path.write_bytes(b"#!" + path.read_bytes())
    assert compile_anew()[0] == 42
    assert capfd.readouterr() == ("", "")


@needs_posix
def test_an_entry_of_someone_else_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_anew()
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    answer, library = compile_anew()
    assert (answer, library.n_compiled) == (42, 1)


# ---- what is refused -----------------------------------------------------------------------------


def test_a_call_to_a_function_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(CompileError, match="broken calls nowhere"):
        Library(choose_isa()).address(Broken(CALLS_NOWHERE))
    assert not folder.exists() or not list(folder.iterdir())


def test_a_library_call_of_the_generic_cpu_is_an_error(folder: Path) -> None:
    """Without F16C, LLVM converts halves by a function that compiled code cannot find."""
    text = "define void @broken(ptr %p) {\n %h = load half, ptr %p\n %f = fpext half %h to float\n"
    text += " store float %f, ptr %p\n ret void\n}"
    with pytest.raises(CompileError, match="broken calls __"):
        Library(choose_isa("generic")).address(Broken(text))


def test_code_without_the_kernel_is_an_error(folder: Path) -> None:
    source = Broken("define void @other() {\n ret void\n}")
    with pytest.raises(CompileError, match="broken: its code has no function of that name"):
        Library(choose_isa()).address(source)


@pytest.mark.parametrize(
    "text",
    ["define void @broken() {\n ret i32\n}", "nonsense", "define void @broken() {\n}"],
    ids=["wrong type", "no IR", "no end"],
)
def test_bad_ir_is_an_error_that_names_the_kernel(folder: Path, text: str) -> None:
    with pytest.raises(CompileError, match=r"^broken: "):
        Library(choose_isa()).address(Broken(text))


class Watched(Broken):
    """Says whether garbage was collected while its IR was made."""

    def ir(self, isa: ISA) -> str:
        self.collected = gc.isenabled()
        return super().ir(isa)


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("text", ["define void @broken() {\n ret void\n}", "nonsense"])
def test_garbage_is_not_collected_while_ir_is_made_and_as_before_afterwards(
    folder: Path, collects: bool, text: str
) -> None:
    source = Watched(text)
    if not collects:
        gc.disable()
    try:
        with contextlib.suppress(CompileError):
            Library(choose_isa()).address(source)
        assert not source.collected
        assert gc.isenabled() == collects
    finally:
        gc.enable()


def test_memory_functions_of_the_c_library_are_found(folder: Path) -> None:
    """LLVM calls memset for itself, where a loop clears memory."""
    text = """
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define void @broken(ptr %p, i64 %n) {
 call void @llvm.memset.p0.i64(ptr %p, i8 7, i64 %n, i1 false)
 ret void
}"""
    library = Library(choose_isa())
    clear = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(library.address(Broken(text)))
    out = np.zeros(1000, np.uint8)
    clear(out.ctypes.data, 999)
    assert (out[:999] == 7).all()
    assert out[999] == 0


# ---- dumps ---------------------------------------------------------------------------------------


def test_dumps_show_a_kernel_at_each_stage_whatever_is_cached(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    op = Add()
    Library(choose_isa()).address(op)
    monkeypatch.setenv("LINNET_DUMP", "ir,opt,asm")
    Library(choose_isa()).address(op)
    dumped = {path.name: path.read_text() for path in (tmp_path / "linnet-dump").iterdir()}
    ir, opt, asm = (op.symbol + ending for ending in (".ll", ".opt.ll", ".s"))
    assert dumped.keys() == {ir, opt, asm}
    assert f'define void @"{op.symbol}"' in dumped[ir]
    assert f"define void @{op.symbol}" in dumped[opt]
    assert f"{op.symbol}:" in dumped[asm]


def test_what_is_dumped_can_be_compiled_again(best_library: Library) -> None:
    """As `opt` and `llc` do, with the attributes that its first line names."""
    compiler = Compiler(best_library.isa)
    for stage in ("ir", "opt"):
        module = llvm.parse_assembly(compiler.text(Add(), stage))
        module.verify()
        assert module.triple == llvm.get_process_triple()
    heading = compiler.text(Add(), "asm").splitlines()[0]
    name, triple = best_library.isa.name, llvm.get_process_triple()
    assert heading.startswith(f"# add for {name}: -mtriple={triple} -m")


@pytest.mark.parametrize(
    ("family", "words"),
    [(X86(), ("addps", "xmm")), (ARM64(), ("fadd", "v0.4s"))],
    ids=["x86", "arm"],
)
def test_code_of_other_machines_can_be_looked_at(family: Family, words: tuple[str, ...]) -> None:
    """Whatever this CPU is."""
    compiler = Compiler(type("Elsewhere", (Generic,), {"family": family, "attributes": ()})())
    text = compiler.text(Add(), "asm")
    assert all(word in text for word in words)
    assert undefined_symbols(compiler.object_code(Add())) == set()


def test_broken_ir_can_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINNET_DUMP", "ir")
    with pytest.raises(CompileError):
        Library(choose_isa()).address(Broken("nonsense"))
    assert "nonsense" in (tmp_path / "linnet-dump" / "broken.ll").read_text()


def test_nothing_is_dumped_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINNET_DUMP", "opt")
    Library(choose_isa()).address(Add())
    monkeypatch.delenv("LINNET_DUMP")
    Library(choose_isa()).address(Add())
    assert [path.name for path in (tmp_path / "linnet-dump").iterdir()] == ["add.opt.ll"]


@pytest.mark.parametrize("asked", ["foo", "ir,foo", "ir opt", "1"])
def test_an_unknown_stage_is_refused_whatever_is_cached(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINNET_DUMP", asked)
    with pytest.raises(ValueError, match=f"LINNET_DUMP is '{asked}'; .* ir,opt,asm"):
        Library(choose_isa())
    for harmless in ("", "ir,"):
        monkeypatch.setenv("LINNET_DUMP", harmless)
        Library(choose_isa())


# ---- names for perf ------------------------------------------------------------------------------


@pytest.fixture
def perf_map(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that `perf` looks for, as a process of another number would have it."""
    n = 2**31 - os.getpid()  # no process has so large a number
    monkeypatch.setattr(os, "getpid", lambda: n)
    path = Path(f"/tmp/perf-{n}.map")
    yield path
    path.unlink(missing_ok=True)


@needs_linux
def test_perf_is_told_where_each_kernel_lies(
    folder: Path, monkeypatch: pytest.MonkeyPatch, perf_map: Path
) -> None:
    library = Library(choose_isa())
    library.address(Answer())
    assert not perf_map.exists()
    monkeypatch.setenv("LINNET_PERF", "1")
    library = Library(choose_isa())  # from the cache
    address = library.address(Answer())
    library.address(Answer())
    library.address(Add())
    (first, second) = perf_map.read_text().splitlines()
    start, n_bytes, name = first.split()
    assert (int(start, 16), name) == (address, "answer")
    code = ctypes.string_at(address, int(n_bytes, 16))
    assert code[-1:] == b"\xc3" or platform.machine() != "x86_64"  # ret
    assert second.endswith(" add")
    assert stat.S_IMODE(perf_map.stat().st_mode) == 0o600


@needs_linux
def test_a_link_that_a_stranger_put_there_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, perf_map: Path
) -> None:
    perf_map.symlink_to(tmp_path / "precious")
    monkeypatch.setenv("LINNET_PERF", "1")
    with pytest.raises(OSError, match=perf_map.name):
        Library(choose_isa()).address(Answer())
    assert not (tmp_path / "precious").exists()


def test_another_word_for_perf_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_PERF", "yes")
    with pytest.raises(ValueError, match="LINNET_PERF is 'yes'; it must be 1, or 0"):
        Library(choose_isa())
