"""What is given for a GGUF file and is none: what it is, and what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", re.ASCII)
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

    Raises FileNotFoundError for a name on the hub, where there is no such file.
    """
    text = os.fspath(path)
    if not text:
        return "the path is empty, as of a variable that is not set"
    if re.match(r"(https?|ftp|hf|s3):/", text, re.I):
        return "a URL; download it first, or give user/model with -hf (LLM.from_pretrained)"
    if os.path.isdir(text):
        inside = sorted(file.name for file in Path(text).iterdir() if file.suffix == ".gguf")
        found = f"in it: {', '.join(map(repr, inside[:5]))}" if inside else "no GGUF file is in it"
        return f"a folder; {found}"
    if HUB_NAME.fullmatch(text) and not text.endswith(".gguf") and not os.path.exists(text):
        why = f"No such file; a model on the hub is given with -hf {text} (LLM.from_pretrained)"
        raise FileNotFoundError(errno.ENOENT, why, text)
    return None


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
