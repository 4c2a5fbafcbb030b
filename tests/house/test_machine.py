"""What this process may use of the machine: CPUs and memory, on machines made of files."""

from __future__ import annotations

import mmap
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.fake_libraries import Advapi32, Kernel32, LibSystem
from support.kernel_harness import run_python
from support.systems import needs_linux, needs_proc
from support.tiny_llama import BOS, TinyLlama

from linnet import LLM
from linnet.engine import machine
from linnet.engine.cli.main import main
from linnet.engine.machine import linux, macos, windows

TINY = TinyLlama(type="Q4_K")
Pretend = Callable[..., None]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Makes up a machine of CPUs that we may all use, and of files in the cgroup's folder."""
    monkeypatch.setattr(machine, "system", linux)
    monkeypatch.setattr(linux, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(linux, "CPUS", tmp_path / "cpu")
    monkeypatch.setattr(linux, "MEMBERSHIP", tmp_path / "membership")

    def pretend(
        n_cpus: int = 1, siblings: Sequence[str] = (), cgroup: Mapping[str, str] | None = None,
        membership: str = "0::/", capacities: Sequence[int | str] = (),
    ) -> None:  # fmt: skip
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n_cpus)), raising=False)
        files = {f"cpu/cpu{i}/topology/thread_siblings_list": s for i, s in enumerate(siblings)}
        files |= {f"cpu/cpu{i}/cpu_capacity": str(c) for i, c in enumerate(capacities)}
        files |= {f"cgroup/{name}": text for name, text in (cgroup or {}).items()}
        files["membership"] = membership
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return pretend


# ---- caches --------------------------------------------------------------------------------------


def test_the_size_of_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "system", linux)
    monkeypatch.setattr(linux, "CPUS", tmp_path)
    caches = [(1, "Instruction", "64K"), (1, "Data", "48K"), (2, "Unified", "1M")]
    for i, caption in enumerate(caches):
        folder = tmp_path / "cpu0/cache" / f"index{i}"
        folder.mkdir(parents=True)
        for name, text in zip(("level", "type", "size"), caption, strict=True):
            (folder / name).write_text(f"{text}\n")
    assert machine.cache_size(1) == 48 << 10
    assert machine.cache_size(2) == 1 << 20
    assert machine.cache_size(3) is None


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_cpus", "siblings", "n_threads"),
    [
        (4, ["0", "1", "2", "3"], 4),
        (4, ["0,2", "1,3", "0,2", "1,3"], 2),
        (2, ["0-1", "0-1"], 1),
        (1, ["0-1"], 1),
        (3, [], 3),  # a machine that does not tell
    ],
)
def test_a_core_counts_once(
    pretend: Pretend, n_cpus: int, siblings: list[str], n_threads: int
) -> None:
    pretend(n_cpus, siblings)
    assert machine.usable_threads() == n_threads


@pytest.mark.parametrize(
    ("capacities", "n_threads"),
    [
        ([160, 160, 160, 160, 498, 498, 1024, 1024], 2),
        ([250, 250, 250, 250, 620, 620, 1024, 1024], 4),
        ([1024] * 8, 8),
        ([250] * 8, 8),  # all that this process may use
        ([1024, "nonsense", 0], 7),
    ],
)
def test_little_cores_are_left_out(
    pretend: Pretend, capacities: list[int | str], n_threads: int
) -> None:
    pretend(8, capacities=capacities)
    assert machine.usable_threads() == n_threads


@pytest.mark.parametrize(
    ("cgroup", "n_threads"),
    [
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "800000 100000"}, 4),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "nonsense"}, 4),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "200000"}, 4),
    ],
)
def test_a_quota_of_cpu_time_limits_the_threads(
    pretend: Pretend, cgroup: dict[str, str], n_threads: int
) -> None:
    pretend(4, cgroup=cgroup)
    assert machine.usable_threads() == n_threads


@pytest.mark.parametrize("membership", ["0::/a.slice/b", "12:cpu:/x\n0::/a.slice/b\n"])
@pytest.mark.parametrize(
    ("cgroup", "n_threads"),
    [
        ({"a.slice/b/cpu.max": "200000 100000"}, 2),
        ({"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "300000 100000"}, 3),
        ({"a.slice/b/cpu.max": "300000 100000", "a.slice/cpu.max": "100000 100000"}, 1),
        ({"a.slice/other/cpu.max": "100000 100000"}, 4),
    ],
)
def test_quotas_of_the_cgroups_above_count_too(
    pretend: Pretend, cgroup: dict[str, str], n_threads: int, membership: str
) -> None:
    pretend(4, cgroup=cgroup, membership=membership)
    assert machine.usable_threads() == n_threads


@pytest.mark.parametrize("membership", ["0::/../outside", "0::/not/there", "", "nonsense"])
def test_a_cgroup_that_is_not_to_be_seen_is_no_limit(pretend: Pretend, membership: str) -> None:
    pretend(4, membership=membership)
    assert machine.usable_threads() == 4


@needs_linux
def test_only_cpus_that_we_may_run_on_count() -> None:
    code = """if True:
        import os
        from linnet.engine.machine import usable_threads
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(usable_threads())"""
    child = run_python("-c", code)
    assert (child.stdout, child.stderr) == ("1\n", "")


def test_a_system_without_affinity_says_how_many_cpus_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "system", linux)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_threads() == 1


def test_no_more_threads_than_the_machine_has_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = TINY.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr("linnet.engine.open_model.BYTES_A_THREAD", 1)
    for n_threads in (1, 3):
        monkeypatch.setattr("linnet.engine.open_model.usable_threads", lambda n=n_threads: n)
        with LLM(path) as llm:
            assert llm.n_threads == n_threads


# ---- memory --------------------------------------------------------------------------------------

STATISTICS = "anon 900\nfile 700\ninactive_file 400\nactive_file 100\nshmem 200"
VERSION_1 = {"memory/memory.limit_in_bytes": "5000", "memory/memory.usage_in_bytes": "3000"}


@pytest.mark.parametrize(
    ("cgroup", "n_bytes"),
    [
        ({"memory.max": "5000", "memory.current": "3000"}, 2000),
        ({"memory.max": "5000", "memory.current": "3000", "memory.stat": STATISTICS}, 2500),
        ({"memory.max": "5000", "memory.current": "6000"}, 0),
        (VERSION_1, 2000),
        (VERSION_1 | {"memory/memory.stat": STATISTICS}, 2500),
    ],
)
def test_a_limit_of_memory_counts_but_cached_files_do_not(
    pretend: Pretend, cgroup: dict[str, str], n_bytes: int
) -> None:
    pretend(cgroup=cgroup)
    assert machine.available_memory() == n_bytes


@needs_proc
def test_without_a_limit_it_is_what_the_machine_has(pretend: Pretend) -> None:
    for cgroup in ({}, {"memory.max": "max", "memory.current": "3000"}):
        pretend(cgroup=cgroup)
        available = machine.available_memory()
        assert available is not None
        assert available > 64 << 20


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 100 MB of memory left."""
    monkeypatch.setattr("linnet.engine.running.runner.available_memory", lambda: 100_000_000)


@pytest.mark.usefixtures("scarce")
@pytest.mark.parametrize("n_ctx", [1 << 24, 1 << 20])
def test_a_context_that_does_not_fit_is_refused_with_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], n_ctx: int
) -> None:
    path = TINY.write(tmp_path / "tiny.gguf")
    figures = r"512 needs \d+\.\d\d GB of memory, and 0\.10 GB are .* n_ctx \(-c\)"
    with pytest.raises(MemoryError, match=rf"{n_ctx} tokens with passes of {figures}"):
        LLM(path, n_ctx=n_ctx)
    with LLM(path) as llm:  # which fits
        assert llm.n_ctx == TINY.n_ctx
    assert main(["generate", "-m", str(path), "-c", str(n_ctx), "x"]) == 2
    assert capsys.readouterr().err.startswith(f"linnet: a cache of {n_ctx} tokens with ")


@pytest.mark.usefixtures("scarce")
def test_the_exact_mode_needs_twice_the_memory_for_keys_and_values(tmp_path: Path) -> None:
    path, n_ctx = TINY.write(tmp_path / "tiny.gguf"), 1 << 24

    def needed(activations: str) -> float:
        with pytest.raises(MemoryError) as caught:
            LLM(path, n_ctx=n_ctx, activations=activations)
        return float(str(caught.value).split("needs ")[1].split()[0]) * 1e9

    n_numbers = n_ctx * TINY.n_layers * 2 * TINY.n_kv_heads * TINY.n_embd // TINY.n_heads
    assert needed("int8") > 2 * n_numbers
    assert needed("f32") - needed("int8") == pytest.approx(2 * n_numbers, rel=0.01)


def test_logits_that_do_not_fit_are_refused_with_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM(TINY.write(tmp_path / "tiny.gguf")) as llm:
        expected = llm.logits([BOS] * 100)
        monkeypatch.setattr(
            "linnet.engine.running.session.available_memory", lambda: expected.nbytes - 1
        )
        with pytest.raises(MemoryError, match="logits of 100 tokens needs"):
            llm.logits([BOS] * 100)
        assert llm.logits([BOS] * 99).tobytes() == expected[:99].tobytes()


def test_buffers_that_do_not_fit_are_refused_with_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger pass needs more than a smaller one, for the same context."""
    path = TinyLlama(type="Q4_K", n_ctx=4096).write(tmp_path / "tiny.gguf")
    with LLM(path, n_batch=16) as llm:
        session = llm.session()
        session.close()
        available = 2 * session.runner.n_bytes
    monkeypatch.setattr("linnet.engine.running.runner.available_memory", lambda: available)
    with LLM(path, n_batch=16):
        pass
    with pytest.raises(MemoryError, match=r"tokens with passes of 4096 needs .*n_batch \(-b\)"):
        LLM(path, n_batch=4096)


def test_a_file_that_does_not_fit_is_refused_unless_it_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = TINY.write(tmp_path / "tiny.gguf")
    n_bytes = path.stat().st_size
    monkeypatch.setattr("linnet.engine.gguf.source.PART_BYTES", 1000)
    for available, fits in ((n_bytes - 1, False), (n_bytes, True)):
        monkeypatch.setattr("linnet.engine.gguf.source.available_memory", lambda n=available: n)
        assert main(["generate", "-m", str(path), "-n1", "-q", "x"]) == 0
        assert main(["generate", "-m", str(path), "-n1", "-q", "--no-mmap", "x"]) == 2 * (not fits)
    assert "needs 0.00 GB of memory" in (refused := capsys.readouterr().err)
    assert "without --no-mmap" in refused


@needs_proc
def test_the_peak_is_the_most_that_was_held() -> None:
    code = """if True:
        from linnet.engine.machine import peak_memory
        before = peak_memory()
        held = bytearray(b"x" * 200_000_000)
        del held
        print(peak_memory() - before)"""
    child = run_python("-c", code)
    assert child.stderr == ""
    assert 200e6 < int(child.stdout) < 500e6


# ---- Windows, of made-up functions ---------------------------------------------------------------


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has libraries tell of a machine; see `Kernel32`."""

    def on_windows(name: str = "A CPU", **machine_of: Any) -> None:
        kernel = Kernel32(**machine_of)
        libraries = {"kernel32": kernel, "advapi32": Advapi32(name, fails=kernel.fails)}
        monkeypatch.setattr("ctypes.CDLL", libraries.__getitem__)
        monkeypatch.setattr(machine, "system", windows)

    return on_windows


@pytest.mark.parametrize(
    ("cores", "affinity", "groups", "n_threads"),
    [
        ([(0, 0b11, 0), (0, 0b1100, 0)], 0b1111, [0], 2),
        ([(0, 0b11, 0), (0, 0b1100, 0)], 0b1000, [0], 1),
        ([(0, 0b11, 0), (0, 0b1100, 0), (1, 0b10000, 0), (0, 0b100000, 0)], 0b111111, [0], 1),
        ([(1, 0b11, 0), (0, 0b100, 0), (0, 0b1000, 0)], 0b1100, [0], 2),  # little ones alone
        ([(0, 1, 0), (0, 2, 0), (0, 1, 1), (0, 2, 1)], 0b11, [1], 2),
        ([(0, 1, 0), (0, 2, 0), (0, 1, 1), (0, 1 << 63, 1)], 0, [0, 1], 4),
    ],
)
def test_cores_on_windows(
    on_windows: Callable[..., None], cores: list[tuple[int, int, int]], affinity: int,
    groups: list[int], n_threads: int,
) -> None:  # fmt: skip
    on_windows(cores=cores, affinity=affinity, groups=groups)
    assert machine.usable_threads() == n_threads


def test_memory_and_caches_on_windows(on_windows: Callable[..., None]) -> None:
    on_windows(free=5 << 30, grantable=6 << 30)
    assert machine.available_memory() == 5 << 30
    assert machine.peak_memory() == 123_000_000
    assert [machine.cache_size(level) for level in (1, 2, 3)] == [48 << 10, 1 << 20, None]
    on_windows(free=5 << 30, grantable=1 << 30)
    assert machine.available_memory() == 1 << 30


def test_the_name_of_a_cpu_on_windows(on_windows: Callable[..., None]) -> None:
    on_windows("12th Gen Intel(R) Core(TM) i7-1260P ")
    assert machine.cpu_name() == "12th Gen Intel(R) Core(TM) i7-1260P"


def test_a_windows_that_tells_nothing(
    on_windows: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_windows(fails=True)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_threads() == 6
    assert machine.available_memory() is None
    assert machine.peak_memory() is None
    assert machine.cache_size(1) is None
    assert machine.cpu_name() == platform.machine()


# ---- macOS, of made-up functions -----------------------------------------------------------------


@pytest.fixture
def on_macos(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has a library tell of a machine; see `LibSystem`."""

    def on_macos(**machine_of: Any) -> None:
        library = LibSystem(**machine_of)
        monkeypatch.setattr("ctypes.CDLL", lambda _: library)
        monkeypatch.setattr(machine, "system", macos)

    macos._host.cache_clear()
    yield on_macos
    macos._host.cache_clear()


M2 = {
    "hw.perflevel0.physicalcpu": 4, "hw.physicalcpu": 8, "hw.perflevel0.l1dcachesize": 128 << 10,
    "hw.l1dcachesize": 64 << 10, "hw.perflevel0.l2cachesize": 16 << 20, "hw.l2cachesize": 4 << 20,
    "machdep.cpu.brand_string": "Apple M2",
}  # fmt: skip
CORE_I5 = {
    "hw.physicalcpu": 6, "hw.l1dcachesize": 32 << 10, "hw.l2cachesize": 256 << 10,
    "hw.l3cachesize": 9 << 20, "machdep.cpu.brand_string": "Intel(R) Core(TM) i5-8500B",
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "n_threads", "caches"),
    [
        (M2, 4, [128 << 10, 16 << 20, None]),
        (CORE_I5, 6, [32 << 10, 256 << 10, 9 << 20]),
    ],
)
def test_cores_and_caches_on_macos(
    on_macos: Callable[..., None], names: Mapping[str, Any], n_threads: int, caches: list[Any]
) -> None:
    on_macos(names=names)
    assert machine.usable_threads() == n_threads
    assert [machine.cache_size(level) for level in (1, 2, 3)] == caches
    assert machine.cpu_name() == names["machdep.cpu.brand_string"]


def test_memory_on_macos(on_macos: Callable[..., None]) -> None:
    on_macos(free=3, inactive=4)
    assert machine.available_memory() == 7 * mmap.PAGESIZE
    assert machine.peak_memory() == 123_000_000


def test_a_macos_that_tells_nothing(
    on_macos: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_macos(fails=True, names={})
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_threads() == 6
    assert machine.available_memory() is None
    assert machine.peak_memory() is None
    assert machine.cache_size(2) is None
    assert machine.cpu_name() == platform.machine()


@needs_linux
def test_the_peak_is_where_a_c_library_has_it() -> None:
    """Linux has the same structure, with another unit."""
    import resource

    assert macos.peak_memory() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
