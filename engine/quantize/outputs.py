"""The files that a quantised model becomes: one, or as many as the source has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from linnet.engine.gguf.metadata import I32, U16
from linnet.engine.gguf.reader import GGUFFile, Tensor
from linnet.engine.gguf.writer import MetadataValue


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be written, the one with this number of so many."""

    path: Path
    tensors: Mapping[str, Tensor]
    number: int
    count: int
    n_tensors: int  # of all files

    def metadata(self, whole: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
        """What of the model's goes into this file: all into the first."""
        if self.count == 1:
            return dict(whole)
        first = self.number == 0
        return {key: whole[key] for key in whole if first or key == "general.alignment"} | {
            "split.no": MetadataValue(U16, self.number),
            "split.count": MetadataValue(U16, self.count),
            "split.tensors.count": MetadataValue(I32, self.n_tensors),
        }


def outputs(target: Path, file: GGUFFile, *, keep_split: bool) -> list[Output]:
    """One, or as many as `file` has, to keep the split: TARGET-00001-of-0000N.gguf."""
    parts, n_tensors = file.parts, len(file.tensors)
    if len(parts) == 1 or not keep_split:
        return [Output(target, file.tensors, 0, 1, n_tensors)]
    stem, n = target.name.removesuffix(".gguf"), len(parts)
    return [
        Output(target.with_name(f"{stem}-{i + 1:05}-of-{n:05}.gguf"), tensors, i, n, n_tensors)
        for i, (_, tensors) in enumerate(parts)
    ]
