"""The names in object files: all of ELF, those wanted from elsewhere of Mach-O and COFF, too."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

ELF, MACH_O = b"\x7fELF\x02\x01", b"\xcf\xfa\xed\xfe"  # 64 bits, little-endian
COFF = b"\x64\x86", b"\x64\xaa"  # x86-64, ARM64


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name in an object: the section it lies in, and how many bytes it takes."""

    name: str
    section: int
    n_bytes: int


def undefined_symbols(code: bytes) -> set[str]:
    """Names that a 64-bit little-endian object does not define itself, as C has them.

    Empty for bytes that are no object of a known format.
    """
    if code.startswith(ELF):
        return {symbol.name for symbol in elf_symbols(code) if symbol.section == 0}  # SHN_UNDEF
    if code.startswith(MACH_O):
        return {name.removeprefix("_") for name in _of_mach_o(code)}
    return set(_of_coff(code)) if code.startswith(COFF) else set()


def elf_symbols(code: bytes) -> Iterator[Symbol]:
    """All that have a name in an ELF object; none in other bytes."""
    if not code.startswith(ELF):
        return
    (sections_at,) = struct.unpack_from("<Q", code, 0x28)
    entry_size, n_sections = struct.unpack_from("<HH", code, 0x3A)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", code, sections_at + i * entry_size)
        for i in range(n_sections)
    ]
    for _, kind, _, _, offset, size, link, _, _, symbol_size in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        names_at = sections[link][4]
        for at in range(offset + symbol_size, offset + size, symbol_size):
            name, _, _, section, _, n_bytes = struct.unpack_from("<IBBHQQ", code, at)
            if name:
                yield Symbol(_string(code, names_at + name), section, n_bytes)


def _of_mach_o(code: bytes) -> Iterator[str]:
    (n_commands,) = struct.unpack_from("<I", code, 16)
    at = 32
    for _ in range(n_commands):
        kind, size = struct.unpack_from("<II", code, at)
        if kind == 2:  # LC_SYMTAB
            symbols_at, n_symbols, names_at = struct.unpack_from("<III", code, at + 8)
            for i in range(n_symbols):
                name, type = struct.unpack_from("<IB", code, symbols_at + 16 * i)
                if type & 0x0F == 1 and not type & 0xE0:  # N_UNDF, N_EXT; not for debuggers
                    yield _string(code, names_at + name)
        at += size


def _of_coff(code: bytes) -> Iterator[str]:
    symbols_at, n_symbols = struct.unpack_from("<II", code, 8)
    if symbols_at + 18 * n_symbols >= len(code):
        return
    names_at, i = symbols_at + 18 * n_symbols, 0
    while i < n_symbols:
        at = symbols_at + 18 * i
        zeros, name = struct.unpack_from("<II", code, at)
        value, section, _, storage, n_more = struct.unpack_from("<IhHBB", code, at + 8)
        if section == 0 and value == 0 and storage == 2:  # IMAGE_SYM_CLASS_EXTERNAL
            own = code[at : at + 8].rstrip(b"\0").decode()
            yield own if zeros else _string(code, names_at + name)
        i += 1 + n_more


def _string(code: bytes, at: int) -> str:
    return code[at : code.index(b"\0", at)].decode()
