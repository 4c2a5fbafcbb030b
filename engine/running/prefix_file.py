"""A prefix on disk: the tokens of a sequence, and what layers keep of them.

    head     "linnetKV", u32 version, u32 bytes of JSON, JSON:
                 {"origin": {...}, "n_tokens": n, "n_computed": m}
    ids      i32 (n,)
    parts    what `Graph.held` gives of the first n positions, one after another
    digest   SHA-256 of all before

Numbers are little endian. `origin` names what the bits depend on, in texts: a file serves where all
of it is the same. n_computed counts the positions that the sequence had, some forgotten: so much of
a ring was written over.

The digest guards against damage, not against someone who makes files: what a prefix says, a model
goes on from. Counts are checked against the model before memory is taken or anything is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from linnet import models
from linnet.engine.running.runner import Runner
from linnet.engine.running.sequence import CachedSequence, n_common
from linnet.engine.running.session import Session
from linnet.kernels.compiler.files import new_file
from linnet.kernels.compiler.jit import sources_digest
from linnet.kernels.ops.attention import NO_WINDOW
from linnet.kernels.ops.base import Array
from linnet.kernels.runtime.team import Interrupted
from linnet.models.parts.cache import Ring

MAGIC, VERSION = b"linnetKV", 1
HEAD = struct.Struct("<8sII")
ID = np.dtype("<i4")
MOST_JSON = 1 << 16  # bytes
AT_ONCE = 16 << 20  # bytes that reach the disk before somebody may have come

Origin = Mapping[str, str]


class PrefixError(ValueError):
    """A file that is no prefix, is damaged, or is of another model or another way to compute."""


@dataclass(frozen=True, slots=True)
class PrefixFile:
    """A file whose head has been read: `ids`, and how many positions were computed."""

    path: Path
    ids: list[int]
    n_computed: int
    n_bytes: int

    @classmethod
    def open(cls, path: Path, session: Session, origin: Origin) -> PrefixFile:
        """Raises OSError, and PrefixError for what this session cannot use; its digest is not
        looked at before `read`."""
        if path.exists() and not path.is_file():
            raise _error(path, "it is not a regular file")
        with open(path, "rb") as file:
            return cls._of(path, file, session, origin)

    @classmethod
    def _of(cls, path: Path, file: BinaryIO, session: Session, origin: Origin) -> PrefixFile:
        theirs, n, n_computed = _head(path, file)
        for name, ours in origin.items():
            if (found := theirs.get(name)) != ours:
                what = f"it was made with another {name}: {_short(found)}, not {_short(ours)}"
                raise _error(path, f"{what}; save it anew")
        if not 1 <= n <= session.n_ctx:
            limit = f"the context takes 1 to {session.n_ctx}: give a larger n_ctx (-c)"
            raise _error(path, f"it has {n} tokens; {limit}")
        if n_computed < n:
            raise _error(path, f"n_computed is {n_computed}; it must be n_tokens, {n}, or more")
        parts = sum(part.nbytes for part in session.runner.graph.held(0, n))
        expected = file.tell() + n * ID.itemsize + parts + hashlib.sha256().digest_size
        if (size := os.fstat(file.fileno()).st_size) != expected:
            raise _error(path, f"it has {size} bytes; its {n} tokens take {expected}")
        ids = np.frombuffer(file.read(n * ID.itemsize), ID)
        if len(ids) != n or not ((ids >= 0) & (ids < session.n_vocab)).all():
            raise _error(path, f"token ids must be from 0 to {session.n_vocab - 1}")
        return cls(path, ids.tolist(), n_computed, size)

    def reusable(self, ids: Sequence[int], rings: Collection[Ring]) -> int:
        """How many of `ids`, from the first, can be taken from here: see
        `CachedSequence.reusable`."""
        n = min(n_common(self.ids, ids), len(ids) - 1)
        return n if all(ring.holds(n, self.n_computed) for ring in rings) else 0

    def read(self, session: Session, slot: int, n: int) -> None:
        """Make the first `n` tokens the slot's sequence.

        Raises OSError, and PrefixError where the file is damaged, after which the slot is empty.
        """
        session.restore(
            slot, self.ids[:n], self.n_computed, lambda parts: self._fill(session, parts)
        )

    def _fill(self, session: Session, parts: list[Array]) -> None:
        """Read the beginnings of the file's parts into these, of fewer positions perhaps."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            _head(self.path, file)
            ids = np.array(self.ids, ID).tobytes()
            n_before = file.tell() + len(ids)
            file.seek(0)
            before = file.read(n_before)
            digest.update(before)
            whole = session.runner.graph.held(0, len(self.ids))
            for part, like in zip(parts, whole, strict=True):
                data = np.empty(like.nbytes, np.uint8)
                if file.readinto(data.data) != data.nbytes:
                    raise _error(self.path, "it is cut short")
                digest.update(data.data)
                read = data.view(like.dtype).reshape(like.shape)
                part[...] = read[tuple(slice(n) for n in part.shape)]
            if not before.endswith(ids) or file.read() != digest.digest():
                raise _error(self.path, "its digest is not that of its bytes: it is damaged")


def origin_of(runner: Runner, model: str) -> Origin:
    """What the bits of a prefix, and their places, depend on; `model`: its digest."""
    graph = runner.graph
    code = runner.library.fingerprint + sources_digest(Path(models.__file__).parent)
    positions = b"".join(rows.tobytes() for rows in graph.table_rows)
    windows = sorted(ring.capacity for ring in graph.rings if 0 < ring.window < NO_WINDOW)
    return {
        "model": model,
        "version of linnet": hashlib.sha256(code.encode()).hexdigest(),
        "instruction set": runner.library.isa.name,
        "kind of activations": graph.numerics.activations,
        "type of cached keys": str(graph.numerics.key_type),
        "type of cached values": str(graph.numerics.value_type),
        "table of positions (n_ctx)": hashlib.sha256(positions).hexdigest(),
        "room for windows (n_batch)": " ".join(map(str, windows)),
    }


def write(
    path: Path, session: Session, slot: int, n: int, origin: Origin,
    *, wanted: Callable[[], bool] = lambda: False,
) -> PrefixFile:  # fmt: skip
    """The first `n` tokens of a slot's sequence, as a file for the user alone.

    Raises OSError, what `Session.copy` raises, and Interrupted once somebody else is `wanted`: with
    no file, or the old one, in place.
    """
    sequence, parts = session.sequences[slot], session.held(slot, n)
    digest, n_unsafe, n_bytes = hashlib.sha256(), 0, 0
    with new_file(path, mode=0o600) as file:
        for part in (np.frombuffer(_before(sequence, n, origin), np.uint8), *parts):
            data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            digest.update(data)
            n_bytes += file.write(data)
            n_unsafe += data.nbytes
            if n_unsafe >= AT_ONCE:
                _to_disk(file)
                n_unsafe = 0
            if wanted():
                raise Interrupted("a prefix was being written as somebody came")
        n_bytes += file.write(digest.digest())
        _to_disk(file)
    return PrefixFile(path, sequence.ids[:n], sequence.n_computed, n_bytes)


def size(session: Session, slot: int, n: int, origin: Origin) -> int:
    """How many bytes `write` would write."""
    parts = sum(part.nbytes for part in session.held(slot, n))
    return len(_before(session.sequences[slot], n, origin)) + parts + hashlib.sha256().digest_size


def _before(sequence: CachedSequence, n: int, origin: Origin) -> bytes:
    """Head and ids."""
    fields = {"origin": dict(origin), "n_tokens": n, "n_computed": sequence.n_computed}
    text = json.dumps(fields).encode()
    ids = np.array(sequence.ids[:n], ID)
    return HEAD.pack(MAGIC, VERSION, len(text)) + text + ids.tobytes()


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _head(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """Origin, n_tokens and n_computed; the file is at the ids then. Raises PrefixError."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise _error(path, "it is not a prefix that linnet has saved")
    _, version, n_json = HEAD.unpack(head)
    if version != VERSION:
        raise _error(path, f"its format is {version}; this linnet reads {VERSION}")
    if n_json > MOST_JSON:
        raise _error(path, f"its head has {n_json} bytes; at most {MOST_JSON} are read")
    try:
        fields = json.loads(file.read(n_json))
    except (ValueError, RecursionError) as error:
        raise _error(path, f"its head is not JSON: {error}") from error
    names = "origin", "n_tokens", "n_computed"
    values: list[Any] = [fields.get(name) for name in names] if isinstance(fields, dict) else []
    if [type(value) for value in values] != [dict, int, int]:
        raise _error(path, f"its head must be an object with {', '.join(names)}")
    origin, n_tokens, n_computed = values
    return origin, n_tokens, n_computed


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 20 else f"{text[:12]}...{text[-1]}"


def _error(path: Path, what: str) -> PrefixError:
    return PrefixError(f"{os.fspath(path)!r}: {what}")
