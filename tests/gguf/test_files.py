"""Files are whole or not there, whatever happens; what others could have written is not read."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.systems import needs_posix

from linnet.kernels.compiler.files import new_file, read_own, write_own

PRECIOUS = b"what was there"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is there, alone in its folder."""
    (tmp_path / "file").write_bytes(PRECIOUS)
    return tmp_path / "file"


def only_as_before(path: Path) -> bool:
    return [*path.parent.iterdir()] == [path] and path.read_bytes() == PRECIOUS


# ---- written -------------------------------------------------------------------------------------


def test_a_file_takes_its_name_once_it_is_whole(path: Path) -> None:
    with new_file(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == PRECIOUS
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_a_failure_midway_leaves_what_was_there(path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with new_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert only_as_before(path)


@pytest.mark.parametrize("name", ["open", "replace"])
def test_ctrl_c_amid_a_call_of_the_system_leaves_what_was_there(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file was made, or is about to be renamed, and Python hears of Ctrl-C before it goes on."""
    call = getattr(os, name)

    def interrupted(*arguments: Any) -> None:
        if name == "open":
            os.close(call(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_own(path, b"whole")
    assert only_as_before(path)


def test_two_at_once_do_not_meet(path: Path) -> None:
    with new_file(path) as one, new_file(path) as other:
        one.write(b"one")
        other.write(b"other")
    assert path.read_bytes() == b"one"
    assert [*path.parent.iterdir()] == [path]


@needs_posix
def test_a_file_is_everyones_or_ones_own(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        with new_file(tmp_path / "all"):
            pass
        write_own(tmp_path / "a" / "b" / "own", b"secret")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "all").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "a" / "b" / "own").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


# ---- read ----------------------------------------------------------------------------------------


def test_what_was_written_is_read(path: Path) -> None:
    for data in (b"", b"secret"):
        write_own(path, data)
        assert read_own(path, 6) == data


def test_what_is_larger_or_no_file_is_not_read(path: Path) -> None:
    write_own(path, b"secret")
    assert read_own(path, 5) is None
    assert read_own(path.parent, 1 << 20) is None
    assert read_own(path / "below a file", 1 << 20) is None
    assert read_own(path.with_name("nowhere"), 1 << 20) is None


@needs_posix
def test_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert read_own(tmp_path / "pipe", 10) is None


@needs_posix
def test_what_others_may_write_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, is_read in ((0o644, True), (0o620, False), (0o602, False), (0o600, True)):
        path.chmod(mode)
        assert (read_own(path, 100) == PRECIOUS) == is_read
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert read_own(path, 100) is None


@needs_posix
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_file_that_is_looked_at_is_the_one_that_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Another takes its name just before it is looked at, or just after that."""
    ours, theirs, other = b"ours", b"theirs", path.with_name("other")
    first, second = (theirs, ours) if before else (ours, theirs)
    for place, data in ((path, first), (other, second)):
        write_own(place, data)
        place.chmod(0o600 if data == ours else 0o602)

    def swapping(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def looked(*arguments: Any, **options: Any) -> os.stat_result:
            status = None if before else look(*arguments, **options)
            with contextlib.suppress(FileNotFoundError):  # done already
                os.replace(other, path)
            return status or look(*arguments, **options)

        return looked

    with monkeypatch.context() as patch:
        for name in ("stat", "fstat"):
            patch.setattr(os, name, swapping(getattr(os, name)))
        found = read_own(path, 100)
    assert found == (None if before else ours)
    assert not other.exists()
