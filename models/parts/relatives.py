"""What goes with models in GGUF files of its own, and is none."""

from __future__ import annotations

from collections.abc import Mapping

from linnet.models.parts.errors import ModelError


def check_is_model(metadata: Mapping[str, object]) -> None:
    """Raise ModelError for what goes with models in GGUF files and is none, saying what it is."""
    architecture, kind = (str(metadata.get(f"general.{key}")) for key in ("architecture", "type"))
    if kind == "adapter" or "adapter.type" in metadata:
        raise ModelError("an adapter, to be merged into the model it was made for; not a model")
    if kind in ("mmproj", "clip-vision", "projector") or architecture == "clip":
        what = "a projector (mmproj), the part of a model that sees or hears"
        raise ModelError(f"{what}; the model itself is another file")
    if kind == "imatrix" or architecture == "imatrix" or "imatrix.datasets" in metadata:
        raise ModelError("an importance matrix, for quantising a model; not a model")
    if architecture == "controlvector":
        raise ModelError("a control vector, which steers a model; not a model")
