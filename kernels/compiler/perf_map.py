"""Names for Linux's `perf`, which else shows compiled code as addresses: /tmp/perf-PID.map.

    LINNET_PERF=1 perf record generate ...
    perf report

A line for each function has its address, its bytes and its name, as perf's documentation of JIT
interfaces says. `python -X perf` writes the names of Python's functions into the same file.
"""

from __future__ import annotations

import os

from linnet.kernels.compiler.symbols import elf_symbols


def wanted() -> bool:
    """Whether LINNET_PERF is 1. Raises ValueError where it is neither that nor 0 nor nothing."""
    asked = os.environ.get("LINNET_PERF", "")
    if asked not in ("", "0", "1"):
        raise ValueError(f"LINNET_PERF is {asked!r}; it must be 1, or 0 for no names in perf")
    return asked == "1"


def add(symbol: str, address: int, code: bytes) -> None:
    """Name the function of an object file, `code`, that lies at an address. Raises OSError."""
    n_bytes = next((s.n_bytes for s in elf_symbols(code) if s.name == symbol), 0)
    # In /tmp a stranger may have put a link in its place: that is an error, and not followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    file = os.open(f"/tmp/perf-{os.getpid()}.map", flags, 0o600)
    try:
        os.write(file, f"{address:x} {n_bytes:x} {symbol}\n".encode())
    finally:
        os.close(file)
