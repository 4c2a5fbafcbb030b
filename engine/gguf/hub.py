"""GGUF files from the Hugging Face hub, kept in its cache: `user/model`, or `user/model:Q8_0`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

DEFAULT_QUANT = "Q4_K_M"
PATIENCE = 10.0  # seconds for the hub to answer
NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", re.ASCII)
REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
QUANT = re.compile(
    r"(?<![A-Z0-9])(?:I?Q\d\w*|TQ\d_\d|(?:MX|NV)FP4\w*|BF16|F16|F32)(?![A-Z0-9])", re.I
)
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.I)
NOT_A_MODEL = re.compile(r"mmproj|imatrix", re.I)  # files that lie beside models

Pick = Callable[[str, Sequence[str]], str]  # repository, its files -> the one to take


class HubError(RuntimeError):
    """A model that could not be had from the hub."""


def download(text: str) -> Path:
    """Download a model named user/model[:QUANT]; returns its file, of a split one the first part.

    What the cache has is not downloaded again, and a download goes on where a connection broke off.
    Without a network, or with HF_HUB_OFFLINE=1, models come from the cache alone.

    Raises ValueError for a malformed name, and HubError.
    """
    named = NAME.fullmatch(text)
    if not named:
        raise ValueError(f"{text!r} is no name on the hub; it must be user/model[:{DEFAULT_QUANT}]")
    repo, quant = named.groups()
    return _download(repo, lambda repo, files: choose(repo, files, quant))


def download_matching(repo: str, pattern: str, **where: Any) -> Path:
    """Download the one model file whose name, or path in the repository, matches a glob pattern
    ("*Q4_K_M.gguf"); returns it, of a split one the first part.

    `where`: `cache_dir` or `local_dir`, for the hub's own library. Raises what `download` raises.
    """
    if not REPO.fullmatch(repo):
        raise ValueError(f"{repo!r} is no name on the hub; it must be user/model")
    return _download(repo, lambda repo, files: matching(repo, files, pattern), **where)


def _download(repo: str, pick: Pick, **where: Any) -> Path:
    hub = _huggingface_hub()
    try:
        siblings = hub.HfApi().model_info(repo, timeout=PATIENCE).siblings or []
    except hub.errors.GatedRepoError as error:
        raise HubError(f"{repo}: accept its terms at the hub, and set HF_TOKEN") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise HubError(f"{repo!r} is not on the hub, or wants an HF_TOKEN") from error
    except Exception as error:  # of the HTTP library, which changes with versions
        return _cached(hub, repo, pick, error, where.get("cache_dir"))
    files = parts(pick(repo, [sibling.rfilename for sibling in siblings]))
    try:
        paths = [hub.hf_hub_download(repo, file, **where) for file in files]
    except Exception as error:
        raise HubError(f"{repo}: the download failed: {error}") from error
    return Path(paths[0])


def choose(repo: str, files: Sequence[str], quant: str | None) -> str:
    """The first of `files` with the type `quant` in its name; for None, Q4_K_M or any type.

    Of split files, the first part. Raises HubError, which lists the types there are.
    """
    models = [file for file in sorted(files) if _is_model(file)]
    if not models:
        raise HubError(f"{repo} has no GGUF file")
    wanted = re.escape(quant or DEFAULT_QUANT)
    pattern = re.compile(rf"(?<![A-Z0-9]){wanted}(?![A-Z0-9_])", re.I)
    found = [file for file in models if pattern.search(file)]
    if found:
        return found[0]
    if quant is None:
        return models[0]
    there = dict.fromkeys(_quant(file) for file in models)
    raise HubError(f"{repo} has no {quant}; it has {', '.join(there)}")


def matching(repo: str, files: Sequence[str], pattern: str) -> str:
    """The one of `files` that matches; of split files, the first part. Raises HubError, which lists
    those there are, or that match."""
    models = [file for file in sorted(files) if _is_first_part(file)]
    found = [file for file in models if fnmatchcase(file, pattern)]
    found = found or [file for file in models if fnmatchcase(Path(file).name, pattern)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise HubError(f"{repo} has no {pattern!r}; it has {', '.join(models) or 'no GGUF file'}")
    raise HubError(f"{repo} has {len(found)} files for {pattern!r}: {', '.join(found)}")


def parts(file: str) -> list[str]:
    """The names of all parts, given that of the first; the file alone if it is not split."""
    split = PART.search(file)
    if not split:
        return [file]
    stem, count = file[: split.start()], int(split[2])
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _is_model(file: str) -> bool:
    return _is_first_part(file) and not NOT_A_MODEL.search(file)


def _is_first_part(file: str) -> bool:
    """Or a GGUF file that is not split."""
    split = PART.search(file)
    return file.lower().endswith(".gguf") and (split is None or int(split[1]) == 1)


def _quant(file: str) -> str:
    """The quant type in a file's name, or the whole name if there is none."""
    found = QUANT.findall(PART.sub("", file).removesuffix(".gguf"))
    return str(found[-1]) if found else file


def _cached(hub: Any, repo: str, pick: Pick, why: Exception, cache_dir: Any) -> Path:
    """A file that was downloaded before; `why`: how the hub failed. Raises HubError."""
    try:
        repos = [r for r in hub.scan_cache_dir(cache_dir).repos if r.repo_id == repo]
    except hub.errors.CacheNotFound:
        repos = []
    if not repos:
        raise HubError(f"{repo} is not in the cache, and the hub does not answer: {why}") from why
    revisions = repos[0].revisions
    latest = max(revisions, key=lambda r: ("main" in r.refs, r.last_modified)).snapshot_path
    files = [path.relative_to(latest).as_posix() for path in latest.rglob("*.gguf")]
    try:
        file = pick(f"{repo} in the cache", files)
    except HubError as error:
        raise HubError(f"{error}; the hub does not answer: {why}") from why
    if missing := set(parts(file)) - set(files):
        raise HubError(f"{repo}: {min(missing)} is not in the cache; the hub does not answer")
    return Path(latest / file)


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise HubError("the hub needs huggingface_hub: pip install linnet[hub]") from error
    return huggingface_hub
