"""How a command computes: on how many threads, by which instructions, and how exactly."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from linnet.engine.cli.counts import count
from linnet.engine.machine import MOST_THREADS
from linnet.kernels.isa import ISAS

THREADS = count(1, MOST_THREADS)


def add_machine(
    parser: argparse.ArgumentParser, *, threads: Callable[[str], Any] = THREADS, exact: bool = True
) -> None:
    """-t, of the type `threads`, --isa and, where there is an `exact` mode, --activations."""
    add = parser.add_argument
    add("-t", "--threads", type=threads, metavar="N", help="by default, the cores we may use")
    add("--isa", choices=[isa.name for isa in ISAS], help="instruction set (or LINNET_ISA)")
    if exact:
        add("--activations", choices=("int8", "f32"), default="int8", help="f32 is the exact mode")
