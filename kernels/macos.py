"""What macOS tells by name (`sysctlbyname`), and which cores its threads run on."""

from __future__ import annotations

import ctypes

LONGEST = 256  # bytes of an answer
USER_INITIATED = 0x19  # QOS_CLASS_USER_INITIATED: what somebody waits for


def number(name: str) -> int | None:
    """What the system counts under a name, as "hw.memsize"; None where it does not."""
    answer = _asked(name)
    return None if answer is None else int.from_bytes(answer, "little")  # of 4 bytes, or of 8


def text(name: str) -> str | None:
    """What the system calls itself under a name; None where it does not."""
    answer = _asked(name)
    return None if answer is None else answer.rstrip(b"\0").decode(errors="replace")


def stay_on_fast_cores() -> None:
    """Ask for the performance cores, for as long as the calling thread runs."""
    ctypes.CDLL(None).pthread_set_qos_class_self_np(USER_INITIATED, 0)


def _asked(name: str) -> bytes | None:
    by_name = ctypes.CDLL(None).sysctlbyname
    answer, size = ctypes.create_string_buffer(LONGEST), ctypes.c_size_t(LONGEST)
    failed = by_name(name.encode(), answer, ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else answer.raw[: size.value]
