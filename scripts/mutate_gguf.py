"""Spoil valid GGUF files: their meaning, their numbers, or their bytes, a little at a time.

    mutate(Seeds(files), random.Random(1))    one of them with one to three things changed

What a file means (a value, a tensor's shape, a token) is changed so that counts, lengths and
offsets still fit: only then does a mistake get past the reader. The reader itself is tried with
numbers that do not fit, and with bytes that are flipped, lost or put elsewhere.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gguf_parts import Entry, File, TensorInfo

from linnet.engine.gguf.metadata import NUMBERS, STRING
from linnet.engine.gguf.types import GGML_TYPES, REMOVED_TYPES
from linnet.engine.text.pretokenizers import PRE_TOKENIZERS
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.models import ARCHITECTURES

MOST_BYTES = 4 << 20  # a tensor that is given another shape becomes no larger
FLOATS = (6, 12)
WHOLE = (0, 1, 2, 3, 4, 5, 10, 11)
NUMBERS_TO_TRY = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128),
    *(255, 256, 257, 511, 512, 1023, 1024, 1025, 4096, 65_535, 65_536, 1 << 20, (1 << 20) + 1),
    *(1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 62),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 1, -1, -2, -(1 << 31), -(1 << 63)),
)
FLOATS_TO_TRY = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-5, 1e-30, 1e-45, 1e4, 1e6, 1e12, 1e30, 3.4e38, 1.000001),
    *(math.inf, -math.inf, math.nan),
)
TEXTS_TO_TRY = (
    *(b"", b"a", b" ", b"\0", b"\xff\xfe", b"\xed\xb0\x80", b"<0x00>", b"<0x-1>", b"<0xZZ>"),
    *(b"<s>", b"</s>", b"<unk>", b"[EMPTY_3]", b"\n", b"\n\n\n", "▁".encode(), "▁▁".encode()),
    *("\u0120\u0120".encode(), "\U0010ffff".encode(), b"a b", b"a b c", b" a", b"a ", b"a" * 9000),
    *(b"<|endoftext|>", b"<|im_end|>", b"\x1b[2J", b"none", b"linear", b"yarn", b"longrope"),
    *(b"llama", b"gpt2", b"gemma4", b"bert", b"default", b"qwen2", b"tekken", b"deepseek-llm"),
)
TEMPLATES_TO_TRY = (
    b"{{ ''.__class__.__mro__ }}",
    b"{{ cycler.__init__.__globals__ }}",
    b"{{ messages | attr('__class__') }}",
    b"{{ '{0.__class__}'.format(1) }}",
    b"{% for i in range(10**9) %}{% endfor %}",
    b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    b"{{ 'a' * 10**9 }}",
    b"{{ [1] * 10**9 }}",
    b"{{ 9 ** 9 ** 9 ** 9 }}",
    b"{% include 'x' %}",
    b"{% import 'x' as y %}",
    b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    b"{{ messages | sort }}{{ messages | sum }}{{ messages | map('x') | list }}",
    b"{{ messages[0]['content'] | indent(9) | tojson | title | urlencode | wordcount }}",
    b"{{ raise_exception(1) }}",
    b"{{ strftime_now(1) }}{{ bos_token.x.y }}",
    b"{{ (1).real }}{{ 1 / 0 }}{{ none + 1 }}{{ 'a' < 1 }}",
    b"{{ " + b"(" * 300 + b"1" + b")" * 300 + b" }}",
    b"{% set n = namespace(x='ab') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    b"{{ ''.join(range(9)) }}{{ 'a'.replace(1, 2) }}{{ 'a' | replace('', 'b' * 9999) }}",
    b"{{ '%s %d %(x)s' % (1, 2) }}{{ '%c' % 1114112 }}",
    b"a" * 70_000,
)


# ---- changes of meaning --------------------------------------------------------------------------

Rng = random.Random


def _value(rng: Rng, kind: int, old: bytes | None = None) -> bytes:
    """An encoded value of this kind to try, sometimes near the old one."""
    if kind == STRING:
        return rng.choice(TEXTS_TO_TRY)
    size = NUMBERS[kind].itemsize
    if kind in FLOATS:
        return struct.pack("<f" if size == 4 else "<d", rng.choice(FLOATS_TO_TRY))
    if kind not in WHOLE:  # bool
        return bytes([rng.choice((0, 1, 1, 2))])
    number = rng.choice(NUMBERS_TO_TRY)
    if old is not None and rng.random() < 0.5:
        near = int.from_bytes(old, "little")
        number = rng.choice((near + 1, near - 1, near * 2, near // 2, near * 3, near ^ 1))
    return (number % (1 << 8 * size)).to_bytes(size, "little")


def change_value(file: File, rng: Rng) -> None:
    """Give a key another value, now and then of another type, or as an array."""
    at = rng.randrange(len(file.metadata))
    entry = file.metadata[at]
    if rng.random() < 0.15:
        kind = rng.choice((*NUMBERS, STRING))
        is_array = rng.random() < 0.3
        n_items = rng.choice((0, 1, 2, 3, 4, 7)) if is_array else 1
        items = tuple(_value(rng, kind) for _ in range(n_items))
        file.metadata[at] = Entry(entry.key, kind, is_array, items)
    elif entry.is_array:
        file.metadata[at] = replace(entry, items=_other_items(entry, rng))
    elif entry.key == b"general.architecture":
        name = rng.choice([*ARCHITECTURES, "gptj"]).encode()
        file.metadata[at] = replace(entry, items=(name,))
    elif entry.key == b"tokenizer.chat_template":
        file.metadata[at] = replace(entry, items=(_other_template(entry.items[0], rng),))
    else:
        file.metadata[at] = replace(entry, items=(_value(rng, entry.kind, entry.items[0]),))


def _other_items(entry: Entry, rng: Rng) -> tuple[bytes, ...]:
    items = list(entry.items)
    match rng.randrange(6):
        case 0:
            return tuple(items[: rng.randrange(len(items) + 1)])
        case 1:
            return tuple(items + [_value(rng, entry.kind) for _ in range(rng.randrange(1, 4))])
        case 2 if items:
            items[rng.randrange(len(items))] = rng.choice(items)
        case 3:
            rng.shuffle(items)
        case 4 if len(items) > 1 and entry.kind == STRING:
            first, second = rng.sample(items, 2)
            items[rng.randrange(len(items))] = first + b" " * rng.randrange(2) + second
        case _ if items:
            for _ in range(rng.choice((1, 1, 2, 5))):
                at = rng.randrange(len(items))
                items[at] = _value(rng, entry.kind, items[at])
    return tuple(items)


def _other_template(source: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.5:
        return rng.choice(TEMPLATES_TO_TRY)
    start, end = sorted(rng.randrange(len(source) + 1) for _ in range(2))
    match rng.randrange(3):
        case 0:
            return source[:start] + source[end:]
        case 1:
            return source[:end] + source[start:]
        case _:
            return source[:start] + rng.choice(TEMPLATES_TO_TRY) + source[start:]


def change_keys(file: File, rng: Rng) -> None:
    """Take a key away, put one there twice or under another's name, swap two values, or take over
    one of another file."""
    at, other = (rng.randrange(len(file.metadata)) for _ in range(2))
    entry, second = file.metadata[at], file.metadata[other]
    match rng.randrange(11):
        case 0:
            file.metadata.insert(other, entry)
        case 4 | 5 | 6:
            foreign = rng.choice(file.pool)
            key = foreign.key.replace(b"*", file.architecture)
            kept = [entry for entry in file.metadata if entry.key != key]
            file.metadata[:] = [*kept, replace(foreign, key=key)]
        case 1:
            file.metadata[at] = replace(entry, key=rng.choice((second.key, *TEXTS_TO_TRY)))
        case 2 | 3:
            file.metadata[at] = replace(second, key=entry.key)
            file.metadata[other] = replace(entry, key=second.key)
        case _:
            del file.metadata[at]


def change_tensor(file: File, rng: Rng) -> None:
    """Give a tensor another shape or type, with data that fits, or other data."""
    at = rng.randrange(len(file.tensors))
    tensor = file.tensors[at]
    match rng.randrange(5):
        case 0:
            ids = [type.id for type in WEIGHT_TYPES.values()]
            file.tensors[at] = _refilled(replace(tensor, type=rng.choice((*ids, *GGML_TYPES))))
        case 1:
            dims = list(tensor.dims) or [1]
            which = rng.randrange(len(dims))
            old = dims[which]
            near = (old + 1, old - 1, old * 2, old // 2, old + 32, 0, 1, 1 << 40, 1 << 63)
            dims[which] = max(0, rng.choice(near))
            file.tensors[at] = _refilled(replace(tensor, dims=tuple(dims)))
        case 2:
            dims = [*tensor.dims, 1][: rng.randrange(6)] + [1] * rng.randrange(2)
            rng.shuffle(dims)
            file.tensors[at] = _refilled(replace(tensor, dims=tuple(dims)))
        case 3:
            run = rng.choice((b"\xff", b"\0", b"\0\0\xc0\x7f", b"\xff\x7b", b"\0\x7c", b"\x80"))
            data = (run * (len(tensor.data) // len(run) + 1))[: len(tensor.data)]
            file.tensors[at] = replace(tensor, data=data)
        case _:
            other = rng.choice(file.tensors)
            file.tensors[at] = replace(other, name=tensor.name)


def _refilled(tensor: TensorInfo) -> TensorInfo:
    """The tensor with as many bytes as it says; as it is where that is too many."""
    ggml = GGML_TYPES[tensor.type]
    n_bytes = math.prod(tensor.dims) // ggml.block * ggml.bytes
    if n_bytes > MOST_BYTES or not tensor.data:
        return tensor
    return replace(tensor, data=(tensor.data * (n_bytes // len(tensor.data) + 1))[:n_bytes])


def change_tensors(file: File, rng: Rng) -> None:
    """Take a tensor away, put it there twice, or under another name."""
    at, other = (rng.randrange(len(file.tensors)) for _ in range(2))
    tensor = file.tensors[at]
    match rng.randrange(4):
        case 0:
            file.tensors.insert(other, tensor)
        case 1:
            names = (file.tensors[other].name, *TEXTS_TO_TRY)
            file.tensors[at] = replace(tensor, name=rng.choice(names))
        case 2:
            file.tensors[at] = replace(file.tensors[other], name=tensor.name)
            file.tensors[other] = replace(tensor, name=file.tensors[other].name)
        case _:
            del file.tensors[at]


# ---- changes of bytes ----------------------------------------------------------------------------


def change_numbers(data: bytearray, file: File, rng: Rng) -> None:
    """Overwrite a count, length, type, dimension or offset, so that others do not fit it."""
    at, size = rng.choice(file.numbers)
    types = (*GGML_TYPES, *REMOVED_TYPES, *range(14), 99)
    number = rng.choice(types) if size == 4 and rng.random() < 0.5 else rng.choice(NUMBERS_TO_TRY)
    if rng.random() < 0.4:
        near = int.from_bytes(data[at : at + size], "little")
        number = rng.choice((near + 1, near - 1, near * 2, near + 32, near + 8, near << 32))
    data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")


def flip(data: bytearray, file: File, rng: Rng) -> None:
    """Replace a few bytes, mostly of the header."""
    end = file.header_bytes if rng.random() < 0.8 else len(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(min(end, len(data)) or 1)
        data[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])


def truncate(data: bytearray, file: File, rng: Rng) -> None:
    """Cut the end off."""
    end = file.header_bytes if rng.random() < 0.7 else len(data)
    del data[rng.randrange(end + 1) :]


def move(data: bytearray, file: File, rng: Rng) -> None:
    """Lose a run of bytes, or put it in elsewhere."""
    start, to = (rng.randrange(min(file.header_bytes, len(data)) + 1) for _ in range(2))
    run = data[start : start + rng.choice((1, 2, 4, 8, 13, 64, 300))]
    if rng.random() < 0.5:
        del data[start : start + len(run)]
    if rng.random() < 0.7:
        data[to:to] = run


MEANINGS: tuple[Callable[[File, Rng], None], ...] = (
    *(change_value, change_value, change_value, change_keys, change_tensor, change_tensors),
)
BYTES: tuple[Callable[[bytearray, File, Rng], None], ...] = (
    *(change_numbers, change_numbers, flip, truncate, move),
)


MORE_KEYS = (
    Entry(b"general.alignment", 4, False, (struct.pack("<I", 64),)),
    Entry(b"general.name", STRING, False, (b"Phi-3",)),
    Entry(b"tokenizer.ggml.add_bos_token", 7, False, (b"\1",)),
    Entry(b"tokenizer.ggml.add_eos_token", 7, False, (b"\1",)),
    Entry(b"tokenizer.ggml.add_space_prefix", 7, False, (b"\0",)),
    Entry(b"tokenizer.ggml.eot_token_id", 4, False, (struct.pack("<I", 5),)),
    Entry(b"split.count", 2, False, (struct.pack("<H", 2),)),
    Entry(b"split.no", 2, False, (struct.pack("<H", 0),)),
    *(Entry(b"tokenizer.ggml.pre", STRING, False, (name.encode(),)) for name in PRE_TOKENIZERS),
)


def _keys_for_any(file: File) -> Iterator[Entry]:
    """The file's keys, with a star for the architecture's name."""
    for entry in file.metadata:
        own, _, key = entry.key.partition(b".")
        yield replace(entry, key=b"*." + key) if own == file.architecture else entry


@dataclass(frozen=True)
class Seeds:
    """Valid files, taken apart; the smaller, the more often one is chosen."""

    files: Mapping[str, bytes]
    parsed: Sequence[File] = field(init=False)
    names: Sequence[str] = field(init=False)
    weights: Sequence[float] = field(init=False)

    def __post_init__(self) -> None:
        parsed = [File.parse(data) for data in self.files.values()]
        pool = {entry.encoded: entry for file in parsed for entry in _keys_for_any(file)}
        pool |= {entry.encoded: entry for entry in MORE_KEYS}
        for name, value in {
            "parsed": [replace(file, pool=list(pool.values())) for file in parsed],
            "names": list(self.files),
            "weights": [1 / math.sqrt(len(data)) for data in self.files.values()],
        }.items():
            object.__setattr__(self, name, value)


def mutate(seeds: Seeds, rng: Rng, *, meaning: float = 0.4) -> tuple[str, bytes]:
    """One of the files with one to three changes: what they are, and its bytes.

    `meaning`: the share of files whose meaning changes; the others' numbers or bytes do.
    """
    which = rng.choices(range(len(seeds.names)), seeds.weights)[0]
    name, file = seeds.names[which], seeds.parsed[which]
    n_changes = rng.choice((1, 1, 2, 3))
    if rng.random() < meaning:
        file, changes = file.copy(), rng.choices(MEANINGS, k=n_changes)
        for change in changes:
            if file.metadata and file.tensors:
                change(file, rng)
        data = file.build()
    elif rng.random() < 0.05:  # the beginning of one and the end of another
        other = seeds.files[rng.choice(seeds.names)]
        data = seeds.files[name][: rng.randrange(2 * file.header_bytes)]
        return f"{name}: splice", data + other[len(data) :]
    else:
        spoiled, of_bytes = bytearray(seeds.files[name]), rng.choices(BYTES, k=n_changes)
        for spoil in of_bytes:
            spoil(spoiled, file, rng)
        return f"{name}: {', '.join(s.__name__ for s in of_bytes)}", bytes(spoiled)
    return f"{name}: {', '.join(change.__name__ for change in changes)}", data
