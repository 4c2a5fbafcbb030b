"""The order in which products meet numbers: every 256 as four runs of eight from eight groups.

A group of 32 shares a scale, so its products may be summed as integers; but a register of 64 bytes
holds two groups, and the sums of 256 weights would be four registers, each to be converted and
scaled. Taking the first eight of each of eight groups, then the second eight, and so on, puts the
sums of all eight groups into one:

    lanes   0..63  : numbers 0..7 of group 0, 0..7 of group 1, ... 0..7 of group 7
    lanes  64..127 : numbers 8..15 of group 0, ...
    lanes 128..191, 192..255 : numbers 16..23, 24..31

`Quantize` stores activations in this order; types give weights in it (`QuantType.runs`). The groups
of a row behind its last whole 256 are spans of their own, of which this order is that of the
columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from linnet.kernels.ir import Value

GROUP = 32  # numbers under one scale of activations
GROUPS, RUNS, RUN = 8, 4, 8  # in a span; in a group; numbers in a run
SPAN = GROUPS * GROUP


@dataclass(frozen=True, slots=True)
class Register:
    """A vector of lanes, and the (run, group) of every eight of them."""

    lanes: Value
    runs: tuple[tuple[int, int], ...]


def interleave(parts: Sequence[Value], order: Sequence[int], n_bytes: int) -> list[Register]:
    """The lanes of a span as they are unpacked -> registers of `n_bytes` in the order of products.

    `parts`: u8 vectors of one length, end to end the groups of 32 that `order` names, which are the
    eight of a span of 256 or the one of a span of 32; `n_bytes`: 16, 32 or 64.

    Two rounds sort pairs of registers by a bit of their runs' numbers: eight shuffles for 256 lanes
    in registers of 64 bytes.
    """
    runs = [(run, group) for group in order for run in range(RUNS)]
    n = min(n_bytes // RUN, len(runs))
    registers = [
        Register(lanes, tuple(runs[n * i : n * (i + 1)]))
        for i, lanes in enumerate(parts[0].k.regroup(parts, n * RUN))
    ]
    for bit in (2, 1) if len(order) > 1 else ():
        registers.sort(key=lambda register: sorted(register.runs))
        if len({run & bit for run, _ in registers[0].runs}) == 2:
            pairs = zip(registers[::2], registers[1::2], strict=True)
            registers = [_select(a, b, bit, value) for a, b in pairs for value in (0, bit)]
    return sorted(registers, key=lambda register: register.runs)


def _select(a: Register, b: Register, bit: int, value: int) -> Register:
    """Of two registers the runs whose number has this value of the bit, in order."""
    both = [*a.runs, *b.runs]
    places = [i for i, (run, _) in enumerate(both) if run & bit == value]
    places.sort(key=both.__getitem__)
    lanes = [RUN * place + i for place in places for i in range(RUN)]
    return Register(a.lanes.shuffle(lanes, b.lanes), tuple(both[place] for place in places))


def place(run: int, group: int | Value, n_groups: int | Value) -> int | Value:
    """The byte at which the run of a group begins, in a span of so many groups."""
    return (n_groups * run + group) * RUN
