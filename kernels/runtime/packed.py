"""A packed matrix to multiply by, without a model around it: for tests of layers, and other code.

    matrix = PackedMatrix("Q4_K", packed)
    out = matrix.matmul(x)

Behind it are the kernels that models run, on the calling thread alone: activations are quantised
and multiplied in one native call, which allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import MOST_FEW_ROWS
from linnet.kernels.products.activations import packed_bytes
from linnet.kernels.products.linear import ACTIVATIONS, Linear
from linnet.kernels.quants import WeightType, weight_type
from linnet.kernels.runtime.program import Buffer, Lowered, Program, Rows
from linnet.kernels.runtime.serial import serial

Floats = npt.NDArray[np.float32]


class PackedMatrix:
    """Weights (n_out, n_columns) packed as GGUF files hold them; used where they lie.

    `type`: its name, as "Q4_K", or an object. `packed`: u8 (n_out, row_bytes), contiguous.
    `activations`: multiply "int8" or "f32" ones. `library`: where kernels come from; by default one
    of its own for the best this CPU has.

    Not for two threads at once. Raises TypeError and ValueError for packed bytes that are not such
    an array or not whole blocks, ValueError for a type or activations that there are not.
    """

    def __init__(
        self,
        type: WeightType | str,
        packed: npt.NDArray[np.uint8],
        *,
        activations: str = "int8",
        library: Library | None = None,
    ) -> None:
        type = weight_type(type) if isinstance(type, str) else type
        if activations not in ACTIVATIONS:
            known = " or ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"activations is {activations!r}; it must be {known}")
        _check("packed", packed, np.uint8)
        n_bytes = packed.shape[1]
        if not packed.size or n_bytes % type.bytes:
            raise ValueError(
                f"packed is {packed.shape}; it must be at least one row of whole {type.name} "
                f"blocks, {type.bytes} bytes each"
            )
        self.type, self.packed, self.activations = type, packed, activations
        self.n_out, self.n_columns = len(packed), n_bytes // type.bytes * type.block
        self.library = library or Library(choose_isa())
        self._products: dict[int | None, _Product] = {}

    def __repr__(self) -> str:
        return f"PackedMatrix({self.type.name}, {self.n_out} x {self.n_columns})"

    def matmul(self, x: Floats, out: Floats | None = None) -> Floats:
        """x (n_rows, n_columns) @ weights.T; returns (n_rows, n_out), which is `out` if given.

        Raises what `prepare` raises.
        """
        if out is None:
            _check("x", x, np.float32)
            out = np.empty((len(x), self.n_out), np.float32)
        self._check_product(x, out)
        if len(x):
            product = self._product_for(len(x))
            product.aim(x, out)
            product.run()
        return out

    def prepare(self, x: Floats, out: Floats) -> Callable[[], None]:
        """A function that writes x @ weights.T to out when called, for what x then holds.

        It knows the arrays, so a call checks nothing and takes 0.1 microseconds besides the
        product. Raises TypeError for arrays that are not f32, and ValueError where they are not
        contiguous, not (n_rows, n_columns) and (n_rows, n_out), without rows, or overlap.
        """
        self._check_product(x, out)
        if not len(x):
            raise ValueError("x has no rows; it must have at least one")
        product = _Product(self, len(x), len(x))
        product.aim(x, out)
        return serial(self.library, product.lowered, x, out)

    def _check_product(self, x: Floats, out: Floats) -> None:
        _check("x", x, np.float32)
        _check("out", out, np.float32)
        if x.shape[1] != self.n_columns:
            raise ValueError(f"x is {x.shape}; it must have {self.n_columns} columns")
        if out.shape != (len(x), self.n_out):
            raise ValueError(f"out is {out.shape}; it must be {(len(x), self.n_out)}")
        if not out.flags.writeable:
            raise ValueError("out is read-only")
        if np.may_share_memory(x, out):
            raise ValueError("x and out overlap")

    def _product_for(self, n_rows: int) -> _Product:
        """One product for each small number of rows, and one for all others."""
        key = n_rows if n_rows <= MOST_FEW_ROWS else None
        product = self._products.get(key)
        if product is None or product.most_rows < n_rows:
            product = self._products[key] = _Product(self, key, n_rows)
        return product


class _Product:
    """The program of one product."""

    def __init__(self, matrix: PackedMatrix, n_rows: int | None, most_rows: int) -> None:
        """For exactly `n_rows` rows, or any number up to `most_rows` for None."""
        self.library, self.most_rows = matrix.library, most_rows
        self.state, self.lowered = _lower(matrix, n_rows, most_rows)

    @cached_property
    def run(self) -> Callable[[], None]:
        return serial(self.library, self.lowered)

    def aim(self, x: Floats, out: Floats) -> None:
        """Take these arrays, which were checked, from now on."""
        first, last = self.lowered.arguments[0], self.lowered.arguments[-1]
        self.state[Rows.TOKENS] = len(x)
        first["x"][0], last["out"][0] = x.ctypes.data, out.ctypes.data


def _lower(
    matrix: PackedMatrix, n_rows: int | None, most_rows: int
) -> tuple[npt.NDArray[np.int64], Lowered]:
    """Where the number of rows stands, and the steps; x and out are still to be pointed to."""
    program = Program(max_tokens=most_rows, max_outputs=1)
    nowhere = np.empty(0, np.float32)
    x, out = (
        Buffer(name, Rows.TOKENS, width, nowhere.dtype, nowhere)
        for name, width in (("x", matrix.n_columns), ("out", matrix.n_out))
    )
    op, multiplied = Linear.of(matrix.type, activations=matrix.activations), x
    if op.packing is not None:
        n_bytes = packed_bytes(matrix.n_columns)
        multiplied = program.buffer("packed", n_bytes, dtype=np.uint8)
        program.step("pack", op.packing, x=x, out=multiplied, width=matrix.n_columns)
    program.step(
        "product", op,
        weights=matrix.packed, x=multiplied, out=out,
        n_columns=matrix.n_columns, n_out=matrix.n_out,
    )  # fmt: skip
    program.lay_out(keep=[])
    return program.state, program.lower(matrix.library, n_tokens=n_rows)


def _check(name: str, array: npt.NDArray[np.generic], dtype: type[np.generic]) -> None:
    """Raise TypeError unless it is an array of this dtype, ValueError unless 2-D and contiguous."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        given = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name} is {given}; it must be an array of {dtype.__name__}")
    if array.ndim != 2 or not array.flags.c_contiguous:
        raise ValueError(f"{name} must be two-dimensional and contiguous; it is {array.shape}")
