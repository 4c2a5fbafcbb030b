"""How many instructions the inner loops of products take on another CPU, and how many cycles.

usage: python scripts/count_instructions.py --isa neondot [--cpu neoverse-n1] [--mca llvm-mca]

For each quant type: of the loop over 256 columns in the product with one row, per row of weights,
beside what llama.cpp's kernel takes or should; and of the loop over a group in the product with
many rows, per dot product of 16 bytes. Nothing runs: kernels are compiled for that CPU and read.
`--mca` has llvm-mca say how many cycles the first takes from L1, were every branch foreseen.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from linnet.kernels.compiler.jit import Compiler
from linnet.kernels.isa import ISAS
from linnet.kernels.products.matmul import MatMul
from linnet.kernels.products.matvec import MatVec
from linnet.kernels.quants import WEIGHT_TYPES, QuantType

TRIPLE = "aarch64-linux-gnu"
CPUS = {"neon": "cortex-a72", "neondot": "neoverse-n1", "neoni8mm": "neoverse-n2"}
MOST = {  # instructions for 256 weights, with dot products
    "Q8_0": 105, "Q4_0": 130, "Q5_0": 240, "Q2_K": 150, "Q3_K": 230, "Q4_K": 125, "Q5_K": 175,
    "Q6_K": 185, "IQ4_XS": 150, "MXFP4": 180,
}  # fmt: skip
DOTS = {  # of 16 bytes, and what multiplies two rows by two tokens, eight bytes each
    "sdot": 1.0, "usdot": 1.0, "smmla": 2.0, "usmmla": 2.0,
    "smull": 0.5, "smlal": 0.5, "smull2": 0.5, "smlal2": 0.5,
}  # fmt: skip
BRANCH = re.compile(r"(?:b\.\w+|cbn?z|tbn?z)\s.*?(\.LBB\w+)$")
STACK = re.compile(r"(?:ldr|str|ldp|stp)\s.*\[sp")


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop that has no other in it."""

    lines: Sequence[str]

    @property
    def n_spills(self) -> int:
        """Loads and stores of registers that did not suffice, and of constants kept there."""
        return sum(bool(STACK.match(line)) for line in self.lines)

    @property
    def n_dots(self) -> float:
        return sum(DOTS.get(line.split()[0], 0) for line in self.lines)

    def cycles(self, mca: str, cpu: str) -> float:
        """What a turn takes, by llvm-mca's model of the CPU."""
        target = [f"-mtriple={TRIPLE}", f"-mcpu={cpu}", "-iterations=100"]
        text = "\n".join(self.lines) + "\n"
        answer = subprocess.run(
            [mca, *target], input=text, capture_output=True, text=True, check=True
        )
        (cycles,) = re.findall(r"Total Cycles:\s+(\d+)", answer.stdout)
        return int(cycles) / 100


def loops(assembly: str) -> Iterator[Loop]:
    """The innermost loops, in their order."""
    places: dict[str, int] = {}
    lines: list[str] = []
    for line in map(str.strip, assembly.splitlines()):
        if line.startswith(".LBB"):
            places[line.partition(":")[0]] = len(lines)
        elif line and not line.startswith((".", "/", "#")) and not line.endswith(":"):
            lines.append(line.replace("\t", " "))
    spans = [
        (places[match[1]], end)
        for end, line in enumerate(lines)
        if (match := BRANCH.match(line)) and places.get(match[1], end + 1) <= end
    ]
    for first, last in spans:
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans):
            yield Loop(lines[first : last + 1])


def few_rows(compiler: Compiler, type: QuantType) -> tuple[Loop, int]:
    """The loop over 256 columns, and how many rows of weights it is for."""
    op = MatVec(type, 1)
    found = max(loops(compiler.text(op, "asm")), key=lambda loop: len(loop.lines))
    return found, op.rows_together


def many_rows(compiler: Compiler, type: QuantType) -> Loop:
    """The loop over groups, for a tile of tokens."""
    return max(loops(compiler.text(MatMul(type), "asm")), key=lambda loop: loop.n_dots)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--isa", choices=CPUS, default="neondot")
    parser.add_argument("--cpu", help="LLVM's name; 'generic' for none in particular")
    parser.add_argument("--mca", metavar="PROGRAM", help="llvm-mca, to say cycles, too")
    parser.add_argument("--type", action="append", choices=MOST, help="all without it")
    arguments = parser.parse_args()
    (isa,) = (isa for isa in ISAS if isa.name == arguments.isa)
    cpu = arguments.cpu or CPUS[arguments.isa]
    compiler = Compiler(isa, TRIPLE, "" if cpu == "generic" else cpu)
    print(f"{isa.name} on {cpu}, instructions")
    print(f"{'':8}{'256 weights':>12}{'at most':>9}{'spills':>8}{'cycles':>8}{'a dot':>8}")
    for name, type in WEIGHT_TYPES.items():
        if not isinstance(type, QuantType) or name not in (arguments.type or WEIGHT_TYPES):
            continue
        loop, n_rows = few_rows(compiler, type)
        tile = many_rows(compiler, type)
        most = MOST.get(name, "") if arguments.isa != "neon" else ""
        cycles = f"{loop.cycles(arguments.mca, cpu) / n_rows:.0f}" if arguments.mca else ""
        print(
            f"{name:8}{len(loop.lines) / n_rows:12.1f}{most:>9}{loop.n_spills:8}{cycles:>8}"
            f"{len(tile.lines) / tile.n_dots:8.2f}"
        )


if __name__ == "__main__":
    main()
