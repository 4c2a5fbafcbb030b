"""What is given for a GGUF file and is none: what it is, and what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

from linnet.engine.gguf.named import FORMS, NAME, SCHEME

SHOWN: Final = 60  # characters of a text
_FAILED: Final = "a download that failed"
_CONVERT: Final = "it has to be converted to GGUF"
_UNPACK: Final = "it has to be unpacked"
_BEGINNINGS: Final = (
    (rb"\s*<(!doctype\s+html|html|head|body)", f"a web page, from {_FAILED}"),
    (rb"\s*<\?xml", f"XML, from {_FAILED}"),
    (rb"PK\x03\x04", f"a zip archive, perhaps of PyTorch; {_CONVERT}, or unpacked"),
    (rb"\x80[\x02-\x05]", f"a pickle, perhaps of PyTorch; {_CONVERT}"),
    (rb'.{7}\x00\{"', f"weights in safetensors; {_CONVERT}"),
    (rb"\x89HDF\r\n", f"an HDF5 file; {_CONVERT}"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ|7z\xbc\xaf", f"a compressed file; {_UNPACK}"),
)


def check_path(path: str | os.PathLike[str]) -> str | None:
    """What a path is that cannot be a file's, or None.

    Raises FileNotFoundError where there is nothing, which says what may have been meant.
    """
    text = os.fspath(path)
    if not text:
        return "the path is empty, as of a variable that is not set"
    if SCHEME.match(text):
        return "a URL, which has to be downloaded"
    if os.path.isdir(text):
        inside = sorted(file.name for file in Path(text).iterdir() if file.suffix == ".gguf")
        found = f"in it: {', '.join(map(repr, inside[:5]))}" if inside else "no GGUF file is in it"
        return f"a folder; {found}"
    if not os.path.lexists(text):
        raise missing(text)
    return None


def missing(path: str) -> FileNotFoundError:
    """The error for a model that is not there, with files beside it that are spelled alike."""
    from difflib import get_close_matches  # takes a moment, as few commands do

    folder, name = os.path.split(path)
    try:
        files = [each for each in sorted(os.listdir(folder or ".")) if each.endswith(".gguf")]
    except OSError:
        files = []
    by_stem = {each.removesuffix(".gguf").lower(): each for each in files}
    stem = name.removesuffix(".gguf").lower()
    close = [os.path.join(folder, by_stem[each]) for each in get_close_matches(stem, by_stem)]
    if not close and os.path.exists(home := os.path.expanduser(path)):
        close = [home]
    why = "No such file"
    if close:
        why += f"; did you mean {' or '.join(map(repr, close))}?"
    elif not path.lower().endswith(".gguf"):
        name_on_hub = NAME.fullmatch(path)
        why += f"; -hf {path} is for the hub" if name_on_hub else f"; a model is {FORMS}"
    return FileNotFoundError(errno.ENOENT, why, path)


def what_begins(head: bytes) -> str | None:
    """What a file is that begins so; None for GGUF, and where we cannot tell."""
    if not head:
        return "an empty file"
    if head[:4] == b"GGUF"[: len(head)]:
        return None
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", head)
        of = f" to {int(size[1]):,} bytes" if size else ""
        return f"a git-lfs pointer{of}, not the file itself; git lfs pull fetches that"
    for beginning, what in _BEGINNINGS:
        if re.match(beginning, head, re.I | re.S):
            return what
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode() if len(head) - error.start < 4 else ""
    if not text or not all(c.isprintable() or c in "\t\r\n" for c in text):
        return None
    kind = "JSON" if text.lstrip()[:1] in ("{", "[") else "text"
    shown = " ".join(text.split())[:SHOWN]
    return f"{kind}, maybe of {_FAILED}: {shown!r}"
