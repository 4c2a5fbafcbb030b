"""How a command computes: on how many threads, by which instructions, and how exactly."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from linnet.engine.cli.counts import count
from linnet.engine.machine import MOST_THREADS
from linnet.kernels.isa import ISAS

THREADS = {"type": count(1, MOST_THREADS), "metavar": "N"}


def add_machine(
    parser: argparse.ArgumentParser, *, threads: Mapping[str, Any] = THREADS,
    activations: bool = True,
) -> None:  # fmt: skip
    """-t, a flag for `threads`, --isa and, where there are two of them, --activations."""
    add = parser.add_argument
    add("-t", "--threads", **threads, help="default: the cores we may use, fewer for a few MB")
    add("--isa", choices=[isa.name for isa in ISAS], help="instruction set (or LINNET_ISA)")
    if activations:
        add("--activations", choices=("int8", "f32"), default="int8", help="f32 is the exact mode")
