"""The few numbers that depend on the machine: they change how fast kernels run, never results."""

from __future__ import annotations

from dataclasses import dataclass

LIMITS = {
    "prefetch_bytes": (0, 1 << 16),
    "fewest_bytes": (1 << 10, 1 << 28),
    "most_bytes": (1 << 10, 1 << 28),
}
MOST_TOKENS, MOST_VECTORS = 16, 4  # in a tile


@dataclass(frozen=True, slots=True)
class Tuning:
    """`prefetch_bytes`: how far ahead of itself a stream of weights asks for memory; 0:
    not at all.

    `tile`: tokens and vectors of rows that one register tile of the many-row products covers.
    `fewest_bytes`, `most_bytes`: weights that a thread takes at a time in the few-row products: in
    long runs memory is read ahead best, while short ones keep threads from waiting for each other
    at the end of a small matrix.

    Raises TypeError for what is no whole number, ValueError for one out of its range.
    """

    prefetch_bytes: int = 2304
    tile: tuple[int, int] = (4, 1)
    fewest_bytes: int = 128 << 10
    most_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            _check(name, getattr(self, name), least, most)
        if not isinstance(self.tile, tuple) or len(self.tile) != 2:
            raise TypeError(f"tile is {self.tile!r}; it must be (tokens, vectors)")
        _check("tokens in a tile", self.tile[0], 1, MOST_TOKENS)
        _check("vectors in a tile", self.tile[1], 1, MOST_VECTORS)
        if self.fewest_bytes > self.most_bytes:
            raise ValueError(
                f"fewest_bytes is {self.fewest_bytes}; it must be at most most_bytes, "
                f"{self.most_bytes}"
            )

    def items_of(self, n_bytes: int) -> tuple[int, int]:
        """The fewest and the most items of so many bytes that a thread takes at a time."""
        return max(1, self.fewest_bytes // n_bytes), max(1, self.most_bytes // n_bytes)

    @property
    def in_code(self) -> tuple[int, tuple[int, int]]:
        """What compiled kernels hold of it: part of their cache key."""
        return self.prefetch_bytes, self.tile


def _check(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r}; it must be a whole number")
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; it must be within {least} to {most}")
