"""Kernels compiled for machines that are not this one: to be read, checked and counted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llvmlite.binding as llvm

from linnet.kernels.compiler.jit import Source, pipeline
from linnet.kernels.isa import ISA


@dataclass(frozen=True)
class CrossCompiler:
    """Compiles for an instruction set of a `triple`, and of it for that `cpu`, by LLVM's names.

    `cpu`: without one no machine in particular, as `jit.target` has it. Raises RuntimeError for
    what LLVM does not know.
    """

    isa: ISA
    triple: str
    cpu: str = ""

    def object(self, source: Source) -> bytes:
        code: bytes = self._machine.emit_object(self._optimised(source))
        return code

    def assembly(self, source: Source) -> str:
        text: str = self._machine.emit_assembly(self._optimised(source))
        return text

    @cached_property
    def _machine(self) -> Any:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.isa.target_attributes, opt=3, jit=True
        )

    def _optimised(self, source: Source) -> Any:
        lines = source.ir(self.isa).splitlines()
        text = "\n".join(line for line in lines if not line.startswith("target "))
        machine = self._machine
        module = llvm.parse_assembly(f'target triple = "{self.triple}"\n{text}')
        passes = llvm.create_pass_builder(machine, pipeline())
        passes.getModulePassManager().run(module, passes)
        return module
