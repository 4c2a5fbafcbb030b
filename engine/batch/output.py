"""The output file: the answers that it has, and each new one as it comes.

A process that ends at any moment leaves whole lines and, at most, one that is cut short, which the
next one cuts off. Another order, or fewer answers, are a new file in the place of the old one.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import shutil
import sys
import warnings
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Literal

from linnet.engine.batch.lines import (
    BEGINNING,
    Answer,
    Body,
    Usage,
    parsed_answer,
    wrong_line,
    wrong_message,
)
from linnet.engine.batch.source import Source

NOT_THERE = -1


@dataclasses.dataclass
class Counts:
    """Answers, errors among them, and tokens of prompts and answers."""

    answers: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0

    def add(self, answer: Answer, body: Body) -> None:
        usage = body.usage or Usage()
        self.answers += 1
        self.errors += answer.is_error
        self.prompt_tokens += usage.prompt_tokens + usage.input_tokens
        self.generated_tokens += usage.completion_tokens + usage.output_tokens


class Output:
    """The answers to a shard of a file's requests, in a file at `path`, which is made where there
    is none. `retry_errors`: drop answers that are errors. In memory is where answers begin.

    Raises ValueError, before anything is changed, for a file with a line that is no answer, or an
    answer to what the shard does not ask, or a second one; for the file with the requests; and for
    one that another process writes. Raises OSError.
    """

    def __init__(self, path: str, source: Source, *, retry_errors: bool = False) -> None:
        self._name, self._path, self._source = path, os.path.realpath(path), source
        self.counts = Counts()  # of all that the file has
        self.before = Counts()  # of what it had
        self.n = sum(map(source.is_mine, range(len(source))))  # answers that it is to have
        self._places = array("q", [NOT_THERE]) * len(source)
        self._earlier: tuple[set[str], set[str]] = set(), set()  # that answers were made by
        if os.path.exists(path):
            if os.path.samefile(path, source.path):
                raise ValueError(f"{path!r} has the requests; answers go to another file")
            if not os.path.isfile(path):
                raise ValueError(f"{path!r} must be a file on a disk: it is read to go on with it")
        self._file = _opened(self._path, "ab")
        try:
            _lock(self._file, path)
            self._begin(retry_errors)
        except BaseException:
            self._file.close()
            raise

    def missing(self) -> Iterator[int]:
        """Indices of the requests that have no answer."""
        for index, place in enumerate(self._places):
            if place == NOT_THERE and self._source.is_mine(index):
                yield index

    def add(self, index: int, line: bytes) -> None:
        """Write the answer to a line. Warns where it is another model's than those before this.
        Raises OSError."""
        answer = parsed_answer(line)
        body = answer.body
        self._places[index] = self._append(line)
        self.counts.add(answer, body)
        for earlier, now in zip(self._earlier, body.made_by, strict=True):
            if earlier and now and now not in earlier:
                told = f"{self._name!r} has answers of {', '.join(sorted(earlier))}"
                warnings.warn(f"{told}; those of {now} follow", stacklevel=2)
                self._earlier = set(), set()

    def put_in_order(self) -> None:
        """Have answers in the order of requests. Raises OSError."""
        self._rewrite(index for index, place in enumerate(self._places) if place != NOT_THERE)

    def close(self) -> None:
        self._file.close()

    def _begin(self, retry_errors: bool) -> None:
        """Take what is there, and answer what is no request."""
        end, dropped = 0, False
        wrong = {
            wrong_message(self._source.number(index), what): index
            for index, what in self._source.wrong.items() if self._source.is_mine(index)
        }  # fmt: skip
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and BEGINNING.startswith(line[: len(BEGINNING)]):
                    break  # a process has ended amid it
                try:
                    answer, body, index = self._taken(line, wrong)
                except ValueError as error:
                    raise ValueError(f"{self._name!r}, line {number}: {error}") from error
                if index is None or (retry_errors and answer.is_error):
                    dropped = True
                else:
                    self._places[index] = end
                    for earlier, name in zip(self._earlier, body.made_by, strict=True):
                        earlier.update([name] if name else [])
                    self.counts.add(answer, body)
                end += len(line)
        self._file.truncate(end)
        self.before = dataclasses.replace(self.counts)
        if dropped:
            there = [i for i, place in enumerate(self._places) if place != NOT_THERE]
            self._rewrite(sorted(there, key=self._places.__getitem__))
        for message, index in wrong.items():
            if self._places[index] == NOT_THERE:
                self.add(index, wrong_line(message))

    def _taken(self, line: bytes, wrong: dict[str, int]) -> tuple[Answer, Body, int | None]:
        """An answer, and which line it is to; None where it says of one what is not `wrong` with it
        any more. Raises ValueError."""
        try:
            answer = parsed_answer(line)
            body = answer.body
        except ValueError as error:
            raise ValueError(f"no answer of a batch: give another file ({error})") from error
        if answer.custom_id is None:
            index = wrong.get(str((answer.error or {}).get("message")))
            is_again = index is not None and self._places[index] != NOT_THERE
            return answer, body, None if is_again else index
        index = self._source.ids.get(answer.custom_id)
        if index is None or not self._source.is_mine(index):
            what = "no line has that custom_id" if index is None else "which is of another shard"
            raise ValueError(f"an answer to {answer.custom_id!r}, {what}: give another file")
        if self._places[index] != NOT_THERE:
            raise ValueError(f"a second answer to {answer.custom_id!r}")
        return answer, body, index

    def _append(self, line: bytes) -> int:
        """Returns where it begins."""
        place = os.fstat(self._file.fileno()).st_size
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._name)
        return place

    def _rewrite(self, indices: Iterable[int]) -> None:
        """Have these answers alone, in this order."""
        temporary = f"{self._path}.tmp"
        file, place = _opened(temporary, "wb"), 0
        places = array("q", [NOT_THERE]) * len(self._places)
        try:
            _lock(file, temporary)
            shutil.copymode(self._path, temporary)
            copies = io.BufferedWriter(file)
            with open(self._path, "rb") as answers:
                for index in indices:
                    answers.seek(self._places[index])
                    places[index] = place
                    place += copies.write(answers.readline())
            copies.detach()  # flushed
            os.fsync(file)
            os.replace(temporary, self._path)
        except BaseException:
            file.close()
            with suppress(OSError):
                os.remove(temporary)
            raise
        self._file.close()
        self._file, self._places = file, places


def _opened(path: str, mode: Literal["ab", "wb"]) -> io.FileIO:
    return open(path, mode, buffering=0)


def _lock(file: io.FileIO, name: str) -> None:
    """Where the system has locks. Raises ValueError where another process has this one."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{name!r} is being written by another process") from None
    except OSError:
        return  # a file system that has none
