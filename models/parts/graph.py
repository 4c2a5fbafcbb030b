"""The words that architectures are written in; each records a step of a program."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnet.kernels.ops.attention import Attend
from linnet.kernels.ops.base import MOST_FEW_ROWS, Array, Op
from linnet.kernels.ops.elementwise import (
    Add,
    AddRow,
    Elementwise,
    Scale,
    ScaleByPosition,
    ScaleRows,
    SoftCap,
    Unary,
)
from linnet.kernels.ops.kv_cache import StoreKeys, StoreValues
from linnet.kernels.ops.norm import LayerNorm, RmsNorm
from linnet.kernels.ops.rope import Rope
from linnet.kernels.ops.rows import JoinColumns, PickColumns, PickRows
from linnet.kernels.ops.softmax import BLOCK, SoftmaxBlocks
from linnet.kernels.ops.split_attention import JoinSplits, SplitAttend, n_splits, part_floats
from linnet.kernels.products.activations import packed_bytes
from linnet.kernels.products.base import Product
from linnet.kernels.products.linear import Linear
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.program import Argument, Buffer, Persistent, Program, Rows
from linnet.models.parts.cache import STATE, Cache, Ring, State
from linnet.models.parts.numerics import Numerics
from linnet.models.parts.positions import PositionTable, Tabulated
from linnet.models.parts.weights import Floats, Matrix


class Graph:
    """A program under recording, for sequences of up to `n_ctx` positions each.

    Recording takes no memory. `allocate` does, for as many sequences as there is to be room for,
    before the program is lowered. `states`: what layers carry along a sequence, beside `caches`.
    """

    def __init__(self, program: Program, *, n_ctx: int, numerics: Numerics) -> None:
        self.program, self.n_ctx, self.numerics, self.n_slots = program, n_ctx, numerics, 0
        self._packed: dict[tuple[Buffer, Op, int], Buffer] = {}
        self._tables: dict[Tabulated, PositionTable] = {}
        self._caches: dict[object, Cache] = {}
        self.states: list[State] = []
        self.shared: dict[object, Any] = {}  # what blocks far apart take, by who made it

    # -- what stays from pass to pass -----------------------------------------------------------
    @property
    def caches(self) -> list[Cache]:
        """The keys and values of each layer that has its own."""
        return list(self._caches.values())

    @property
    def rings(self) -> set[Ring]:
        """How much of a sequence its layers keep."""
        return {cache.ring for cache in self.caches} | ({STATE} if self.states else set())

    @property
    def slot_bytes(self) -> int:
        """What caches and states of a sequence take once it fills the context."""
        caches = sum(cache.slot_bytes for cache in self.caches)
        return caches + sum(state.n_bytes for state in self.states)

    def sequence_bytes(self, n_positions: int) -> int:
        """What caches and states of a sequence of so many positions take."""
        caches = sum(c.position_bytes * min(n_positions, c.ring.capacity) for c in self.caches)
        return caches + (sum(state.n_bytes for state in self.states) if n_positions else 0)

    @property
    def table_rows(self) -> list[Array]:
        """The first rows of each table of positions, by which one is told from another."""
        self.reach(2)
        return [table.array.data[:2] for table in self._tables.values()]

    @property
    def table_bytes(self) -> int:
        """What the tables of positions take once they are full."""
        return sum(table.array.n_bytes for table in self._tables.values())

    def allocate(self, n_slots: int) -> None:
        """Place caches and states for so many sequences, and tables: pages of them are taken when
        positions are filled. Raises MemoryError."""
        self.n_slots = n_slots
        for kept in self._kept():
            kept.place(n_slots)
        for table in self._tables.values():
            table.array.place()

    def copy(self, source: int, target: int, n: int) -> None:
        """Have slot `target` hold what slot `source` does of its first n positions."""
        for ours, theirs in zip(self.held(source, n), self.held(target, n), strict=True):
            theirs[...] = ours

    def held(self, slot: int, n: int) -> list[Array]:
        """What a slot holds of its first n positions: views, to read or to fill."""
        return [part for kept in self._kept() for part in kept.held(slot, n)]

    def release(self, slot: int, first: int = 0) -> None:
        """Give memory of a slot's positions from `first` on back to the system."""
        for kept in self._kept():
            kept.release(slot, first)

    def reach(self, n_positions: int) -> None:
        """Have what depends on positions ready for those below; before each pass of a program."""
        for table in self._tables.values():
            table.reach(n_positions)

    def _kept(self) -> list[Cache | State]:
        return [*self.caches, *self.states]

    # -- rows in, rows out ----------------------------------------------------------------------
    def embed(self, table: Matrix) -> Buffer:
        """The embeddings of this pass's tokens (n_tokens, n_embd)."""
        out = self.buffer("embedding", table.n_columns)
        self.program.step(
            "embed", PickRows(table.type),
            table=table.packed, rows=self.program.tokens, out=out, width=table.n_columns,
        )  # fmt: skip
        return out

    def outputs(self, x: Buffer) -> Buffer:
        """The rows of x whose logits are wanted (n_outputs, width)."""
        out = self.buffer("outputs", x.width, Rows.OUTPUTS)
        self.program.step(
            "outputs", PickRows(WEIGHT_TYPES["F32"]),
            table=x, rows=self.program.outputs, out=out, width=x.width,
        )  # fmt: skip
        return out

    def softmax_blocks(self, x: Buffer) -> tuple[Buffer, Buffer]:
        """The maxima of each row by blocks, and the sums of exponentials below them: see
        `SoftmaxBlocks`."""
        maxima, sums = (
            self.buffer(name, -(-x.width // BLOCK), x.rows) for name in ("maxima", "sums")
        )
        self.program.step("softmax", SoftmaxBlocks(), x=x, maxima=maxima, sums=sums, width=x.width)
        return maxima, sums

    # -- layers ---------------------------------------------------------------------------------
    def linear(self, x: Buffer, *matrices: Matrix) -> tuple[Buffer, ...]:
        """x @ matrix.T for each matrix; x is quantised once for all of them."""
        return tuple(self._linear(x, matrix) for matrix in matrices)

    def rms_norm(self, x: Buffer, weight: Floats, eps: float) -> Buffer:
        """Over runs of as many columns as `weight` has: a whole row, or each head."""
        out = self.buffer("norm", x.width, x.rows)
        self.program.step(
            "norm", RmsNorm(), x=x, weight=weight, out=out, width=weight.size, eps=eps
        )
        return out

    def layer_norm(self, x: Buffer, weight: Floats, bias: Floats, eps: float) -> Buffer:
        """Over runs of weight.shape[-1] columns, which take the rows of weight and bias in turn."""
        out = self.buffer("norm", x.width, x.rows)
        width = weight.shape[-1]
        self.program.step(
            "norm", LayerNorm(),
            x=x, weight=weight, bias=bias, out=out,
            width=width, n_weights=weight.size // width, eps=eps,
        )  # fmt: skip
        return out

    def rope(self, x: Buffer, angles: Tabulated, *, head_dim: int, adjacent: bool) -> Buffer:
        """Rotate the first 2 * n_pairs columns of every head by position, in place.

        `angles`: their cosines and sines (n_ctx, 2, n_pairs); `adjacent`: see `Rope`.
        """
        table = self._table(angles)
        self.program.step(
            "rope", Rope(adjacent),
            x=x, positions=self.program.positions, table=table,
            n_heads=x.width // head_dim, head_dim=head_dim, n_pairs=table.shape[2],
        )  # fmt: skip
        return x

    def state(self, *shape: int) -> State:
        """Numbers (n_slots, *shape) f32 that stay from pass to pass; zero at first."""
        self.states.append(State("state", shape, np.dtype(np.float32)))
        return self.states[-1]

    def cache(
        self, n_kv_heads: int, head_dim: int, *, window: int | None = None, owner: object = None
    ) -> Cache:
        """Room for the keys and values of one layer, in which a token sees `window` positions, or
        all before it. The same for the same owner, if there is one."""
        owner = owner or object()
        if owner not in self._caches:
            ring = Ring.of(window, n_ctx=self.n_ctx, n_batch=self.program.max_tokens)
            types = self.numerics.key_type, self.numerics.value_type
            self._caches[owner] = Cache.of(*types, ring, n_heads=n_kv_heads, head_dim=head_dim)
        return self._caches[owner]

    def _table(self, of: Tabulated) -> Persistent:
        """A row of numbers for each position; once for all that are equal."""
        if of not in self._tables:
            self._tables[of] = of.table(self.n_ctx)
        return self._tables[of].array

    def attend(
        self, q: Buffer, k: Buffer | None, v: Buffer | None, cache: Cache, *, scale: float,
        softcap: float = 0.0, sinks: Floats | None = None,
    ) -> Buffer:  # fmt: skip
        """Store k and v, if given, then softmax(scale * q @ keys) @ values for a token's own past.

        `softcap`: scores stay within it, if not 0; `sinks`: (n_heads,) scores of nothing. See
        `Attend`.
        """
        n_kv_heads, capacity, head_dim = cache.n_heads, cache.ring.capacity, cache.head_dim
        place = {"slots": self.program.slots, "positions": self.program.positions}
        stores = (
            (StoreKeys(cache.key_type), k, cache.keys),
            (StoreValues(cache.value_type), v, cache.values),
        )
        for op, x, array in stores:
            if x is None:
                continue
            self.program.step(
                "store", op,
                x=x, cache=array, n_heads=n_kv_heads, capacity=capacity, head_dim=head_dim, **place,
            )  # fmt: skip
        out = self.buffer("attention", q.width)
        group = q.width // head_dim // n_kv_heads
        whole = Attend(cache.key_type, cache.value_type, head_dim, group, capped=softcap != 0)
        masks: dict[str, Argument] = {
            "sinks": np.full(n_kv_heads * group, -np.inf, np.float32) if sinks is None else sinks,
            "window": cache.ring.window,
        }
        arguments: dict[str, Argument] = {
            "q": q, "keys": cache.keys, "values": cache.values, "out": out, **place, **masks,
            "n_kv_heads": n_kv_heads, "capacity": capacity, "scale": scale, "softcap": softcap,
        }  # fmt: skip
        n = n_splits(n_kv_heads)
        if n == 1:
            self.program.step("attend", whole, **arguments)
            return out
        parts = self.program.buffer(
            "parts", n_kv_heads * n * part_floats(head_dim, group), most_rows=MOST_FEW_ROWS
        )
        self.program.step("attend", SplitAttend.of(whole, n), parts=parts, **arguments)
        self.program.step(
            "join", JoinSplits(head_dim, group, n),
            parts=parts, positions=self.program.positions, out=out, n_kv_heads=n_kv_heads, **masks,
        )  # fmt: skip
        return out

    # -- numbers one by one ---------------------------------------------------------------------
    def combine(self, op: Elementwise, x: Buffer, y: Buffer) -> Buffer:
        """op(x, y): a gate and what it lets through, for example."""
        return self._elementwise(op.symbol, op, x, y)

    def apply(self, op: Unary, x: Buffer) -> Buffer:
        """op(x)"""
        out = self.buffer(op.symbol, x.width, x.rows)
        self.program.step(op.symbol, op, x=x, out=out, width=x.width)
        return out

    def columns(self, x: Buffer, start: int, width: int, *, every: int) -> Buffer:
        """`width` columns of every so many, from the one of number `start` on."""
        n_parts = x.width // every
        out = self.buffer("columns", n_parts * width, x.rows)
        self.program.step(
            "columns", PickColumns(),
            x=x, out=out, start=start, width=width, stride=every, n_parts=n_parts,
        )  # fmt: skip
        return out

    def join(self, x: Buffer, y: Buffer, *, n_parts: int) -> Buffer:
        """x and y (rows, n_parts, ...) side by side in every part."""
        out = self.buffer("joined", x.width + y.width, x.rows)
        self.program.step(
            "join", JoinColumns(),
            x=x, y=y, out=out, n_x=x.width // n_parts, n_y=y.width // n_parts, n_parts=n_parts,
        )  # fmt: skip
        return out

    def add(self, x: Buffer, y: Buffer) -> Buffer:
        return self._elementwise("add", Add(), x, y)

    def scale(self, x: Buffer, factor: float) -> Buffer:
        return x if factor == 1.0 else self._elementwise("scale", Scale(), x, factor)

    def scale_rows(self, x: Buffer, factors: Buffer) -> Buffer:
        """Each row of x times its factor; factors: (rows, 1)."""
        out = self.buffer("scale", x.width, x.rows)
        self.program.step("scale", ScaleRows(), x=x, y=factors, out=out, width=x.width)
        return out

    def scale_by_position(self, x: Buffer, factors: Tabulated) -> Buffer:
        """Each row of x times the factor of its token's position; `factors`: (n_ctx,)."""
        out = self.buffer("scale", x.width, x.rows)
        self.program.step(
            "scale", ScaleByPosition(),
            x=x, y=self._table(factors), positions=self.program.positions, out=out,
            width=x.width,
        )  # fmt: skip
        return out

    def softcap(self, x: Buffer, cap: float) -> Buffer:
        """cap * tanh(x / cap), or x where cap is 0."""
        return self._elementwise("softcap", SoftCap(), x, cap) if cap else x

    # -- how ------------------------------------------------------------------------------------
    def buffer(self, name: str, width: int, rows: Rows = Rows.TOKENS) -> Buffer:
        return self.program.buffer(name, width, rows=rows)

    def _elementwise(
        self, name: str, op: Elementwise, x: Buffer, y: Buffer | Floats | float
    ) -> Buffer:
        out = self.buffer(name, x.width, x.rows)
        self.program.step(name, op, x=x, y=y, out=out, width=x.width)
        return out

    def _linear(self, x: Buffer, matrix: Matrix) -> Buffer:
        out = self.buffer(matrix.name, matrix.n_out, x.rows)
        op = Linear.of(matrix.type, activations=self.numerics.activations)
        self.product(
            matrix.name, op, x,
            weights=matrix.packed, out=out, n_columns=matrix.n_columns, n_out=matrix.n_out,
        )  # fmt: skip
        if matrix.scale is not None:
            out = self.scale(out, float(matrix.scale))
        if matrix.bias is not None:
            out = self._elementwise("bias", AddRow(), out, matrix.bias)
        return out

    def product(self, name: str, op: Product, x: Buffer, **arguments: Argument) -> None:
        """A step with packed weights and what it takes of x: x itself, or x packed."""
        if op.packing is not None:
            x = self._pack(x, op.packing, int(arguments["n_columns"]))  # type: ignore[arg-type]
        self.program.step(name, op, x=x, **arguments)

    def _pack(self, x: Buffer, packing: Op, n_columns: int) -> Buffer:
        """x packed in rows of so many columns; once for every product that takes it."""
        key = x, packing, n_columns
        if key not in self._packed:
            n_bytes = x.width // n_columns * packed_bytes(n_columns)
            packed = self.program.buffer("packed", n_bytes, rows=x.rows, dtype=np.uint8)
            self.program.step("pack", packing, x=x, out=packed, width=n_columns)
            self._packed[key] = packed
        return self._packed[key]
