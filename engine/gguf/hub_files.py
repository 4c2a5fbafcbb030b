"""Which of a repository's files is meant, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from linnet.engine.gguf.named import QUANT, HubError, HubModel

DEFAULT_QUANT: Final = "Q4_K_M"
ANY: Final = "latest"  # as tags of other programs have it
PART: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.I)
NOT_A_MODEL: Final = re.compile(r"mmproj|imatrix", re.I)  # files that lie beside models


def pick(model: HubModel, files: Sequence[str], where: str = "") -> str:
    """The one of `files` that is meant; of split files, the first part. `where` the files are is
    said in errors. Raises HubError, which lists those there are."""
    repo = model.repo + where
    if model.file is not None:
        return matching(repo, files, model.file)
    return choose(repo, files, model.quant)


def choose(repo: str, files: Sequence[str], quant: str | None) -> str:
    """The first of `files` with the type `quant` in its name; for None, Q4_K_M or any type.

    Of split files, the first part. Raises HubError, which lists the types there are.
    """
    models = [file for file in sorted(files) if is_model(file)]
    if not models:
        raise HubError(f"{repo} has no GGUF file")
    if quant is not None and quant.lower() == ANY:
        quant = None
    wanted = re.escape(quant or DEFAULT_QUANT)
    pattern = re.compile(rf"(?<![A-Z0-9]){wanted}(?![A-Z0-9_])", re.I)
    found = [file for file in models if pattern.search(file)]
    if found:
        return found[0]
    if quant is None:
        return models[0]
    there = dict.fromkeys(quant_of(file) or file for file in models)
    raise HubError(f"{repo} has no {quant}; it has {', '.join(there)}")


def matching(repo: str, files: Sequence[str], pattern: str) -> str:
    """The one of `files` that matches, by its path or its name; of split files, the first part.
    Raises HubError, which lists those there are, or that match."""
    models = [file for file in sorted(files) if is_first_part(file)]
    if pattern in models:
        return pattern
    found = [file for file in models if fnmatchcase(file, pattern)]
    found = found or [file for file in models if fnmatchcase(PurePosixPath(file).name, pattern)]
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


def is_model(file: str) -> bool:
    """Whether it is a model's, or the first part of one."""
    return is_first_part(file) and not NOT_A_MODEL.search(file)


def is_first_part(file: str) -> bool:
    """Or a GGUF file that is not split."""
    split = PART.search(file)
    return file.lower().endswith(".gguf") and (split is None or int(split[1]) == 1)


def quant_of(file: str) -> str | None:
    """The quant type in a file's name, if it has one."""
    found = QUANT.findall(PART.sub("", file).removesuffix(".gguf"))
    return str(found[-1]) if found else None
