"""What every kernel is: an operation with named arguments, native code, and a numpy reference."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

from linnet.kernels.ir import Kernel, Pointer, Type, Value, i64, pointer
from linnet.kernels.isa import ISA

ALL_ROWS = 1 << 62
SIGNATURE = {"arguments": pointer, "first": i64, "last": i64, "scratch": pointer}


class Op:
    """A frozen dataclass whose fields specialise the kernel (quant type, row count, ...).

    `parameters`: the arguments a step gives, as 8-byte slots: `pointer`, i64 or f32.
    `writes`: which of them are written; the other pointers are only read.
    `in_place`: which of them may lie where `out` does, item by item.
    `scratch_bytes`: private memory a thread needs while it runs this kernel.
    """

    parameters: ClassVar[dict[str, Type]]
    writes: ClassVar[frozenset[str]] = frozenset({"out"})
    in_place: ClassVar[str] = ""

    @property
    def symbol(self) -> str:
        """The native function's name, and the part of the cache key that is the op's own."""
        values = [str(getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]
        return "_".join([type(self).__name__, *values]).lower()

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 0

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        """(How many items there are, for how many rows of the pass each time.)

        So many for each row: (n, 1); for each eight of them, the last few included: (n, 8); and
        (n, ALL_ROWS) where it is n whatever the rows. `sizes`: the arguments, with buffers given as
        their widths.
        """
        raise NotImplementedError

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        """The fewest and the most items that a thread takes at a time."""
        return 1, 1

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        """The op for passes of exactly `n_rows` rows; of any number, as a prompt has, for None."""
        return self

    def emit(self, k: OpKernel, **arguments: Any) -> None:
        """Trace the kernel: work on items `k.first` to `k.last`."""
        raise NotImplementedError

    def reference(self, **arguments: Any) -> None:
        """The same in numpy, on whole arrays; what tests hold `emit` against."""
        raise NotImplementedError

    def ir(self, isa: ISA) -> str:
        k = OpKernel(self.symbol, isa)
        slots: Pointer = k.parameters["arguments"]
        arguments = {
            name: slots.load_pointer(8 * i) if type == pointer else slots.load(type, 8 * i)
            for i, (name, type) in enumerate(self.parameters.items())
        }
        self.emit(k, **arguments)
        return k.finish()


class OpKernel(Kernel):
    """The native function of an op: `void op(arguments, first item, last item, scratch)`."""

    def __init__(self, symbol: str, isa: ISA) -> None:
        super().__init__(symbol, SIGNATURE, isa)
        self.first: Value = self.parameters["first"]
        self.last: Value = self.parameters["last"]
        self.scratch: Pointer = self.parameters["scratch"]

    def items(self, name: str = "item") -> Any:
        """A loop over the items this call was given."""
        return self.range(self.last, self.first, name=name)
