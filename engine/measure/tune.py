"""Which tuning is fastest on this machine: candidates measured in alternation.

    best = the instruction set's defaults
    for parameter in prefetch_bytes, fewest_bytes, most_bytes, tile:
        for round in rounds:                   # so that slow moments strike all alike
            for candidate in (best, best with other values of this parameter, best again):
                time one pass of the products that the parameter matters for
        winner = the candidate that is clearly faster than best, if one is
        best = winner, if it is so in new rounds of best, winner and best again, too

Clearly is by more than best differs from itself. What was stored before plays no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.jit import Library
from linnet.kernels.isa import ISA
from linnet.kernels.isa.tuning import Tuning
from linnet.kernels.memory import aligned
from linnet.kernels.products.activations import packed_bytes
from linnet.kernels.products.linear import Linear, Pack
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.program import Lowered, Program
from linnet.kernels.runtime.team import Team

KIB = 1024
VALUES = {
    "prefetch_bytes": (0, 1152, 2304, 4608, 9216, 18432, 36864),
    "fewest_bytes": tuple(n * KIB for n in (32, 64, 128, 256, 512, 1024)),
    "most_bytes": tuple(n * KIB for n in (128, 256, 512, 1024, 2048, 4096)),
}

LEAST_GAIN = 0.02  # what is less is noise
BUSY = 0.1  # so far measurements of one thing differ only beside other processes
FEWEST_ROUNDS, MOST_ROUNDS = 5, 25
SECONDS = 1.0  # for all candidates of a parameter, where so many rounds take less

# The products of a Llama of 1B shapes that are worth measuring: (type, n_out, n_columns).
LAYER = (
    ("Q4_K", 2048, 2048), ("Q4_K", 512, 2048), ("Q4_K", 512, 2048), ("Q4_K", 2048, 2048),
    ("Q4_K", 8192, 2048), ("Q4_K", 8192, 2048), ("Q6_K", 2048, 8192),
)  # fmt: skip
N_LAYERS = 8  # 309 MB, which no cache of one core holds
PROMPT_LAYER = (("Q4_K", 4096, 2048), ("Q6_K", 1024, 2048))
N_PROMPT = 512

Floats = npt.NDArray[np.float64]
Setting = int | tuple[int, int]
Timer = Callable[[str, Tuning], float]
"""(parameter, tuning) -> seconds of one pass of what the parameter matters for"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate. `seconds`: the median; `spread`: half of what the middle half of them covers, as
    a share of it. `speed`: how many times as fast as the best so far, which is `before`; `noise`:
    by how much that differs from itself."""

    parameter: str
    value: Setting
    seconds: float
    spread: float
    speed: float
    noise: float
    before: bool
    chosen: bool


def tune(
    isa: ISA, measure: Timer, on_step: Callable[[], object] = lambda: None,
    n_rounds: int | None = None,
) -> tuple[Tuning, list[Measured]]:  # fmt: skip
    """The fastest tuning, and all that was measured. `on_step` hears of each parameter done;
    `n_rounds`: by default as many as take a second, within bounds."""
    best, rows = isa.defaults, []
    for parameter in parameters(isa):
        values: Sequence[Setting] = VALUES.get(parameter) or isa.tiles_to_try
        tunings = list(_candidates(best, parameter, values))
        rounds = partial(_alternate, partial(measure, parameter), n_rounds=n_rounds)
        before, seconds = tunings.index(best), rounds([*tunings, best])
        speeds, noise = _speeds(seconds, before)
        chosen = choose(speeds, before, noise)
        if chosen != before:
            again = _speeds(rounds([best, tunings[chosen], best]), 0)
            chosen = chosen if choose(again[0], 0, again[1]) else before
        rows += [
            Measured(
                parameter,
                value=getattr(tuning, parameter),
                seconds=float(np.median(seconds[:, i])),
                spread=_spread(seconds[:, i]),
                noise=noise,
                speed=float(np.median(speeds[:, i])),
                before=i == before,
                chosen=i == chosen,
            )
            for i, tuning in enumerate(tunings)
        ]
        best = tunings[chosen]
        on_step()
    return best, rows


def parameters(isa: ISA) -> tuple[str, ...]:
    """What is measured, in this order. Where prompts multiply in matrix registers, no tile is."""
    return tuple(VALUES) if isa.tiles is not None else (*VALUES, "tile")


def choose(speeds: Floats, before: int, noise: float) -> int:
    """The candidate to take, of speeds (n_rounds, n_candidates) relative to candidate `before`.

    The fastest by the median, if it gains `LEAST_GAIN` and more than `noise`, and three rounds in
    four agree that there is a gain; otherwise `before`.
    """
    medians = np.median(speeds, axis=0)
    gains = (medians >= 1 + LEAST_GAIN) & (medians > 1 + noise)
    gains &= np.quantile(speeds, 0.25, axis=0) > 1
    return int(np.argmax(np.where(gains, medians, 0))) if gains.any() else before


def _speeds(seconds: Floats, before: int) -> tuple[Floats, float]:
    """Of seconds (n_rounds, n_candidates + 1), the last being those of `before` again: speeds
    (n_rounds, n_candidates) relative to `before`, and by how much that differs from itself."""
    speeds = seconds[:, before, np.newaxis] / seconds
    again = speeds[:, -1]
    return speeds[:, :-1], max(_spread(again), abs(float(np.median(again)) - 1))


def _spread(samples: Floats) -> float:
    low, middle, high = np.quantile(samples, (0.25, 0.5, 0.75))
    return float((high - low) / 2 / middle)


def _candidates(best: Tuning, parameter: str, values: Sequence[Setting]) -> Iterator[Tuning]:
    """`best` with each value of the parameter that fits, in ascending order."""
    of_any_kind: Sequence[Any] = values
    for value in sorted({*of_any_kind, getattr(best, parameter)}):
        if parameter == "fewest_bytes" and value > best.most_bytes:
            continue
        if parameter == "most_bytes" and value < best.fewest_bytes:
            continue
        yield replace(best, **{parameter: value})


def _alternate(
    measure: Callable[[Tuning], float], tunings: Sequence[Tuning], n_rounds: int | None = None
) -> Floats:
    """Seconds (n_rounds, n_candidates); each round begins with the next candidate."""
    rounds: list[list[float]] = []
    n = n_rounds or FEWEST_ROUNDS
    while len(rounds) < n:
        seconds = [0.0] * len(tunings)
        for i in range(len(tunings)):
            candidate = (i + len(rounds)) % len(tunings)
            seconds[candidate] = measure(tunings[candidate])
        rounds.append(seconds)
        if n_rounds is None:
            n = min(max(FEWEST_ROUNDS, int(SECONDS / sum(rounds[0]))), MOST_ROUNDS)
    return np.array(rounds)


class Passes:
    """A `Timer`: decodes some layers from memory or, for tiles, multiplies a prompt."""

    def __init__(self, isa: ISA, n_threads: int) -> None:
        self._isa = isa
        self._team = Team(Library(isa), n_threads)
        self._lowered: dict[tuple[bool, Tuning], Lowered] = {}
        shapes = [*LAYER] * N_LAYERS
        weights = aligned(sum(map(_n_bytes, shapes)))  # in small pages, as mapped files are
        weights[...] = np.random.default_rng(0).integers(0, 256, weights.size, np.uint8)
        self._one = _program(shapes, weights, 1)
        self._many = _program(PROMPT_LAYER, weights, N_PROMPT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._team.close()

    def __call__(self, parameter: str, tuning: Tuning) -> float:
        many = parameter == "tile"
        if (many, tuning) not in self._lowered:
            program, n_tokens = (self._many, None) if many else (self._one, 1)
            library = Library(self._isa.tuned(tuning))
            self._lowered[many, tuning] = program.lower(library, n_tokens=n_tokens)
            self._team.run(self._lowered[many, tuning])
        started = time.perf_counter()
        self._team.run(self._lowered[many, tuning])
        return time.perf_counter() - started


def _n_bytes(shape: tuple[str, int, int]) -> int:
    type, n_out, n_columns = shape
    return n_out * WEIGHT_TYPES[type].row_bytes(n_columns)


def _program(
    shapes: Sequence[tuple[str, int, int]], weights: npt.NDArray[np.uint8], n_tokens: int
) -> Program:
    """Product after product, each with weights of its own and all with the same activations."""
    program = Program(max_tokens=n_tokens, max_outputs=1)
    most_columns = max(n_columns for _, _, n_columns in shapes)
    most_out = max(n_out for _, n_out, _ in shapes)
    x = program.buffer("x", most_columns)
    packed = program.buffer("packed", packed_bytes(most_columns), dtype=np.uint8)
    out = program.buffer("out", most_out)
    program.step("pack", Pack(), x=x, out=packed, width=most_columns)
    start = 0
    for shape in shapes:
        name, n_out, n_columns = shape
        end = start + _n_bytes(shape)
        program.step(
            "product", Linear.of(WEIGHT_TYPES[name], activations="int8"),
            weights=weights[start:end].reshape(n_out, -1), x=packed, out=out,
            n_columns=n_columns, n_out=n_out,
        )  # fmt: skip
        start = end
    program.lay_out(keep=[x])
    x.data[...] = np.random.default_rng(1).standard_normal(x.data.shape)
    program.state[:] = n_tokens
    return program
