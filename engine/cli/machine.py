"""How a command computes: on how many threads, by which instructions, and how exactly."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from linnet.engine.cli.counts import count
from linnet.engine.machine import MOST_THREADS
from linnet.kernels.isa import ISAS
from linnet.kernels.ops.cache_types import CACHE_TYPES
from linnet.kernels.products.linear import ACTIVATIONS

THREADS = {"type": count(1, MOST_THREADS), "metavar": "N"}


def add_machine(
    parser: argparse._ActionsContainer, *, threads: Mapping[str, Any] = THREADS,
    numerics: bool = True,
) -> None:  # fmt: skip
    """-t, a flag for `threads`, --isa and, where there is a choice, those that `numerics` reads."""
    add = parser.add_argument
    add("-t", "--threads", **threads, help="default: the cores we may use, fewer for a few MB")
    add("--isa", choices=[isa.name for isa in ISAS], help="instruction set (or LINNET_ISA)")
    if numerics:
        add("--activations", choices=ACTIVATIONS, default="int8", help="f32 is the exact mode")
        for short, name in (("k", "keys"), ("v", "values")):
            add(
                f"-ct{short}", f"--cache-type-{short}", choices=CACHE_TYPES,
                help=f"of cached {name}; default f16, or f32 in the exact mode; q8_0 takes half",
            )  # fmt: skip


def numerics(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Numerics.of`, and of LLM."""
    names = "activations", "cache_type_k", "cache_type_v"
    return {name: getattr(arguments, name) for name in names}
