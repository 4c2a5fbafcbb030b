"""Random calls of kernels, made in guarded memory and held against numpy."""

from __future__ import annotations

import ctypes
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.bandwidth import ReadBytes
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.elementwise import Add, Multiply, Scale, ScaleByPosition, ScaleRows
from linnet.kernels.ops.kv_cache import StoreValues
from linnet.kernels.ops.norm import LayerNorm, RmsNorm
from linnet.kernels.ops.recurrent import DeltaNet
from linnet.kernels.ops.rope import Rope
from linnet.kernels.ops.routing import GroupByExpert, PerExpert, TopExperts
from linnet.kernels.ops.rows import JoinColumns, PickColumns, PickRows
from linnet.kernels.ops.softmax import MaskBlocks, SoftmaxBlocks
from linnet.kernels.products.activations import Quantize
from linnet.kernels.products.experts import ExpertLinear, FloatExpertLinear
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.products.tilemul import RoundToBF16
from linnet.kernels.quants import WEIGHT_TYPES
from support.guarded_memory import Stretch
from support.kernel_harness import argument_slots
from support.random_attention import OF_ATTENTION
from support.random_blocks import BLOCKS
from support.random_cases import Case
from support.random_products import OF_ACTIVATIONS, OF_TYPES

STRETCH = 1 << 20  # bytes
Native = Callable[[int, int, int, int], None]


# Ops whose bits are the same everywhere: they multiply and add in turn, or not at all.
UNFUSED: tuple[type[Op], ...] = (
    Quantize, RoundToBF16, PickRows, PickColumns, JoinColumns, StoreValues, Rope, Add, Multiply,
    Scale, ScaleRows, ScaleByPosition, PerExpert, GroupByExpert, ReadBytes,
)  # fmt: skip
# Ops with sums across the lanes of a vector, whose order depends on how many there are.
ACROSS: tuple[type[Op], ...] = (
    FloatMatVec, FloatExpertLinear, RmsNorm, LayerNorm, SoftmaxBlocks, MaskBlocks, TopExperts,
    DeltaNet,
)  # fmt: skip


def alike(op: Op, isa: ISA) -> Hashable:
    """What instruction sets have in common on which an op gives the same bits."""
    if isinstance(op, UNFUSED):
        return "all"
    fused = "fused" if isa.fused else "not fused"
    lanes = isa.bits if isinstance(op, ACROSS) else 0
    if not isinstance(op, (MatVec, ExpertLinear)):
        return fused, lanes
    # Where weights stay where they are in their bytes, scales stand for less, and may be too small
    # for all their bits; where they have signs, no sums of activations are taken from products.
    return fused, lanes, isa.dots_bytes, isa.signed_weights and op.type.on(isa) is not op.type


def make_case(seed: int, number: int, types: Sequence[str]) -> Case:
    """The case of that number: half of them products and rows of weights of a type."""
    rng = np.random.default_rng([seed, number])
    with np.errstate(all="ignore"):
        if rng.random() < 0.5:
            made = OF_TYPES[str(rng.choice(["product", "product", "product", "rows", "experts"]))]
            return made(rng, WEIGHT_TYPES[str(rng.choice(types))])
        others = OF_ACTIVATIONS | OF_ATTENTION | BLOCKS
        return others[str(rng.choice(list(others)))](rng)


class Caller:
    """Calls cases' kernels on some instruction sets; `counts`: calls by (kernel, set)."""

    def __init__(self, isas: Sequence[str | ISA]) -> None:
        """`isas`: names of this CPU's, or others."""
        self.counts: Counter[tuple[str, str]] = Counter()
        chosen = [choose_isa(isa) if isinstance(isa, str) else isa for isa in isas]
        self._libraries = {isa.name: Library(isa) for isa in chosen}
        self._natives: dict[tuple[str, str], Native] = {}
        self._stretches: dict[tuple[str, bool], Stretch] = {}

    def call(
        self, case: Case, seed: int, number: int, tell: Callable[[str], None] = lambda _: None
    ) -> Iterator[str]:
        """Call a case's kernel twice on every set: arrays at other places each time, and the
        second time in pieces. Yields what is wrong. `tell` hears of each call before it is made."""
        rng = np.random.default_rng([seed, number, 1])
        with np.errstate(all="ignore"):
            written, kin = case.op.writes, dict[Hashable, set[bytes]]()
            for isa, library in self._libraries.items():
                results = set()
                for in_pieces in (False, True):
                    what = f"{case.op.symbol} on {isa}{' in pieces' if in_pieces else ''}"
                    tell(what)
                    addresses = self._put(case, rng)
                    self._run(library, case, addresses, rng, in_pieces)
                    out = {n: self._stretch(n, True).array(_like(case, n), _shape(case, n))
                           for n in written}  # fmt: skip
                    spoiled = [n for n in (*written, "scratch") if self._stretch(n, True).spoiled()]
                    if spoiled:
                        yield f"{what}: written beside {', '.join(spoiled)}"
                    wrong = case.check(out)
                    if wrong:
                        yield f"{what}: {wrong}"
                    results.add(case.bits(out))
                if len(results) > 1:
                    yield f"{case.op.symbol} on {isa}: bits depend on places or pieces"
                kin.setdefault(alike(case.op, library.isa), set()).update(results)
            for key, alike_results in kin.items():
                if len(alike_results) > 1:
                    yield f"{case.op.symbol}: instruction sets that are alike, {key}, differ"

    def _put(self, case: Case, rng: np.random.Generator) -> dict[str, Any]:
        """Arguments with arrays' addresses, each against a guard page or a few bytes off one."""
        arguments = dict(case.arguments)
        if "n_rows" in case.op.parameters:
            arguments["n_rows"] = np.array([case.n_rows])
        bits = rng.integers(0, 1 << 16, len(arguments)).tolist()
        for (name, type), random in zip(case.op.parameters.items(), bits, strict=True):
            if type != pointer:
                continue
            array, written = arguments[name], name in case.op.writes
            if name in case.blank:
                array = np.full(array.nbytes, (0xFF, 0xA5, 0)[random % 3], np.uint8)
            step = 1 if arguments[name].dtype == np.uint8 else arguments[name].itemsize
            shift = 0 if random & 8 else (random >> 4) % 64 * step
            stretch = self._stretch(name, written)
            arguments[name] = _At(stretch.put(array, at_end=bool(random & 4), shift=shift))
        return arguments

    def _run(
        self, library: Library, case: Case, arguments: dict[str, Any], rng: np.random.Generator,
        in_pieces: bool,
    ) -> None:  # fmt: skip
        op, isa = case.op, library.isa.name
        sizes = {
            n: a.shape[-1] if isinstance(a, np.ndarray) else a for n, a in case.arguments.items()
        }
        count, rows = op.items(library.isa, **sizes)
        n_items = count * -(-case.n_rows // rows)
        scratch = self._stretch("scratch", True)
        n_bytes = op.scratch_bytes(library.isa, case.n_rows)
        at_end = bool(rng.integers(4))
        address = scratch.put(np.full(n_bytes, 0xFF, np.uint8), at_end=at_end)
        native, slots = self._native(library, op), argument_slots(op, arguments)
        cuts = [0, n_items]
        if in_pieces and n_items > 1:
            cuts[1:1] = sorted(rng.integers(0, n_items + 1, 2).tolist())
        for first, last in itertools.pairwise(cuts):
            native(slots.ctypes.data, first, last, address)
        self.counts[type(op).__name__, isa] += len(cuts) - 1

    def _native(self, library: Library, op: Op) -> Native:
        key = op.symbol, library.isa.name
        if key not in self._natives:
            signature = ctypes.CFUNCTYPE(
                None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
            )
            self._natives[key] = signature(library.address(op))
        return self._natives[key]

    def _stretch(self, name: str, written: bool) -> Stretch:
        if (name, written) not in self._stretches:
            self._stretches[name, written] = Stretch(STRETCH, read_only=not written)
        return self._stretches[name, written]


class _At:
    """An address in place of an array, for `argument_slots`."""

    def __init__(self, address: int) -> None:
        self.data = address

    @property
    def ctypes(self) -> _At:
        return self


def _like(case: Case, name: str) -> Any:
    return case.arguments[name].dtype


def _shape(case: Case, name: str) -> tuple[int, ...]:
    shape: tuple[int, ...] = case.arguments[name].shape
    return shape
