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

from linnet.kernels.ir import Value

GROUP = 32  # numbers under one scale of activations
GROUPS, RUNS, RUN = 8, 4, 8  # in a span; in a group; numbers in a run
SPAN = GROUPS * GROUP


def place(run: int, group: int | Value, n_groups: int | Value) -> int | Value:
    """The byte at which the run of a group begins, in a span of so many groups."""
    return (n_groups * run + group) * RUN
