"""Which instruction sets this machine has, and which of them kernels are compiled for."""

from __future__ import annotations

import os
from functools import cache

from linnet.kernels.compiler.jit import has
from linnet.kernels.compiler.tunings import stored
from linnet.kernels.isa import ISA, ISAS, ISAError


@cache
def available_isas() -> tuple[ISA, ...]:
    """The instruction sets that this CPU has and its system permits, fastest first."""
    return tuple(filter(has, ISAS))


def choose_isa(name: str | None = None) -> ISA:
    """The ISA called `name`, else the one LINNET_ISA names, else the fastest this CPU has.

    With the tuning stored for it on this machine, if there is one. Raises ISAError for an unknown
    name, or one this CPU cannot run.
    """
    name = name or os.environ.get("LINNET_ISA") or available_isas()[0].name
    for isa in available_isas():
        if isa.name == name:
            tuning = stored(name)
            return isa if tuning is None else isa.tuned(tuning)
    known = {isa.name for isa in ISAS}
    here = ", ".join(isa.name for isa in available_isas())
    reason = "this CPU lacks it" if name in known else "unknown"
    raise ISAError(f"instruction set {name!r}: {reason}; available here: {here}")
