"""Files that mean harm, or were damaged: refused with a GGUFError, quickly, in little memory.

Every file is opened in a process of its own (gguf_probe.py), mapped and read into memory, so that
a crash or a hang is the failure of one test.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ROOT
from support.gguf_builder import (
    ARRAY,
    BOOL,
    F32,
    FLOAT32,
    I8,
    INT32,
    Q4_K,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    GGUFBuilder,
    string,
    u32,
    u64,
)
from support.systems import skip_without_proc

from linnet.engine.gguf.reader import GGUFError, GGUFFile

MAX_SECONDS = 1.0
MAX_MIB = 64.0


@dataclass(frozen=True, slots=True)
class Report:
    """What the probe saw; `outcome` is "opened", the error, or the signal that ended it."""

    outcome: str
    same_in_memory: bool = True
    seconds: float = 0.0
    mib: float = 0.0
    leaked: int = 0
    warnings: tuple[str, ...] = ()


def child_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def probe(paths: Iterable[Path]) -> list[Report]:
    """Open the files in one child; after a file that kills it, go on with another child."""
    skip_without_proc()
    waiting, reports = list(paths), []
    while waiting:
        child = subprocess.run(
            [sys.executable, ROOT / "tests/support/gguf_probe.py"],
            input="\n".join(map(str, waiting)),
            capture_output=True,
            text=True,
            env=child_environment(),
            timeout=120,
            check=False,
        )
        done = [Report(**json.loads(line)) for line in child.stdout.splitlines()]
        if len(done) < len(waiting):
            done.append(Report(f"died ({child.returncode}): {child.stderr[-2000:]}"))
        reports += done
        waiting = waiting[len(done) :]
    return reports


def check_refused(report: Report, message: str) -> None:
    assert report.outcome.startswith("GGUFError: "), report.outcome
    assert message in report.outcome
    assert report.outcome.isprintable()
    check_cheap(report)


def check_cheap(report: Report) -> None:
    assert report.same_in_memory
    assert report.seconds < MAX_SECONDS
    assert report.mib < MAX_MIB
    assert report.leaked == 0


# ---- single files --------------------------------------------------------------------------------


def llama() -> GGUFBuilder:
    return GGUFBuilder().kv("general.architecture", STRING, "llama")


def one_tensor(type: int = F32, shape: tuple[int, ...] = (8,), data: bytes = bytes(32)) -> bytes:
    return llama().tensor("token_embd.weight", type, shape, data).build()


def header(*, n_tensors: int = 0, n_keys: int = 0) -> bytes:
    return GGUFBuilder(n_tensors=n_tensors, n_keys=n_keys).build()


def two_tensors(first_offset: int, second_offset: int) -> bytes:
    file = llama().tensor("a", F32, (12,), offset=first_offset)
    return file.tensor("b", F32, (8,), offset=second_offset).build()


def many_strings(raw: bytes, count: int) -> bytes:
    return GGUFBuilder().array("k", STRING, count=count, raw=raw).build()


def nested_array(depth: int) -> bytes:
    value = (u32(ARRAY) + u64(1)) * depth + u32(UINT32) + u64(1) + u32(7)
    return GGUFBuilder().kv("k", ARRAY, value).build()


REFUSED = {
    # Header
    "01 empty file": (b"", "an empty file; not a GGUF file"),
    "02 three bytes": (b"GGU", "magic takes 4 bytes; 3 are left"),
    "03 magic only": (b"GGUF", "version takes 4 bytes; 0 are left"),
    "05 magic FUGG": (b"FUGG" + header()[4:], "b'FUGG'"),
    "05 magic GGML": (b"GGML" + header()[4:], "formats older than GGUF"),
    "05 magic ggml as written": (b"lmgg" + header()[4:], "formats older than GGUF"),
    "05 magic GGJT": (b"GGJT" + header()[4:], "formats older than GGUF"),
    "05 magic with escapes": (b"\x1b[2J" + header()[4:], "magic is b'\\x1b[2J'"),
    "06 version 0": (GGUFBuilder(version=0).build(), "version 0 is not supported"),
    "07 version 1": (GGUFBuilder(version=1).build(), "version 1 is not supported"),
    "08 version 4": (GGUFBuilder(version=4).build(), "version 4 is not supported"),
    "08 version 2^32-1": (GGUFBuilder(version=2**32 - 1).build(), "version 4294967295 is not"),
    "09 big endian": (GGUFBuilder(version=0x03000000).build(), "big-endian files are not"),
    "10 n_tensors 2^64-1": (header(n_tensors=2**64 - 1), f"is {2**64 - 1}; the file has room for"),
    "10 n_tensors 2^63": (header(n_tensors=2**63), f"is {2**63}; the file has room for"),
    "10 n_tensors 1e9": (header(n_tensors=10**9), "is 1000000000; the file has room for 0"),
    "10 n_tensors 1e5, all there": (
        header(n_tensors=10**5) + bytes(25 * 10**5),
        "is 100000; at most 65536 are read",
    ),
    "11 n_keys 2^64-1": (header(n_keys=2**64 - 1), f"is {2**64 - 1}; the file has room for"),
    "11 n_keys 2^63": (header(n_keys=2**63), f"is {2**63}; the file has room for"),
    "11 n_keys 1e9": (header(n_keys=10**9), "is 1000000000; the file has room for 0"),
    "11 n_keys 1e5, all there": (
        header(n_keys=10**5) + bytes(14 * 10**5),
        "is 100000; at most 1024 are read",
    ),
    "11 n_keys one too many": (
        GGUFBuilder(n_keys=2).kv("k", STRING, "v" * 40).build(),
        "length of key",
    ),
    # Metadata
    "12 key length 2^64-1": (
        GGUFBuilder().kv("k", UINT32, 1, key_length=2**64 - 1).build(),
        f"length of key is {2**64 - 1}; it must be 1 to 65535",
    ),
    "12 key length 2^63": (
        GGUFBuilder().kv("k", UINT32, 1, key_length=2**63).build(),
        f"length of key is {2**63}",
    ),
    "12 key length past the end": (
        GGUFBuilder().kv("k", UINT32, 1, key_length=1000).build(),
        "key takes 1000 bytes; 32 are left",
    ),
    "13 empty key": (GGUFBuilder().kv("", UINT32, 1).build(), "length of key is 0"),
    "14 key of 1 MiB": (
        GGUFBuilder().kv("k" * 2**20, UINT32, 1).build(),
        "length of key is 1048576; it must be 1 to 65535",
    ),
    "15 key not UTF-8": (GGUFBuilder().kv(b"\xff\xfe", UINT32, 1).build(), "key b'\\xff\\xfe'"),
    "15 key with NUL": (GGUFBuilder().kv("a\0b", UINT32, 1).build(), "key 'a\\x00b' is not print"),
    "15 key with escapes": (GGUFBuilder().kv("\x1b[2J", UINT32, 1).build(), "key '\\x1b[2J' is"),
    "15 key that turns text around": (GGUFBuilder().kv("a\u202eb", UINT32, 1).build(), "\\u202e"),
    "15 long key of escapes": (GGUFBuilder().kv("\x1b" * 9000, UINT32, 1).build(), "x1b'... is"),
    "16 duplicate key": (
        GGUFBuilder().kv("k", UINT32, 1).kv("k", UINT32, 2).build(),
        "key 'k' is there twice",
    ),
    "17 value type 13": (GGUFBuilder().kv("k", 13, bytes(8)).build(), "type of 'k' is 13"),
    "17 value type 99": (GGUFBuilder().kv("k", 99, bytes(8)).build(), "type of 'k' is 99"),
    "17 value type 2^31": (GGUFBuilder().kv("k", 2**31, bytes(8)).build(), "is 2147483648"),
    "18 bool 2": (GGUFBuilder().kv("k", BOOL, b"\2").build(), "neither 0 nor 1"),
    "18 bool 2 in an array": (
        GGUFBuilder().array("k", BOOL, [True, b"\2", False]).build(),
        "'k' holds a bool that is neither 0 nor 1",
    ),
    "19 string length past the end": (
        GGUFBuilder().kv("k", STRING, "v", length=1000).build(),
        "a string takes 1008 bytes;",
    ),
    "19 string length 2^64-1": (
        GGUFBuilder().kv("k", STRING, "v", length=2**64 - 1).build(),
        f"a string takes {2**64 + 7} bytes;",
    ),
    "19 string length 2^63": (
        GGUFBuilder().kv("k", STRING, "v", length=2**63).build(),
        f"a string takes {2**63 + 8} bytes;",
    ),
    "19 string in an array past the end": (
        GGUFBuilder().array("k", STRING, ["a"], count=2, raw=string("b", length=99)).build(),
        "'k': a string takes 107 bytes;",
    ),
    "19 string far into an array past the end": (
        GGUFBuilder().array("k", STRING, ["abc"] * 9000, count=9001, raw=u64(200)).build(),
        "'k': a string takes 208 bytes;",
    ),
    "20 array of 2^64-1": (
        GGUFBuilder().array("k", UINT32, count=2**64 - 1).build(),
        f"number of elements of 'k' is {2**64 - 1}; the file has room for",
    ),
    "20 array of 2^62, whose bytes wrap": (
        GGUFBuilder().array("k", UINT32, count=2**62).build(),
        f"is {2**62}; the file has room for",
    ),
    "20 array of 2^40": (
        GGUFBuilder().array("k", STRING, count=2**40).build(),
        f"is {2**40}; the file has room for",
    ),
    "20 array of 1e9": (
        GGUFBuilder().array("k", STRING, count=10**9).build(),
        "is 1000000000; the file has room for",
    ),
    "20 array one longer than the file": (
        GGUFBuilder().array("k", STRING, ["a"] * 40, count=41).build(),
        "a string takes 8 bytes; 7 are left",
    ),
    "21 array type 99": (GGUFBuilder().array("k", 99, count=1, raw=bytes(8)).build(), "is 99; it"),
    "22 array of arrays": (nested_array(1), "arrays are not nested"),
    "22 arrays 5,000 deep": (nested_array(5000), "arrays are not nested"),
    "23 more elements than are read": (
        GGUFBuilder().array("k", UINT8, count=2**22 + 1, raw=bytes(2**22 + 1)).build(),
        "is 4194305; at most 4194304 are read",
    ),
    "23 more elements than are read, in two arrays": (
        GGUFBuilder()
        .array("a", UINT8, count=2**21, raw=bytes(2**21))
        .array("b", UINT8, count=2**21 + 1, raw=bytes(2**21 + 1))
        .build(),
        "number of elements of 'b' is 2097153; at most 2097152 are read",
    ),
    "24 alignment 0": (GGUFBuilder(alignment=0).build(), "general.alignment is 0"),
    "24 alignment 3": (GGUFBuilder(alignment=3).build(), "general.alignment is 3"),
    "24 alignment 13": (GGUFBuilder(alignment=13).build(), "general.alignment is 13"),
    "24 alignment 2^31": (
        GGUFBuilder().kv("general.alignment", UINT32, 2**31).build(),
        "general.alignment is 2147483648",
    ),
    "24 alignment i32": (
        GGUFBuilder().kv("general.alignment", INT32, 32).build(),
        "general.alignment is 32; it must be a u32",
    ),
    "24 alignment string": (
        GGUFBuilder().kv("general.alignment", STRING, "32").build(),
        "'general.alignment' is of type str; it must be int",
    ),
    "24 alignment array": (
        GGUFBuilder().array("general.alignment", UINT32, [32]).build(),
        "'general.alignment' is of type ndarray; it must be int",
    ),
    # Tensor table
    "25 n_dims 5": (one_tensor(shape=(1, 1, 1, 1, 8)), "has 5 dimensions; at most 4"),
    "25 n_dims 2^32-1": (
        llama().tensor("w", F32, (8,), n_dims=2**32 - 1).build(),
        "'w' has 4294967295 dimensions",
    ),
    "26 n_dims 0 and blocks": (one_tensor(Q4_K, ()), "rows of 1 weights; Q4_K has blocks of 256"),
    "28 dim -1": (one_tensor(shape=(-1,)), "2**63 weights or more"),
    "28 dim 2^63": (one_tensor(shape=(2**63,)), "2**63 weights or more"),
    "28 dim 2^63 by dim 0": (one_tensor(shape=(0, 2**63)), "2**63 weights or more"),
    "29 product 2^64": (one_tensor(shape=(2**32, 2**32)), "2**63 weights or more"),
    "29 product 2^62, bytes 2^64": (one_tensor(shape=(2**31, 2**31)), "the file ends at"),
    "30 size wraps when padded": (one_tensor(shape=(2**30 + 1, 2**30 - 1, 4)), "the file ends at"),
    "31 sum of sizes wraps": (
        llama()
        .tensor("a", I8, (0x7FFFFFFFFFFFFFC0,), b"", offset=0)
        .tensor("b", I8, (0x7FFFFFFFFFFFFFC0,), b"", offset=0x7FFFFFFFFFFFFFC0)
        .tensor("c", I8, (8,), offset=2**64 - 128)
        .build(),
        "'a' is in bytes",
    ),
    "32 row of 100 in Q4_K": (one_tensor(Q4_K, (256, 100)), "rows of 100 weights; Q4_K has blocks"),
    **{
        f"33 removed type {number}": (one_tensor(number), f"has type {number} ({name}, removed)")
        for number, name in {
            4: "Q4_2",
            5: "Q4_3",
            31: "Q4_0_4_4",
            32: "Q4_0_4_8",
            33: "Q4_0_8_8",
            36: "IQ4_NL_4_4",
            37: "IQ4_NL_4_8",
            38: "IQ4_NL_8_8",
        }.items()
    },
    "33 type 255": (one_tensor(255), "has type 255 (unknown)"),
    "33 type 2^31": (one_tensor(2**31), "has type 2147483648 (unknown)"),
    "34 duplicate tensor": (
        llama().tensor("w", F32, (8,)).tensor("w", F32, (8,)).build(),
        "tensor 'w' is there twice",
    ),
    "35 tensor name of 65 bytes": (
        llama().tensor("w" * 65, F32, (8,)).build(),
        "length of tensor name is 65; it must be 1 to 64",
    ),
    "35 tensor name of 4 KiB": (llama().tensor("w" * 4096, F32, (8,)).build(), "name is 4096"),
    "35 tensor name length 2^64-1": (
        llama().tensor("w", F32, (8,), name_length=2**64 - 1).build(),
        f"length of tensor name is {2**64 - 1}",
    ),
    "35 empty tensor name": (llama().tensor("", F32, (8,)).build(), "length of tensor name is 0"),
    "35 tensor name not UTF-8": (llama().tensor(b"\xff", F32, (8,)).build(), "b'\\xff' is not"),
    "35 tensor name with escapes": (llama().tensor("\x1b[2J", F32, (8,)).build(), "'\\x1b[2J'"),
    "36 offset 2^64-1": (two_tensors(0, 2**64 - 1), f"'b' has offset {2**64 - 1}; it must be 64"),
    "36 first offset 2^63": (two_tensors(2**63, 64), f"'a' has offset {2**63}; it must be 0"),
    "37 offset unaligned": (two_tensors(0, 48), "'b' has offset 48; it must be 64"),
    "38 tensors overlap": (two_tensors(0, 32), "'b' has offset 32; it must be 64"),
    "38 tensors at the same place": (two_tensors(0, 0), "'b' has offset 0; it must be 64"),
    "39 hole": (two_tensors(0, 96), "'b' has offset 96; it must be 64"),
    "39 offsets in another order": (two_tensors(32, 0), "'a' has offset 32; it must be 0"),
    "40 data one byte short": (one_tensor()[:-1], "the file ends at"),
    "41 no data": (one_tensor()[:-32], "the file ends at"),
    # Split files: what a single file can say about itself
    "48 split.no without split.no": (
        llama().kv("split.count", UINT16, 2).build(),
        "metadata key 'split.no' is missing",
    ),
    "48 split.no 1": (
        llama().kv("split.no", UINT16, 1).kv("split.count", UINT16, 2).build(),
        "split.no is 1: a split file is opened by its first part",
    ),
    "48 split.count 2^16": (
        llama().kv("split.no", UINT16, 0).kv("split.count", UINT32, 2**16).build(),
        "split.count is 65536; it must be 0 to 512",
    ),
    "48 split.count -1": (
        llama().kv("split.no", UINT16, 0).kv("split.count", INT32, -1).build(),
        "split.count is -1; it must be 0 to 512",
    ),
    "48 split.count is text": (
        llama().kv("split.count", STRING, "../../etc/passwd").build(),
        "'split.count' is of type str; it must be int",
    ),
    "48 first part under another name": (
        llama().kv("split.no", UINT16, 0).kv("split.count", UINT16, 2).build(),
        "the file's name must end in -00001-of-00002.gguf",
    ),
}

ACCEPTED = {
    "10 no tensors, no keys": header(),
    "14 key of 65,535 bytes": GGUFBuilder().kv("k" * 65_535, UINT32, 1).build(),
    "19 string not UTF-8": GGUFBuilder().kv("k", STRING, b"\xff\xfe").build(),
    "19 string with escapes": GGUFBuilder().kv("k", STRING, "\x1b[2J\0").build(),
    "20 empty arrays": GGUFBuilder().array("a", STRING, []).array("b", FLOAT32, []).build(),
    "23 a million empty strings": many_strings(string("") * 10**6, 10**6),
    "23 a million strings of zeros": many_strings(string(bytes(8)) * 10**6, 10**6),
    "23 a million strings of one byte": many_strings(string("a") * 10**6, 10**6),
    "23 a thousand strings of 1 KB": many_strings(string("a" * 1024) * 1000, 1000),
    "24 alignment 1": GGUFBuilder(alignment=1).tensor("w", F32, (3,)).tensor("v", I8, (1,)).build(),
    "24 alignment 65,536": GGUFBuilder(alignment=65_536).tensor("w", F32, (3,)).build(),
    "26 n_dims 0": one_tensor(shape=(), data=bytes(4)),
    "27 dim 0": llama().tensor("w", F32, (0, 4)).tensor("v", F32, (8,)).build(),
    "35 tensor name of 64 bytes": llama().tensor("w" * 64, F32, (8,)).build(),
    "40 only the last padding missing": llama().tensor("w", F32, (3,)).build()[:-20],
    "42 bytes after the last tensor": one_tensor() + b"PK\x03\x04",
    "48 split.count 1": llama().kv("split.no", UINT16, 0).kv("split.count", UINT16, 1).build(),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("hostile")
    files = {name: data for name, (data, _) in REFUSED.items()} | ACCEPTED
    paths = [folder / f"{number}.gguf" for number in range(len(files))]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return dict(zip(files, probe(paths), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str, reports: dict[str, Report]) -> None:
    check_refused(reports[name], message=REFUSED[name][1])


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name: str, reports: dict[str, Report]) -> None:
    assert reports[name].outcome == "opened"
    check_cheap(reports[name])


def test_bytes_after_the_last_tensor_are_warned_of(reports: dict[str, Report]) -> None:
    with_warnings = {name for name in ACCEPTED if reports[name].warnings}
    assert with_warnings == {"42 bytes after the last tensor"}
    message = reports["42 bytes after the last tensor"].warnings[0]
    assert "4 bytes after the last tensor are ignored" in message


# ---- many files ----------------------------------------------------------------------------------


def small_model() -> bytes:
    """About 1 KB with some of everything, that ends with the last byte of its last tensor."""
    return (
        llama()
        .kv("llama.rope.freq_base", FLOAT32, 10000.0)
        .kv("flag", BOOL, True)
        .array("tokenizer.ggml.tokens", STRING, ["<s>", "a", "b", "\N{BLACK HEART SUIT}"])
        .array("tokenizer.ggml.scores", FLOAT32, [0.0, -1.0, -2.0, -3.0])
        .tensor("token_embd.weight", F32, (4, 8))
        .tensor("output_norm.weight", F32, (3,))
        .tensor("output.weight", Q4_K, (2, 256))
        .build()
    )


def test_04_every_truncation_is_refused(tmp_path: Path) -> None:
    data = small_model()
    paths = [tmp_path / f"{size}.gguf" for size in range(len(data) + 1)]
    for size, path in enumerate(paths):
        path.write_bytes(data[:size])
    reports = probe(paths)
    assert reports.pop().outcome == "opened"
    for report in reports:
        check_refused(report, message="")


def test_any_changed_byte_is_refused_or_read(tmp_path: Path) -> None:
    """Each byte before the data, and each aligned u32 and u64 there, replaced by an awkward one."""
    data = small_model()
    chance = random.Random(43)
    paths = []
    for at in range(len(data) - 3 * 160 - 64):
        patch = chance.choice([b"\0", b"\1", b"\x7f", b"\x80", b"\xff"])
        patches = [patch, patch * 4, patch * 8, struct.pack("<Q", 1 << chance.randrange(64))]
        paths.append(tmp_path / f"{at}.gguf")
        patch = chance.choice(patches)
        paths[-1].write_bytes(data[:at] + patch + data[at + len(patch) :])
    for report in probe(paths):
        assert report.outcome == "opened" or report.outcome.startswith("GGUFError: ")
        check_cheap(report)


def test_large_tables_are_cheap(tmp_path: Path) -> None:
    """A quarter of the tensors and strings that are read; the strings as slow to walk as can be."""
    keys = GGUFBuilder()
    for i in range(1024):
        keys.kv(f"{i:1000}", UINT8, 1)
    keys.write(tmp_path / "keys.gguf")
    tensors = GGUFBuilder()
    for i in range(16_384):
        tensors.tensor(f"blk.{i}.attn_norm.weight", F32, (0, 0, 0, 0))
    tensors.write(tmp_path / "tensors.gguf")
    row = string("") * 1023 + string("ab") * 512 + string("")
    (tmp_path / "strings.gguf").write_bytes(many_strings(row * 680, 1536 * 680))
    for report in probe(tmp_path.iterdir()):
        assert report.outcome == "opened"
        check_cheap(report)


# ---- 43: cut while in use ------------------------------------------------------------------------


def test_43_a_mapped_file_cut_short_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_model())
    with GGUFFile(path) as file:
        metadata = file.metadata
        os.truncate(path, 100)
        with pytest.raises(GGUFError, match="bytes to 100 while in use"):
            file.tensors  # noqa: B018
        with pytest.raises(GGUFError, match="while in use"):
            file.get("flag", bool)
        with pytest.raises(GGUFError, match="while in use"):
            metadata["tokenizer.ggml.tokens"]


def test_43_a_file_in_memory_does_not_mind(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_model())
    with GGUFFile(path, mmap=False) as file:
        os.truncate(path, 0)
        assert file.get("flag", bool) is True
        assert file.tensors["output.weight"].data.sum() == 0


# ---- 48: split files, and what is not a file -----------------------------------------------------


def part(
    number: int, count: int = 2, *, tensors: str = "", promised: int | None = None
) -> GGUFBuilder:
    """A part of a split file, with one tensor a letter."""
    file = GGUFBuilder().kv("split.no", UINT16, number).kv("split.count", UINT16, count)
    file.kv("split.tensors.count", INT32, len("abcd") if promised is None else promised)
    for name in tensors:
        file.tensor(name, F32, (8,))
    return file


SPLITS = {
    "good": (part(0, tensors="ab"), part(1, tensors="cd"), None),
    "second part missing": (part(0, tensors="ab"), None, "'m-00002-of-00002.gguf' is not there"),
    "second part twice the first": (
        part(0, tensors="ab"),
        part(0, tensors="cd"),
        "split.no and .count are [0, 2]; they must be [1, 2]",
    ),
    "another count": (part(0, tensors="ab"), part(1, 3, tensors="cd"), "are [1, 3]; they must be"),
    "second part not split": (part(0, tensors="ab"), llama(), "'split.no' is missing"),
    "tensor in both": (part(0, tensors="ab"), part(1, tensors="bc"), "'b' is in an earlier part"),
    "tensor missing": (part(0, tensors="ab"), part(1, tensors="c"), "is 4; the parts have 3"),
    "tensors too many": (
        part(0, tensors="ab", promised=3),
        part(1, tensors="cd", promised=3),
        "split.tensors.count is 3; the parts have 4",
    ),
    "second part broken": (
        part(0, tensors="ab"),
        part(1, tensors="cd").kv("k", 99, b""),
        "m-00002-of-00002.gguf': byte",
    ),
    "count is not that of the name": (part(0, 3, tensors="abcd"), None, "-00001-of-00003.gguf"),
}


def test_48_split_files(tmp_path: Path) -> None:
    paths = []
    for name, (first, second, _) in SPLITS.items():
        folder = tmp_path / name
        folder.mkdir()
        paths.append(first.write(folder / "m-00001-of-00002.gguf"))
        if second is not None:
            second.write(folder / "m-00002-of-00002.gguf")
    reports = dict(zip(SPLITS, probe(paths), strict=True))
    for name, (_, _, message) in SPLITS.items():
        if message is None:
            assert reports[name].outcome == "opened"
            check_cheap(reports[name])
        else:
            check_refused(reports[name], message)


def test_48_parts_share_the_limit_on_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.engine.gguf.reader.MAX_TENSORS", 3)
    first = part(0, tensors="ab").write(tmp_path / "m-00001-of-00002.gguf")
    part(1, tensors="cd").write(tmp_path / "m-00002-of-00002.gguf")
    with pytest.raises(GGUFError, match="more than 3 tensors"):
        GGUFFile(first)


def test_48_a_part_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    paths = []
    for name, target in {"device": "/dev/zero", "loop": "m-00002-of-00002.gguf"}.items():
        folder = tmp_path / name
        folder.mkdir()
        paths.append(part(0, tensors="abcd").write(folder / "m-00001-of-00002.gguf"))
        (folder / "m-00002-of-00002.gguf").symlink_to(target)
    device, loop = probe(paths)
    check_refused(device, "not a regular file")
    check_refused(loop, "is not there")


def test_48_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    (folder,) = probe([tmp_path])
    check_refused(folder, "a folder; no GGUF file is in it")
    irregular = [tmp_path / "fifo", tmp_path / "link", Path("/dev/null")]
    for report in probe(irregular):
        check_refused(report, "not a regular file")
    (tmp_path / "loop").symlink_to("loop")
    missing, loop = probe([tmp_path / "missing.gguf", tmp_path / "loop"])
    assert missing.outcome.startswith("FileNotFoundError: ")
    assert loop.outcome.startswith("OSError: ")


def test_a_name_with_escapes_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2J.gguf"
    path.write_bytes(b"")
    with pytest.raises(GGUFError) as caught:
        GGUFFile(path)
    assert str(caught.value).isprintable()
