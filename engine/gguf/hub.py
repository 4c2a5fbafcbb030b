"""GGUF files from the Hugging Face hub, kept in its own cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linnet.engine.gguf.hub_cache import find, library
from linnet.engine.gguf.hub_files import parts, pick
from linnet.engine.gguf.named import HubError, HubModel

PATIENCE = 10.0  # seconds for the hub to answer


def fetch(
    model: HubModel, *, token: str | None = None, offline: bool = False, **where: Any
) -> Path:  # fmt: skip
    """Download a model; returns its file, of a split one the first part.

    What the cache has is not downloaded again, and a download goes on where a connection broke off.
    `token`: None for HF_TOKEN, or what `hf auth login` has kept. `offline`, HF_HUB_OFFLINE=1, or no
    network: models come from the cache alone. `where`: `cache_dir` or `local_dir`, for the hub's
    own library. Raises HubError.
    """
    hub, cache_dir = library(), where.get("cache_dir")
    if offline:
        return find(model, "the hub is not asked (--offline)", cache_dir)
    repo, revision = model.repo, model.revision
    try:
        info = hub.HfApi(token=token).model_info(repo, revision=revision, timeout=PATIENCE)
    except hub.errors.GatedRepoError as error:
        raise HubError(f"{repo}: accept its terms at the hub, and set HF_TOKEN") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise HubError(f"{repo!r} is not on the hub, or wants an HF_TOKEN") from error
    except hub.errors.RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision!r}") from error
    except Exception as error:  # of the HTTP library, which changes with versions
        return find(model, f"the hub does not answer: {error}", cache_dir)
    files = parts(pick(model, [sibling.rfilename for sibling in info.siblings or []]))
    try:
        paths = [
            hub.hf_hub_download(repo, file, revision=revision, token=token, **where)
            for file in files
        ]
    except Exception as error:
        raise HubError(f"{repo}: the download failed: {error}") from error
    return Path(paths[0])
