"""What people give for a model: a file, a name on the Hugging Face hub, or a URL.

model.gguf                                 a file, or the first of a split one
user/model, user/model:Q8_0                on the hub, kept in its cache
hf.co/user/model:Q8_0, hf://user/model     the same
https://huggingface.co/user/model          the same, perhaps with /resolve/main/FILE.gguf
https://host/folder/FILE.gguf              anywhere, kept in a cache of ours
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple
from urllib.parse import unquote

FORMS: Final = "a GGUF file, user/model[:QUANT] on the Hugging Face hub, or a URL"
HUB_HOME: Final = "https://huggingface.co"
SCHEME: Final = re.compile(r"(https?|hf|huggingface)://", re.I)
HUB: Final = re.compile(r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/|(hf|huggingface)://", re.I)
NAME: Final = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", re.ASCII)
PAGE: Final = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(/(resolve|blob|raw|tree)/(?P<revision>[^/]+)(/(?P<file>.+))?)?/?",
    re.ASCII,
)
QUANT: Final = re.compile(
    r"(?<![A-Z0-9])(?:I?Q\d\w*|TQ\d_\d|(?:MX|NV)FP4\w*|BF16|F16|F32)(?![A-Z0-9])", re.I
)


class HubError(RuntimeError):
    """A model that could not be had from the hub, or from a URL."""


class HubModel(NamedTuple):
    """A file in a repository: `file` by its path or a glob pattern, or else one of the type
    `quant`, None for Q4_K_M or any. `revision`: a branch, tag or commit; None for main."""

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None


def hub_model(text: str) -> HubModel:
    """A name on the hub, or an address there. Raises ValueError for what is neither."""
    found = parsed(text)
    if not isinstance(found, HubModel):
        raise ValueError(f"{text!r} is no name on the hub; it must be user/model[:Q4_K_M]")
    return found


def hub_address(text: str) -> str:
    """The same as an address, which no file can be taken for."""
    hub_model(text)
    return text if HUB.match(text) or SCHEME.match(text) else f"hf://{text}"


def url(text: str) -> str:
    """The text, if it is a URL. Raises ValueError for what is none."""
    if not SCHEME.match(text) or parsed(text) is None:
        raise ValueError(f"{text!r} is no URL of a .gguf file")
    return text


def parsed(text: str) -> HubModel | str | None:
    """A model on the hub, or the URL of a file, where a text is spelled as one of them.

    Raises ValueError for an address at the hub that is no model's, and for another URL that does
    not end in .gguf.
    """
    bare = re.split(r"[?#]", text)[0] if SCHEME.match(text) else text
    mirror = f"{(os.environ.get('HF_ENDPOINT') or HUB_HOME).rstrip('/')}/"
    hub = HUB.match(bare)
    if hub or bare.startswith(mirror):
        rest = bare[hub.end() if hub else len(mirror) :]
        if name := NAME.fullmatch(rest):
            return HubModel(*name.groups())
        page = PAGE.fullmatch(rest)
        if page and (page["file"] is None or page["file"].lower().endswith(".gguf")):
            file, revision = (page[key] and unquote(page[key]) for key in ("file", "revision"))
            return HubModel(page["repo"], file=file, revision=revision)
        raise ValueError(f"{text!r} is no model on the hub; it must be user/model, or a .gguf file")
    if SCHEME.match(bare):
        if not bare.lower().endswith(".gguf"):
            raise ValueError(f"{text!r} is no URL of a GGUF file: it does not end in .gguf")
        return text
    name = NAME.fullmatch(text)
    return HubModel(*name.groups()) if name else None


def is_one(text: str) -> bool:
    """Whether there is such a file, or a text is spelled as a model's name or address is."""
    try:
        return os.path.exists(text) or text.endswith(".gguf") or parsed(text) is not None
    except ValueError:  # which says more to whoever takes it for one
        return True


def is_model(text: str) -> bool:
    """Whether a text can hardly be anything but a model: a GGUF file that is there, or one word
    that is spelled as a file's, a name with a type, or an address at the hub."""
    is_file = text.lower().endswith(".gguf")
    if re.search(r"\s", text):
        return is_file and os.path.exists(text)
    if is_file or HUB.match(text):
        return True
    name = NAME.fullmatch(text)
    return bool(name and (QUANT.fullmatch(name[2] or "") or name[1].lower().endswith("gguf")))
