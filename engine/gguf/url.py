"""GGUF files from anywhere on the web, kept by their address under `~/.cache/linnet/models`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from linnet.engine.gguf.downloaded import Downloaded
from linnet.engine.gguf.hub_files import is_first_part, parts, quant_of
from linnet.engine.gguf.named import HubError
from linnet.kernels.compiler.files import new_file

PATIENCE = 30.0  # seconds for a server to send something
CHUNK = 1 << 20  # bytes


def download(url: str, *, offline: bool = False) -> Path:
    """Download the file of a URL, of a split one all parts; returns it, or the first part.

    What the cache has is not asked for again, and what is behind a "?" does not tell URLs apart. A
    download goes on where a connection broke off. `offline`: it comes from the cache alone.

    Raises HubError, ValueError for a URL of no file, and OSError where it cannot be written.
    """
    address = urlsplit(url)
    above, _, name = address.path.rpartition("/")
    for part in parts(name):
        path = _place(url).with_name(quote(unquote(part), safe=""))
        if not path.exists():
            if offline:
                raise HubError(f"{url} is not in the cache, and nothing is asked for (--offline)")
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as file:
                _copy(urlunsplit(address._replace(path=f"{above}/{part}", fragment="")), file)
    return _place(url)


def models() -> Iterator[Downloaded]:
    """All that was downloaded, by URL."""
    for path in sorted(folder().rglob("*.gguf")):
        if is_first_part(path.name):
            scheme, *names = map(unquote, path.relative_to(folder()).parts)
            paths = [each for part in parts(path.name) if (each := path.with_name(part)).exists()]
            yield Downloaded(
                f"{scheme}://{'/'.join(names)}", (quant_of(path.name) or "").upper(),
                sum(each.stat().st_size for each in paths), path.stat().st_mtime,
                partial(_remove, paths),
            )  # fmt: skip


def _remove(paths: Sequence[Path]) -> None:
    """Remove files, and folders that then are empty."""
    for path in paths:
        path.unlink()
    for above in paths[0].parents[: len(paths[0].relative_to(folder()).parts) - 1]:
        with suppress(OSError):
            above.rmdir()


def folder() -> Path:
    """Where they are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "linnet", "models")


def _place(url: str) -> Path:
    address = urlsplit(url)
    names = [address.scheme.lower(), address.netloc.lower().rpartition("@")[2]]
    names += unquote(address.path).removeprefix("/").split("/")
    if not all(names) or {".", ".."} & {*names}:
        raise ValueError(f"{url!r} is no URL of a file")
    return folder().joinpath(*(quote(name, safe="") for name in names))


def _copy(url: str, file: BinaryIO) -> None:
    """Append what a URL has to an empty file, with a bar on a terminal. Raises HubError."""
    from tqdm import tqdm  # imports what few need

    headers: dict[str, str] = {}  # by which the rest alone is asked for
    total, tag, begun = None, None, -1
    name = url.rpartition("/")[2]
    with tqdm(desc=name, unit="B", unit_scale=True, disable=None) as bar:
        while file.tell() != total and file.tell() > begun:  # as long as more of it comes
            begun, why = file.tell(), "the connection broke off"
            try:
                with urlopen(Request(url, headers=headers), timeout=PATIENCE) as response:
                    if begun and response.status != 206:
                        file.seek(0)
                        file.truncate()
                    length, tag = (response.headers[key] for key in ("Content-Length", "ETag"))
                    bar.total = total = file.tell() + int(length) if length else None
                    while data := response.read(CHUNK):
                        file.write(data)
                        bar.update(file.tell() - bar.n)
                    if total is None:  # which no server of large files leaves out
                        return
            except HTTPError as error:
                raise HubError(f"{url}: {error.code} {error.reason}") from error
            except (OSError, HTTPException) as error:
                why = str(error)
            headers = {"Range": f"bytes={file.tell()}-"} | ({"If-Range": tag} if tag else {})
    if file.tell() != total:
        raise HubError(f"{url}: the download failed: {why}")
