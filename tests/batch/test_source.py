"""Files of requests as they come: line ends, marks, blank lines, and lines that are no request."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.batches import request, write

from linnet.engine.batch.lines import URLS
from linnet.engine.batch.source import Source

ONE = request("one", prompt="a")
LINE = json.dumps(ONE).encode()


def opened(
    tmp_path: Path, *lines: dict[str, Any] | bytes, shard: tuple[int, int] = (1, 1)
) -> closing[Source]:
    return closing(Source(str(write(tmp_path / "in.jsonl", lines)), shard))


@pytest.mark.parametrize(
    "data",
    [
        b"%s\n%s\n", b"%s\r\n%s\r\n", b"%s\n%s", b"\n\n%s\n \t\r\n\r\n%s\n\n",
        b"\xef\xbb\xbf%s\n%s\n",
        b"\xef\xbb\xbf\r\n%s\r\n%s", b"  %s \r\n\t%s",
    ],
    ids=str,
)  # fmt: skip
def test_lines_are_found(tmp_path: Path, data: bytes) -> None:
    body = {"prompt": "é\u2028x"}
    lines = [json.dumps(request(name, **body)).encode() for name in ("é", "b")]
    path = tmp_path / "in.jsonl"
    path.write_bytes(data % tuple(lines))
    with closing(Source(str(path))) as source:
        assert source.ids == {"é": 0, "b": 1}
        assert source.wrong == {}
        found = dict(source.requests([1, 0]))
        assert [found[i].custom_id for i in range(2)] == ["é", "b"]
        assert [bytes(found[i].body) for i in range(2)] == [json.dumps(body).encode()] * 2
        blank = data.partition(b"%s")[0].count(b"\n")
        assert source.number(0) == blank + 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"no JSON", "malformed"), (b"[]", "Expected `object`"), (b"null", "Expected `object`"),
        (b"\x00", "malformed"), (b'{"custom_id": "\xff"}', "UTF-8"), (LINE[:-1], "truncated"),
        (LINE + LINE, "malformed"), (b"[" * 100_000, ""),
        ({**ONE, "custom_id": 3}, "got `int` - at `$.custom_id`"),
        ({**ONE, "custom_id": None}, "got `null` - at `$.custom_id`"),
        ({"method": "POST", "url": URLS[0], "body": {}}, "missing required field `custom_id`"),
        ({**ONE, "body": None, "method": "GET"}, "method of 'one' is 'GET'; it must be POST"),
        ({**ONE, "url": "/v1/chat"}, "url of 'one' is '/v1/chat'; it must be one of /v1/chat/comp"),
        ({name: ONE[name] for name in ("custom_id", "method", "url")}, "field `body`"),
        (request("first"), "line 1 has the custom_id 'first', too"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_request_is_told(tmp_path: Path, line: Any, says: str) -> None:
    with opened(tmp_path, request("first"), b"", line, request("last")) as source:
        assert source.ids == {"first": 0, "last": 2}
        assert list(source.wrong) == [1]
        assert says in source.wrong[1]
        assert source.number(1) == 3


def test_shards_partition_the_lines(tmp_path: Path) -> None:
    lines = [request("0"), b"", b"wrong", *(request(str(i)) for i in range(3, 10)), request("0")]
    there = [0, *range(2, 11)]
    for n in (1, 2, 3, 4, 20):
        taken: list[int] = []
        for i in range(1, n + 1):
            with opened(tmp_path, *lines, shard=(i, n)) as source:
                mine = [source.number(k) - 1 for k in range(len(source)) if source.is_mine(k)]
                assert all(number % n == i - 1 for number in mine)
                assert len(source.ids) == 8  # of all: an id is wrong twice in any shard
                assert list(source.wrong) == [1, 9]
                taken += mine
        assert sorted(taken) == there


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no request: it is empty"), (b"\n\r\n", "no request: it is empty"),
        (b"GGUF\x03\x00", "no request: line 1: JSON is malformed"),
        (json.dumps(ONE).encode("utf-16"), "is in UTF-16; it must be in UTF-8"),
        (json.dumps([ONE]).encode(), "no request: line 1: Expected `object`, got `array`"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_file_without_requests_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        Source(str(path))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Source(str(tmp_path / "missing"))
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(ValueError, match="a file on a disk"):
        Source(f"/dev/fd/{reading}")
    os.close(reading)
