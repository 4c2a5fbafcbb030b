"""What a CPU can do, as far as kernels care: one small file per instruction set.

To add one: a file with an `ISA` subclass, and its line in `ISAS` (fastest first).
"""

from linnet.kernels.isa.amx import AMX
from linnet.kernels.isa.avx2 import AVX2, AVXVNNI
from linnet.kernels.isa.avx512 import AVX512, AVX512VNNI
from linnet.kernels.isa.base import ISA, ISAError
from linnet.kernels.isa.generic import Generic
from linnet.kernels.isa.neon import NEON, NEONI8MM, NEONDot

__all__ = ["ISA", "ISAS", "ISAError"]

ISAS: tuple[ISA, ...] = (
    AMX(), AVX512VNNI(), AVX512(), AVXVNNI(), AVX2(),
    NEONI8MM(), NEONDot(), NEON(),
    Generic(),
)  # fmt: skip
