"""The input file: where its requests are, and which of its lines are none."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from linnet.engine.batch.lines import Request, parsed

BOM = b"\xef\xbb\xbf"
WIDE = b"\xff\xfe", b"\xfe\xff"  # what UTF-16 begins with


class Source:
    """The lines of a file, each with an index, but for blank ones. `ids`: the index of each request
    by its custom_id; `wrong`: what is wrong with each line, by its index, that is no request; of
    the whole file. In memory are ids, and where lines begin. `shard`: i and n, for every n-th line
    from line i on.

    Lines end with a line feed, or one behind a carriage return; the file may begin with a mark of
    UTF-8. Raises ValueError for a file in which no line is a request, and OSError.
    """

    def __init__(self, path: str, shard: tuple[int, int] = (1, 1)) -> None:
        self.path, self._shard = path, shard
        self.ids: dict[str, int] = {}
        self.wrong: dict[int, str] = {}
        self._numbers, self._offsets = array("q"), array("q")
        self._file = open(path, "rb")  # noqa: SIM115 (closed with this)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, index: int) -> int:
        """Of a line, from 1, blank ones counted."""
        return self._numbers[index]

    def is_mine(self, index: int) -> bool:
        """Whether a line is of this shard."""
        i, n = self._shard
        return (self._numbers[index] - i) % n == 0

    def requests(self, indices: Iterable[int]) -> Iterator[tuple[int, Request]]:
        """Those, with their indices, read as they are taken."""
        for index in indices:
            self._file.seek(self._offsets[index])
            yield index, parsed(self._file.readline().removeprefix(BOM))

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        if not self._file.seekable():
            raise ValueError(f"{self.path!r} must be a file on a disk: it is read twice")
        offset = 0
        for number, line in enumerate(self._file, 1):
            if number == 1 and line.startswith(WIDE):
                raise ValueError(f"{self.path!r} is in UTF-16; it must be in UTF-8")
            text = line.removeprefix(BOM) if number == 1 else line
            if text.strip():
                self._add(number, offset, text)
            offset += len(line)
        if not self.ids:
            first = "; ".join(f"line {self.number(i)}: {self.wrong[i]}" for i in [*self.wrong][:1])
            raise ValueError(f"{self.path!r} has no request: {first or 'it is empty'}")

    def _add(self, number: int, offset: int, text: bytes) -> None:
        index = len(self)
        self._numbers.append(number)
        self._offsets.append(offset)
        try:
            custom_id = parsed(text).custom_id
        except ValueError as error:
            self.wrong[index] = str(error)
            return
        if custom_id in self.ids:
            earlier = self.number(self.ids[custom_id])
            self.wrong[index] = f"line {earlier} has the custom_id {custom_id!r}, too"
        else:
            self.ids[custom_id] = index
