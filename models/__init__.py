"""What a transformer is: one file an architecture, named as in `general.architecture`.

To add one: a file here, with a class of `Transformer`. It is imported when a file asks for it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from linnet.models.parts.errors import ModelError
from linnet.models.parts.relatives import check_is_model

if TYPE_CHECKING:
    from linnet.kernels.runtime.program import Buffer
    from linnet.models.parts.config import Config
    from linnet.models.parts.graph import Graph
    from linnet.models.parts.transformer import Transformer
    from linnet.models.parts.weights import Tensor

__all__ = ["ARCHITECTURES", "Model", "ModelError", "architecture", "load_model"]

# The files' names: those of architectures, with _ for -.
ARCHITECTURES = tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


class Model(Protocol):
    """Checked hyper-parameters and weights, and how they are put together."""

    config: Config

    def record(self, g: Graph) -> Buffer:
        """Record a forward pass; returns the logits (n_outputs, n_vocab)."""
        ...

    def hidden(self, g: Graph) -> Buffer:
        """The same, but for the output matrix: the last norm's rows (n_outputs, n_embd)."""
        ...


def architecture(name: object) -> type[Transformer]:
    """The class of an architecture, by its name in files; no other architecture is imported.

    Raises ModelError for a name that is none of ARCHITECTURES.
    """
    file = name.replace("-", "_") if isinstance(name, str) else ""
    if file not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"general.architecture is {str(name)[:80]!r}; known: {known} (or - for _)")
    from linnet.models.parts.transformer import Transformer  # imports the compiler

    module = importlib.import_module(f"{__name__}.{file}")
    own = [member for member in vars(module).values() if isinstance(member, type)]
    (found,) = (c for c in own if issubclass(c, Transformer) and c.__module__ == module.__name__)
    return found


def load_model(
    metadata: Mapping[str, object], tensors: Mapping[str, Tensor], *, ignore_unknown: bool = False
) -> Model:
    """The model in a file, by its `general.architecture`.

    Raises ModelError, also for a file that says more than is used here, unless `ignore_unknown`:
    see `linnet.models.parts.unused`.
    """
    check_is_model(metadata)
    made_of = architecture(metadata.get("general.architecture"))
    if not tensors:
        raise ModelError("a vocabulary without weights; not a model")
    from linnet.models.parts.unused import check_unused
    from linnet.models.parts.weights import Weights

    with np.errstate(all="ignore"):  # weights may be anything; logits are looked at
        weights = Weights(tensors)
        model = made_of(metadata, weights)
        check_unused(model.keys, weights, model.config, ignore=ignore_unknown)
    return model
