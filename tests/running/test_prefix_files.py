"""Prefixes on disk: the same bits from a file, and nothing from a file that is not as it was."""

from __future__ import annotations

import json
import os
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.model_runner import F32, INT8
from support.systems import is_private
from support.tiny_architectures import N_VOCAB, TINY
from support.tiny_llama import BOS, TinyLlama

from linnet import LLM, PrefixError, SamplingParams
from linnet.engine.running import prefix_file, prompt_cache
from linnet.engine.running.batch import Part
from linnet.engine.running.idle import Idle
from linnet.engine.running.prefix_file import HEAD, PrefixFile, origin_of, write
from linnet.engine.running.prefixes import Prefixes
from linnet.engine.running.prompt_cache import ENDING, LAST, WORTH_READING, PromptCache
from linnet.engine.running.runner import Runner
from linnet.engine.running.session import Session
from linnet.kernels.compiler.jit import Library
from linnet.kernels.runtime.team import Interrupted
from linnet.models import load_model

N_CTX = 64
Sessions = Callable[..., Session]
LONG = {"n_ctx": 2048, "n_slots": 2, "n_batch": 512}
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def ids_of(n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(N_VOCAB), k=n)


@pytest.fixture
def open_session(best_library: Library) -> Iterator[Sessions]:
    opened: list[Session] = []

    def make(name: str = "llama", **options: Any) -> Session:
        model = load_model(TINY[name].metadata(), TINY[name].tensors())
        sizes = {"n_slots": 2, "n_batch": 16, "n_ctx": N_CTX, "numerics": INT8} | options
        sizes["kv_tokens"] = options.get("kv_tokens", sizes["n_slots"] * sizes["n_ctx"])
        opened.append(Session(Runner(model, best_library, n_threads=1, **sizes)))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


def origin(session: Session) -> prefix_file.Origin:
    return origin_of(session.runner, "a model")


def saved(path: Path, session: Session, ids: list[int]) -> PrefixFile:
    session.prompt(ids, slot=1)
    return write(path, session, 1, len(ids), origin(session))


# ---- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_prefix_from_a_file_goes_on_with_the_same_bits(
    open_session: Sessions, tmp_path: Path, name: str
) -> None:
    """All of it, as it was written; what another sequence left in the slot is not seen."""
    ids, path = ids_of(45), tmp_path / "prefix"
    written = saved(path, open_session(name), ids[:37])
    session = open_session(name)
    session.prompt(ids_of(50, seed=1))
    file = PrefixFile.open(path, session, origin(session))
    assert file == written
    assert file.n_bytes == path.stat().st_size
    assert is_private(path)
    file.read(session, 0, 37)
    assert session.sequences[0].reusable(ids) == 37
    found = [session.prompt(ids).tobytes(), session.extend(7).tobytes()]
    alone = open_session(name)
    assert found == [alone.prompt(ids).tobytes(), alone.extend(7).tobytes()]


@pytest.mark.parametrize("numerics", [INT8, F32], ids=["int8", "f32"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek2", "qwen35"])
def test_a_part_of_a_file_serves_where_layers_keep_enough(
    open_session: Sessions, tmp_path: Path, name: str, numerics: Any
) -> None:
    session = open_session(name, numerics=numerics)
    file = saved(tmp_path / "prefix", session, ids_of(60))
    for n in (1, 15, 31, 59):
        ids = [*ids_of(60)[:n], *ids_of(4, seed=n)]
        if ids[n] == ids_of(60)[n]:
            continue
        n_taken = file.reusable(ids, session.runner.graph.rings)
        session.sequences[0].truncate(0)
        file.read(session, 0, n_taken)
        assert session.sequences[0].reusable(ids) == n_taken
        assert session.sequences[0].n_touched <= max(n, 60)
        assert n_taken in ({0} if name == "qwen35" else {n, 0} if name == "gemma3" else {n})
        alone = open_session(name, numerics=numerics)
        assert session.prompt(ids).tobytes() == alone.prompt(ids).tobytes()


# ---- files that are not as they were -------------------------------------------------------------


def test_a_damaged_file_is_never_used(open_session: Sessions, tmp_path: Path) -> None:
    """Cut anywhere, longer, or with any byte changed."""
    session, path = open_session("gemma3"), tmp_path / "prefix"
    saved(path, session, ids_of(37))
    whole, rng = path.read_bytes(), random.Random(0)
    damaged = [whole[:n] for n in (0, 7, 15, 60, len(whole) - 32, len(whole) - 1)] + [whole + b"x"]
    places = [*range(HEAD.size), *rng.sample(range(HEAD.size, len(whole)), 60)]
    for at in (*places, len(whole) - 40, len(whole) - 1):
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    for data in damaged:
        path.write_bytes(data)
        session.prompt([1, 2, 3])
        with pytest.raises(PrefixError, match=re.escape(repr(str(path)))):
            PrefixFile.open(path, session, origin(session)).read(session, 0, 30)
        assert session.sequences[0].ids in ([1, 2, 3], [])
    path.write_bytes(whole)
    PrefixFile.open(path, session, origin(session)).read(session, 0, 30)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"n_tokens": 2**62},
            f"has {2**62} tokens; the context takes 1 to 64: give a larger n_ctx",
        ),
        ({"n_tokens": 0}, "has 0 tokens"),
        ({"n_tokens": -5}, "has -5 tokens"),
        ({"n_tokens": True}, "must be an object with origin, n_tokens, n_computed"),
        ({"n_tokens": 36}, "bytes; its 36 tokens take"),
        ({"n_computed": 3}, "n_computed is 3; it must be n_tokens, 37, or more"),
        ({"n_computed": 1e400}, "must be an object"),
        ({"origin": []}, "must be an object"),
        ({"origin": {}}, "it was made with another model: None, not 'a model'"),
    ],
)
def test_a_hostile_head_is_refused(
    open_session: Sessions, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    session, path = open_session(), tmp_path / "prefix"
    saved(path, session, ids_of(37))
    data = path.read_bytes()
    magic, version, n = HEAD.unpack(data[: HEAD.size])
    head = json.loads(data[HEAD.size : HEAD.size + n])
    text = json.dumps({**head, **fields}).encode()
    path.write_bytes(HEAD.pack(magic, version, len(text)) + text + data[HEAD.size + n :])
    with pytest.raises(PrefixError, match=message):
        PrefixFile.open(path, session, origin(session))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGUF" + bytes(100), "is not a prefix that linnet has saved"),
        (HEAD.pack(prefix_file.MAGIC, 2, 2) + b"{}", "its format is 2; this linnet reads 1"),
        (HEAD.pack(prefix_file.MAGIC, 1, 2**32 - 1), "its head has 4294967295 bytes; at most"),
        (HEAD.pack(prefix_file.MAGIC, 1, 60000) + b"[" * 60000, "its head is not JSON"),
        (HEAD.pack(prefix_file.MAGIC, 1, 2) + b"\xff\xff", "its head is not JSON"),
        (HEAD.pack(prefix_file.MAGIC, 1, 2) + b"[]", "its head must be an object"),
    ],
)
def test_what_is_no_prefix_is_refused(
    open_session: Sessions, tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "prefix"
    path.write_bytes(data)
    with pytest.raises(PrefixError, match=message):
        PrefixFile.open(path, open_session(), {})
    with pytest.raises(PrefixError, match="not a regular file"):
        PrefixFile.open(tmp_path, open_session(), {})
    with pytest.raises(FileNotFoundError):
        PrefixFile.open(tmp_path / "none", open_session(), {})


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("llama", {"numerics": F32}, "kind of activations"),
        ("gemma3", {"n_batch": 100, "n_ctx": 300}, "room for windows (n_batch)"),
        ("phi3", {"n_ctx": 16}, "table of positions (n_ctx)"),
    ],
)
def test_what_was_computed_otherwise_is_refused(
    open_session: Sessions, tmp_path: Path, name: str, options: dict[str, Any], field: str
) -> None:
    """And a context or a pass of another size is not, where it changes nothing."""
    path = tmp_path / "prefix"
    saved(path, open_session(name, n_ctx=300), ids_of(10))
    other = open_session(name, **options)
    with pytest.raises(PrefixError, match=f"with another {re.escape(field)}: '.*', not '"):
        PrefixFile.open(path, other, origin(other))
    same = open_session("llama", n_ctx=200, n_batch=9)
    saved(path, open_session(), ids_of(10))
    PrefixFile.open(path, same, origin(same)).read(same, 0, 9)
    assert same.prompt(ids_of(10)).tobytes() == open_session().prompt(ids_of(10)).tobytes()


def test_a_file_is_whole_or_the_old_one(open_session: Sessions, tmp_path: Path) -> None:
    session, path = open_session(), tmp_path / "prefix"
    saved(path, session, ids_of(20))
    before, n_calls = path.read_bytes(), 0

    def wanted() -> bool:
        nonlocal n_calls
        n_calls += 1
        return n_calls == 3

    session.prompt(ids_of(40))
    with pytest.raises(Interrupted):
        write(path, session, 0, 40, origin(session), wanted=wanted)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["prefix"]
    session.extend(5)
    with pytest.raises(ValueError, match="cannot give 42 of its 41 tokens"):
        write(path, session, 0, 42, origin(session))


# ---- a folder of them ----------------------------------------------------------------------------


def took(prefixes: Prefixes, session: Session, ids: list[int]) -> int:
    """How many of them a request finds; it runs."""
    slot = prefixes.take(ids, len(ids), {})
    assert slot is not None
    n_found = len(session.sequences[slot].ids)
    session.prompt(ids, slot=slot)
    prefixes.touch(slot)
    return n_found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{ENDING}"))


def test_prefixes_are_found_by_the_next_process(open_session: Sessions, tmp_path: Path) -> None:
    """The longest, where it has so many more tokens than a slot that reading it pays."""
    folder, common = tmp_path / "a" / "b", ids_of(WORTH_READING)
    session = open_session(**LONG)
    stored = PromptCache(folder, session, origin(session))
    assert is_private(folder)
    talks = [[*common, *ids_of(n, seed=n)] for n in (300, 10)]
    for slot, ids in enumerate(talks):
        session.prompt(ids, slot=slot)
        assert stored.worth_writing(ids) == (slot == 0)
        stored.write(slot, len(ids))
        assert not stored.worth_writing(ids)
    session = open_session(**LONG)
    prefixes = Prefixes(session, PromptCache(folder, session, origin(session)))
    assert took(prefixes, session, [*talks[0], 1, 2]) == len(talks[0])
    assert took(prefixes, session, [*talks[1], 1, 2]) == WORTH_READING  # 10 more are no reason
    assert took(prefixes, session, ids_of(300, seed=5)) == 0
    other = PromptCache(folder, session, {**origin(session), "model": "another"})
    assert other.longest(talks[0]) == (None, 0)


def test_a_longer_prefix_takes_the_place_of_a_shorter_one(
    open_session: Sessions, tmp_path: Path
) -> None:
    """Unless only that one can serve a prompt that ends there, as with a state."""
    for name in ("llama", "qwen35"):
        folder, session = tmp_path / name, open_session(name, **LONG)
        stored = PromptCache(folder, session, origin(session))
        for n in (300, 700):
            session.prompt(ids_of(700)[:n])
            stored.write(0, n)
        assert len(files(folder)) == (1 if name == "llama" else 2)
        assert stored.longest([*ids_of(700)[:300], 1])[1] == 300


def test_those_unused_for_longest_make_room(open_session: Sessions, tmp_path: Path) -> None:
    session = open_session(**LONG)
    one = saved(tmp_path / "one", session, ids_of(300)).n_bytes
    stored = PromptCache(tmp_path, session, origin(session), most_bytes=3 * one + 1000)
    talks = [ids_of(300, seed=i) for i in range(4)]
    for i, ids in enumerate(talks):
        if i == 3:  # the first has been used since
            file, n = stored.longest([*talks[0], 1])
            assert file
            assert stored.read(file, session, 1, n)
        session.prompt(ids)
        stored.write(0, 300)
        os.utime(stored.longest([*ids, 1])[0].path, (i, i))  # type: ignore[union-attr]
    assert [stored.longest([*ids, 1])[1] for ids in talks] == [300, 0, 300, 300]
    assert len(files(tmp_path)) == 3
    small = PromptCache(tmp_path / "small", session, origin(session), most_bytes=one - 1000)
    small.write(0, 300)
    assert files(tmp_path / "small") == []


def test_a_folder_with_bad_files_is_a_warning(open_session: Sessions, tmp_path: Path) -> None:
    session = open_session(**LONG)
    stored, ids = PromptCache(tmp_path, session, origin(session)), ids_of(300)
    session.prompt(ids)
    stored.write(0, 300)
    (path,) = files(tmp_path)
    (tmp_path / f"junk{ENDING}").write_bytes(b"junk")
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    expected = session.prompt([*ids, 1]).tobytes()
    session = open_session(**LONG)
    prefixes = Prefixes(session, PromptCache(tmp_path, session, origin(session)))
    with pytest.warns(UserWarning, match="the prompt cache goes without a file: .* is damaged"):
        assert took(prefixes, session, [*ids, 1]) == 0
    assert session.prompt([*ids, 1]).tobytes() == expected
    session.release(0)
    session.release(1)
    assert took(prefixes, session, [*ids, 1]) == 0  # and no second warning
    path.chmod(0o666)  # somebody else could have written it
    assert PromptCache(tmp_path, session, origin(session)).longest(ids) == (None, 0)


def test_a_folder_that_is_gone_is_a_warning(open_session: Sessions, tmp_path: Path) -> None:
    session, tmp_path = open_session(**LONG), tmp_path / "gone"
    stored = PromptCache(tmp_path, session, origin(session))
    session.prompt(ids_of(300))
    tmp_path.rmdir()
    with pytest.warns(UserWarning, match="the prompt cache cannot keep a prefix"):
        stored.write(0, 300)


# ---- by name -------------------------------------------------------------------------------------


def test_what_a_process_that_was_ended_left_goes(open_session: Sessions, tmp_path: Path) -> None:
    session = open_session(**LONG)
    old, new = (tmp_path / f".{name}{ENDING}.0123" for name in ("old", "new"))
    for each in (old, new):
        each.write_bytes(b"x")
    os.utime(old, (0, 0))
    PromptCache(tmp_path, session, origin(session))
    assert os.listdir(tmp_path) == [new.name]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyLlama(type="Q4_K", n_ctx=600).write(tmp_path_factory.mktemp("model") / "tiny.gguf")


def test_an_llm_saves_and_loads_a_prefix(path: Path, tmp_path: Path) -> None:
    prompt, file = [BOS, *range(5, 45)], tmp_path / "prefix"
    with LLM(path) as llm:
        longer = [*prompt, 9, 8]
        expected = llm.generate(longer, GREEDY).token_ids
        assert llm.save_prefix(file, prompt) == 41
        llm.generate([BOS, 7], GREEDY)
        assert llm.save_prefix(tmp_path / "new", [BOS, 5, 5, 5]) == 4
    with LLM(path) as llm:
        assert llm.load_prefix(file) == 41
        output = llm.generate(longer, GREEDY)
        assert (output.token_ids, output.stats.n_cached) == (expected, 41)
        assert llm.load_prefix(tmp_path / "new") == 4
        with pytest.raises(PrefixError, match="not a prefix that linnet has saved"):
            llm.load_prefix(path)
    other = TinyLlama(type="Q4_K", seed=5).write(tmp_path / "other.gguf")
    for options in ({"path": other}, {"path": path, "activations": "f32"}):
        with LLM(**options) as llm, pytest.raises(PrefixError, match="save it anew"):  # type: ignore[arg-type]
            llm.load_prefix(file)


def test_prompts_outlive_an_llm(path: Path, tmp_path: Path) -> None:
    """Written as it closes, though no step has been idle; read where a prompt begins so."""
    prompt = [BOS, *(5 + i % 40 for i in range(WORTH_READING))]
    with LLM(path, prompt_cache=tmp_path) as llm:
        expected = llm.generate([prompt, [BOS, 5]], GREEDY)[0].token_ids
        assert files(tmp_path) == []
    llm.close()
    assert len(files(tmp_path)) == 1
    for n_bytes, n_cached in ((1 << 30, len(prompt) - 1), (0, len(prompt) - 1)):
        with LLM(path, prompt_cache=tmp_path, prompt_cache_bytes=n_bytes) as llm:
            output = llm.generate(prompt, GREEDY)
            assert (output.token_ids, output.stats.n_cached) == (expected, n_cached)
    with pytest.raises(ValueError, match="prompt_cache_bytes is -1"):
        LLM(path, prompt_cache_bytes=-1)
    with pytest.raises(OSError, match="exists"):
        LLM(path, prompt_cache=path)


def test_a_little_more_is_written_as_the_process_ends(
    open_session: Sessions, tmp_path: Path
) -> None:
    session = open_session(**LONG)
    stored = PromptCache(tmp_path, session, origin(session))
    idle, all_ids = Idle(session, Prefixes(session, stored)), ids_of(WORTH_READING + LAST)
    sequence = session.sequences[0]
    for n in (WORTH_READING, len(all_ids)):
        session.run([Part(0, all_ids[len(sequence.ids) : n], 1)], few=False)
        generation: Any = type("Ended", (), {"ids": all_ids[:n], "sequence": sequence})
        generation.stats = type("Stats", (), {"n_prompt": n})
        idle.ended(generation)
        while idle.step(lambda: False):
            pass
    assert stored.longest([*all_ids, 0])[1] == WORTH_READING
    idle.close()
    assert stored.longest([*all_ids, 0])[1] == len(all_ids)
    assert len(files(tmp_path)) == 1


def test_nothing_is_written_twice_or_while_somebody_waits(
    open_session: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(**LONG)
    prefixes = Prefixes(session, PromptCache(tmp_path, session, origin(session)))
    idle, ids = Idle(session, prefixes), ids_of(WORTH_READING)
    session.run([Part(0, ids, 1)], few=False)
    generation: Any = type("Ended", (), {"ids": ids, "sequence": session.sequences[0]})
    generation.stats = type("Stats", (), {"n_prompt": len(ids)})
    idle.ended(generation)
    with pytest.raises(Interrupted):
        idle.step(lambda: True)
    assert os.listdir(tmp_path) == []
    assert [idle.step(lambda: False) for _ in range(2)] == [True, False]
    idle.ended(generation)
    monkeypatch.setattr(prompt_cache.prefix_file, "write", lambda *_, **__: 1 / 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not idle.step(lambda: False)
        idle.close()
