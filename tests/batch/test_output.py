"""Files of answers: what of them is taken, what is refused unchanged, and what is written anew."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.batches import read, request, write

from linnet.engine.batch.lines import answer_line
from linnet.engine.batch.output import Output
from linnet.engine.batch.source import Source

IDS = ["a", "b", "é", "d"]
USAGE = {"prompt_tokens": 2, "completion_tokens": 3}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """Four requests and, as the third and the last line, two that are none."""
    lines = [*map(request, IDS)]
    path = write(tmp_path / "in.jsonl", [*lines[:2], b"nonsense", *lines[2:], lines[0]])
    with closing(Source(str(path))) as source:
        yield source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@contextmanager
def opened(path: Path, source: Source, **options: Any) -> Iterator[Output]:
    with closing(Output(str(path), source, **options)) as output:
        yield output


def answer(custom_id: str, status: int = 200, model: str = "m", **body: Any) -> bytes:
    made = {"model": model, "usage": USAGE, **body} if status == 200 else {"error": {}}
    return answer_line(custom_id, status, "id", json.dumps(made).encode())


def add(output: Output, source: Source, *ids: str, **body: Any) -> None:
    for custom_id in ids:
        output.add(source.ids[custom_id], answer(custom_id, **body))


def missing(output: Output, source: Source) -> list[str]:
    by_index = {index: custom_id for custom_id, index in source.ids.items()}
    return [by_index[index] for index in output.missing()]


def ids(path: Path) -> list[str | None]:
    return [each["custom_id"] for each in read(path)]


def test_it_has_each_answer_at_once(path: Path, source: Source) -> None:
    with opened(path, source) as output:
        assert output.n == 6
        wrong = path.read_bytes()
        first, last = read(path)  # of lines that are no request: answered from the beginning
        assert (first["custom_id"], first["response"]) == (None, None)
        assert first["error"]["code"] == "invalid_request"
        assert first["error"]["message"].startswith("line 3: JSON is malformed")
        assert last["error"]["message"] == "line 6: line 1 has the custom_id 'a', too"
        assert missing(output, source) == IDS
        line = answer("b")
        output.add(source.ids["b"], line)
        assert path.read_bytes() == wrong + line
        assert missing(output, source) == ["a", "é", "d"]
        counts = output.counts
        assert (counts.answers, counts.errors) == (3, 2)
        assert (counts.prompt_tokens, counts.generated_tokens) == (2, 3)
    with opened(path, source) as output:
        assert output.counts == counts
        assert path.read_bytes() == wrong + line
        assert missing(output, source) == ["a", "é", "d"]


def test_a_line_cut_short_at_any_byte_is_asked_again(path: Path, source: Source) -> None:
    with opened(path, source) as output:
        add(output, source, "a", "é")
    data = path.read_bytes()
    whole = data[: data.rindex(b"\n", 0, -1) + 1]
    for end in range(len(whole), len(data)):
        path.write_bytes(data[:end])
        with opened(path, source) as output:
            assert path.read_bytes() == whole
            assert missing(output, source) == ["b", "é", "d"]
            add(output, source, "b")
        assert ids(path) == [None, None, "a", "b"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"text", "line 2: no answer of a batch"), (b"{}\n", "line 2: no answer of a batch"),
        (b"\n", "line 2: no answer of a batch"), (b"\x00\x00", "line 2: no answer"),
        (b'{"id":"batch_req_1","custom_id":"b"}\n', "line 2: no answer of a batch"),
        (b'{"id":"other', "line 2: no answer of a batch"),
        (json.dumps(request("b")).encode() + b"\n", "line 2: no answer of a batch"),
        (answer("x"), "line 2: an answer to 'x', no line has that custom_id"),
        (answer("a"), "line 2: a second answer to 'a'"),
        (answer_line("b", 200, "id", b"[]"), "line 2: no answer of a batch"),
    ],
    ids=map(str, range(10)),  # answers have random ids
)  # fmt: skip
@pytest.mark.parametrize("retry_errors", [False, True])
def test_what_holds_something_else_is_refused(
    path: Path, source: Source, line: bytes, says: str, retry_errors: bool
) -> None:
    data = answer("a") + line + answer("d", 500)[:-1]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says), opened(path, source, retry_errors=retry_errors):
        pass
    assert path.read_bytes() == data


def test_another_shards_is_refused(tmp_path: Path, path: Path, source: Source) -> None:
    shards = [closing(Source(source.path, (i, 2))) for i in (1, 2)]
    with shards[0] as odd, shards[1] as even:
        with opened(path, odd) as output:
            assert (output.n, missing(output, odd)) == (3, ["a", "d"])
            add(output, odd, "d")
        data = path.read_bytes()
        with pytest.raises(ValueError, match=r"answer to 'd', which is of another shard"):
            Output(str(path), even)
        assert path.read_bytes() == data
        with opened(tmp_path / "even", even) as output:
            assert (output.n, missing(output, even)) == (3, ["b", "é"])
            assert output.counts.answers == 1  # the last line, which is no request


def test_what_is_no_place_for_answers(tmp_path: Path, source: Source) -> None:
    before = Path(source.path).read_bytes()
    for name in ("in.jsonl", "link", "hard"):
        if name == "link":
            (tmp_path / name).symlink_to("in.jsonl")
        elif name == "hard":
            (tmp_path / name).hardlink_to(tmp_path / "in.jsonl")
        with pytest.raises(ValueError, match="has the requests; answers go to another file"):
            Output(str(tmp_path / name), source)
    assert Path(source.path).read_bytes() == before
    for name in (os.devnull, str(tmp_path)):
        with pytest.raises(ValueError, match="must be a file on a disk"):
            Output(name, source)
    with pytest.raises(FileNotFoundError):
        Output(str(tmp_path / "no" / "out"), source)


def test_answers_with_errors_can_be_asked_again(path: Path, source: Source) -> None:
    with opened(path, source) as output:
        add(output, source, "a")
        output.add(source.ids["b"], answer("b", 400))
        output.add(source.ids["é"], answer("é", 503))
        add(output, source, "d")
        assert output.counts.errors == 4
    with opened(path, source) as output:
        assert missing(output, source) == []
    path.chmod(0o640)
    with opened(path, source, retry_errors=True) as output:
        assert missing(output, source) == ["b", "é"]
        assert (output.counts.answers, output.counts.errors) == (4, 2)
        add(output, source, "é", "b")
        assert ids(path) == ["a", "d", None, None, "é", "b"]
        assert output.counts.errors == 2
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(each.name for each in path.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_what_is_wrong_with_lines_is_told_anew_where_it_is_another(
    path: Path, source: Source
) -> None:
    """As when some were mended between two runs."""
    with opened(path, source) as output:
        add(output, source, "a")
    lines = Path(source.path).read_bytes().replace(b"nonsense", json.dumps(request("c")).encode())
    Path(source.path).write_bytes(lines)
    with closing(Source(source.path)) as mended, opened(path, mended) as output:
        assert missing(output, mended) == ["b", "c", "é", "d"]
        assert [each["custom_id"] for each in read(path)] == [None, "a"]
        assert output.counts.answers == 2


def test_answers_are_put_in_order(path: Path, source: Source) -> None:
    path.symlink_to("elsewhere")
    with opened(path, source) as output:
        add(output, source, "d", "b", "é", "a")
        before = sorted(path.read_bytes().splitlines())
        output.put_in_order()
        assert ids(path) == ["a", "b", None, "é", "d", None]
    assert sorted(path.read_bytes().splitlines()) == before
    assert path.is_symlink()
    with opened(path, source) as output:
        output.put_in_order()
        assert ids(path) == ["a", "b", None, "é", "d", None]


def test_another_models_answers_are_warned_of(path: Path, source: Source) -> None:
    with opened(path, source) as output:
        add(output, source, "a", model="one")  # as embeddings, without a fingerprint
    with warnings.catch_warnings(), opened(path, source) as output:
        warnings.simplefilter("error")
        add(output, source, "b", model="one", system_fingerprint="x")
    with opened(path, source) as output:
        with pytest.warns(UserWarning, match="answers of x; those of y follow"):
            add(output, source, "é", model="one", system_fingerprint="y")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once is enough
            add(output, source, "d", model="two", system_fingerprint="z")


def test_one_at_a_time_writes_it(path: Path, source: Source) -> None:
    with opened(path, source) as output:
        for _ in range(2):
            data = path.read_bytes()
            with pytest.raises(ValueError, match="is being written by another process"):
                Output(str(path), source)
            assert path.read_bytes() == data
            output.put_in_order()  # which makes another file of it
    with opened(path, source):
        pass
