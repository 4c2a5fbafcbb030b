"""From what is given for a model to its file, downloaded if need be."""

from __future__ import annotations

import os
from typing import Any

from linnet.engine.gguf.mistaken import missing
from linnet.engine.gguf.named import HUB, SCHEME, HubError, HubModel, parsed


def located(
    model: str | os.PathLike[str], *, file: str | None = None, **how: Any
) -> str | os.PathLike[str]:
    """The file of a model: see `linnet.engine.gguf.named`. A path object is a file's, and so is a
    text for which there is a file, or the folder it begins with.

    `file`: in place of a type, for a model on the hub; its path there, or a glob pattern. `how`:
    see `linnet.engine.gguf.hub.fetch`. Raises ValueError for a malformed address, HubError, and
    FileNotFoundError, which names files that are spelled alike.
    """
    name = model if isinstance(model, str) else ""
    found = parsed(name) if name and not os.path.exists(name) else None
    if file is not None:
        if not isinstance(found, HubModel):
            raise ValueError(f"a file {file!r} is asked for, and {model!r} is not on the hub")
        found = found._replace(file=file)
    if not name or os.path.exists(name):
        return model
    if isinstance(found, str):
        from linnet.engine.gguf import url  # imports what few need

        return url.download(found, offline=how.get("offline", False))
    if found is None or _is_path(name):
        raise missing(name)
    from linnet.engine.gguf.hub import fetch  # imports what few need

    try:
        return fetch(found, **how)
    except HubError as error:
        if _is_address(name):
            raise
        raise HubError(f"there is no file {name!r}; on the hub, {error}") from error


def check_there(model: str) -> None:
    """Raise FileNotFoundError for what can be nothing but a file's path, and is not there; and
    ValueError for a malformed address."""
    if not os.path.exists(model) and (_is_path(model) or parsed(model) is None):
        raise missing(model)


def _is_path(model: str) -> bool:
    is_in_folder = os.path.isdir(model.partition("/")[0] or "/")
    return not _is_address(model) and (model.lower().endswith(".gguf") or is_in_folder)


def _is_address(model: str) -> bool:
    return bool(SCHEME.match(model) or HUB.match(model))
