"""`linnet dump`: the code of one kernel, for any instruction set that LLVM can emit here."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from linnet.engine.cli.counts import count
from linnet.kernels import ops, products
from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import STAGES, Compiler
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.ops.base import MOST_FEW_ROWS, Op
from linnet.kernels.ops.cache_types import CACHE_TYPES, CacheType
from linnet.kernels.ops.peak import Peak, PeakTiles
from linnet.kernels.products.linear import Pack
from linnet.kernels.products.matmul import FloatMatMul, Gemm, MatMul
from linnet.kernels.products.matvec import Gemv
from linnet.kernels.products.tilemul import TileMatMul
from linnet.kernels.quants import WEIGHT_TYPES, WeightType, weight_type

IN_PART = (Gemm, Gemv, Peak, Pack)  # what kernels have in common, without code of their own
OURS = f"{ops.__name__}.", f"{products.__name__}."
IN_TILES = (TileMatMul, PeakTiles)
# Numbers that a kernel is made for: as in a Llama of 1B shapes, and the most there may be.
NUMBERS = {
    "n_rows": (1, MOST_FEW_ROWS), "n_columns": (2048, 1 << 20), "head_dim": (64, 512),
    "group": (4, 64), "n_together": (1, 64), "n_splits": (8, 64), "n_per_head": (1, 64),
    "size": (3, 16), "largest": (15, 255),
}  # fmt: skip
BOOLS = {"true": True, "false": False}
GEMMS = {"matmul": MatMul, "floatmatmul": FloatMatMul}
SCORES = ("softmax", "sigmoid")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("kernel", metavar="KERNEL", help="one of those below")
    add("values", nargs="*", metavar="VALUE", help="what it is made for, in order or as NAME=VALUE")
    add(
        "--isa", choices=[isa.name for isa in ISAS],
        help="instruction set, which this CPU need not have; default: the fastest it has",
    )  # fmt: skip
    add(
        "--emit", choices=list(STAGES), default="asm",
        help="IR as it is written, IR that LLVM has optimised, or assembly; default asm",
    )  # fmt: skip
    lines = [_usage(name, of) for name, of in kernels().items()]
    parser.epilog = "\n  ".join(["kernels, and what they are made for:", *lines])
    parser.epilog += f"\n\ntypes of weights:\n  {', '.join(WEIGHT_TYPES)}"
    parser.epilog += f"\n\ntypes of caches:\n  {', '.join(CACHE_TYPES)}"


def run(arguments: argparse.Namespace) -> int:
    """The code on stdout."""
    isa = next((isa for isa in ISAS if isa.name == arguments.isa), None) or choose_isa()
    op = kernel(arguments.kernel, arguments.values, isa)
    print(Compiler(isa).text(op, arguments.emit))
    return 0


def kernels() -> dict[str, type[Op]]:
    """Every kernel by the word that its symbol begins with."""
    for package in (ops, products):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found = {
        of.__name__.lower(): of
        for of in _subclasses(Op)
        if of.__module__.startswith(OURS)
        and "__dataclass_fields__" in vars(of)
        and of.emit is not Op.emit
        and of not in IN_PART
    }
    return dict(sorted(found.items()))


def kernel(name: str, values: Sequence[str], isa: ISA) -> Op:
    """The kernel of that name, made for `values`: in the order of its fields, or NAME=VALUE.

    Raises ValueError for what there is not, or is out of its range.
    """
    of = kernels().get(name.lower())
    if of is None:
        raise ValueError(f"kernel {name!r} is unknown; known: {', '.join(kernels())}")
    if issubclass(of, IN_TILES) and isa.tiles is None:
        raise ValueError(f"{name} needs matrix registers, which {isa.name} lacks: --isa amx")
    hints, defaults, given = get_type_hints(of), _defaults(of), dict[str, str]()
    names = list(defaults)
    for i, value in enumerate(values):
        field, equals, text = value.partition("=")
        if not equals:
            field, text = names[i] if i < len(names) else "", value
        if field not in names or field in given:
            raise ValueError(f"{value!r} has no place; usage: {_usage(name.lower(), of)}")
        given[field] = text
    made: dict[str, Any] = {}
    for field, default in defaults.items():
        text = given.get(field) or default
        if not text:
            raise ValueError(f"{name} needs a {field}: {', '.join(WEIGHT_TYPES)}")
        made[field] = _value(field, text, hints[field], made)
    return of(**made)


def _value(name: str, text: str, of: Any, made: dict[str, Any]) -> Any:
    """What the text of a field of class `of` stands for; `made`: the fields before it."""
    if issubclass(of, WeightType):
        type = weight_type(text)
        if not isinstance(type, of):
            floats = ", ".join(name for name in kernels() if name.startswith("float"))
            raise ValueError(f"{name} is {text}, whose weights are not packed; see {floats}")
        return type
    if issubclass(of, Gemm):
        return GEMMS[_one_of(name, text, GEMMS)](made["type"])
    if issubclass(of, CacheType):
        return CACHE_TYPES[_one_of(name, text, CACHE_TYPES)]
    if of is bool:
        return BOOLS[_one_of(name, text, BOOLS)]
    if of is str:
        return _one_of(name, text, SCORES)
    try:
        return count(1, NUMBERS[name][1])(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name}: {error}") from None


def _one_of(name: str, text: str, known: Iterable[str]) -> str:
    if text.lower() not in known:
        raise ValueError(f"{name} is {text!r}; it must be one of {', '.join(known)}")
    return text.lower()


def _defaults(of: type[Op]) -> dict[str, str]:
    """What each field is where nothing is said; "" for one that has to be."""
    hints, defaults = get_type_hints(of), dict[str, str]()
    for field in fields(of):  # type: ignore[arg-type]
        hint: Any = hints[field.name]
        if hint is int:
            defaults[field.name] = str(NUMBERS[field.name][0])
        elif hint is bool:
            defaults[field.name] = "false"
        else:
            words = {Gemm: "matmul", CacheType: "f16", str: SCORES[0]}
            defaults[field.name] = words.get(hint, "")
    return defaults


def _usage(name: str, of: type[Op]) -> str:
    """A kernel and its fields, with what they are by default."""
    named = (f"{f}={default}" if default else f.upper() for f, default in _defaults(of).items())
    return " ".join([name, *named])


def _subclasses(of: type[Any]) -> list[type[Any]]:
    return [c for sub in of.__subclasses__() for c in (sub, *_subclasses(sub))]
