"""Files of requests as OpenAI's batches have them, a small model that answers, and its answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from check_batch import URLS, asking

from support.serving import TEMPLATE
from support.tiny_llama import TinyLlama, chat_model

TINY: TinyLlama = chat_model(TEMPLATE, n_ctx=512)


def request(custom_id: str, kind: str = "completion", **body: Any) -> dict[str, Any]:
    """A line, as an object."""
    return {"custom_id": custom_id, "method": "POST", "url": URLS[kind], "body": body}


def mixed(n: int) -> list[dict[str, Any]]:
    """So many, of all kinds in turn."""
    kinds = list(URLS)
    return [asking(f"id-{i}", kinds[i % 4], f"the {'an' * (i % 7)} {i}", 12) for i in range(n)]


def write(path: Path, lines: Iterable[Mapping[str, Any] | bytes]) -> Path:
    """Objects in JSON; bytes as they are."""
    each = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(b"".join(line + b"\n" for line in each))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of answers."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]
