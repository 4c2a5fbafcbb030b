"""What the hub's own cache has: found without a network, listed, and removed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from linnet.engine.gguf.downloaded import Downloaded
from linnet.engine.gguf.hub_files import choose, is_model, parts, pick, quant_of
from linnet.engine.gguf.named import HubError, HubModel


def find(model: HubModel, why: str, cache_dir: Any = None) -> Path:
    """A file that was downloaded before; `why` it is not looked for at the hub. Raises HubError."""
    repos = [repo for repo in _repos(cache_dir) if repo.repo_id == model.repo]
    wanted = model.revision or "main"
    revisions = [revision for repo in repos for revision in repo.revisions]
    if model.revision is not None:
        revisions = [r for r in revisions if wanted in r.refs or r.commit_hash.startswith(wanted)]
    if not revisions:
        raise HubError(f"{model.repo} is not in the cache, and {why}")
    snapshot = max(revisions, key=lambda r: (wanted in r.refs, r.last_modified)).snapshot_path
    files = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")]
    try:
        file = pick(model, files, where=" in the cache")
    except HubError as error:
        raise HubError(f"{error}; {why}") from error
    if missing := set(parts(file)) - set(files):
        raise HubError(f"{model.repo}: {min(missing)} is not in the cache, and {why}")
    return Path(snapshot / file)


def models() -> Iterator[Downloaded]:
    """All GGUF models in the cache, by name."""
    for repo in sorted(_repos(), key=lambda repo: str(repo.repo_id)):
        files = _files(repo)
        for file in sorted(filter(is_model, files)):
            there = [each for part in parts(file) for each in files.get(part, [])]
            blobs = {each.blob_path: each for each in there}.values()
            quant = quant_of(file)
            is_named = quant is not None and choose(repo.repo_id, [*files], quant) == file
            paths = frozenset(each.file_path for each in there)
            yield Downloaded(
                f"{repo.repo_id}:{quant if is_named else file.rpartition('/')[2]}",
                (quant or "").upper(), sum(each.size_on_disk for each in blobs),
                max(each.blob_last_modified for each in there), partial(_remove, paths),
            )  # fmt: skip


def _remove(paths: Collection[Path]) -> None:
    """Remove files, and the folder of a repository where nothing else is in it."""
    cache = library().scan_cache_dir()
    if not hasattr(cache, "delete_files"):
        raise HubError("removing one file needs a later huggingface_hub (pip install -U)")
    for repo in cache.repos:
        files = {each for revision in repo.revisions for each in revision.files}
        if found := [each for each in files if each.file_path in paths]:
            hashes = [revision.commit_hash for revision in repo.revisions]
            is_all = len(found) == len(files)
            (cache.delete_revisions(*hashes) if is_all else cache.delete_files(*found)).execute()


def _repos(cache_dir: Any = None) -> list[Any]:
    hub = library()
    try:
        return [r for r in hub.scan_cache_dir(cache_dir).repos if r.repo_type == "model"]
    except hub.errors.CacheNotFound:
        return []


def _files(repo: Any) -> dict[str, list[Any]]:
    """A repository's GGUF files in all revisions, the latest first, by their path in it."""
    files: dict[str, list[Any]] = {}
    for revision in sorted(repo.revisions, key=lambda r: r.last_modified, reverse=True):
        for each in revision.files:
            file = each.file_path.relative_to(revision.snapshot_path).as_posix()
            if file.lower().endswith(".gguf"):
                files.setdefault(file, []).append(each)
    return files


def library() -> Any:
    import huggingface_hub  # takes a quarter of a second
    import huggingface_hub.errors

    return huggingface_hub
