"""Random calls of all other kernels: norms, rotations, functions, experts, states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from linnet.kernels.ops import elementwise as each
from linnet.kernels.ops.bandwidth import BLOCK, ReadBytes
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.norm import LayerNorm, RmsNorm
from linnet.kernels.ops.recurrent import Decay, DeltaNet, ShortConvolution
from linnet.kernels.ops.rope import Rope, rope_table
from linnet.kernels.ops.routing import (
    SMALLEST_SUM,
    GroupByExpert,
    PerExpert,
    SumExperts,
    TopExperts,
)
from linnet.kernels.ops.rows import JoinColumns, PickColumns
from linnet.kernels.ops.softmax import BLOCK as SOFTMAX_BLOCK
from linnet.kernels.ops.softmax import MaskBlocks, SoftmaxBlocks
from support.guarded_memory import Array
from support.random_cases import (
    LARGEST,
    UNIT,
    Case,
    all_of,
    blank,
    close,
    exact,
    f64,
    numbers,
    tolerance,
)

SIDE = 5e17  # the sum of squares of a row of larger numbers leaves the range of f32
Random = np.random.Generator


# ---- rows ----------------------------------------------------------------------------------------


def norm(rng: Random) -> Case:
    """Where squares overflow, a row may be NaN; where an input is not finite, it has to be."""
    n, width, n_weights = (int(rng.integers(1, end)) for end in (4, 300, 3))
    x = numbers(rng, n, n_weights * width)
    weight = numbers(rng, n_weights, width, kind="normal")
    eps = float(rng.choice([1e-6, 1e-5, 1e-3]))
    heads = f64(x).reshape(-1, width)
    units, out = 8 + width / 8, blank(*x.shape)
    arguments: dict[str, Any] = {"x": x, "out": out, "width": width, "eps": eps}
    if rng.random() < 0.5:
        scale = 1 / np.sqrt((heads**2).mean(-1, keepdims=True) + np.float32(eps))
        truth = heads * scale * weight[0]
        size, op = np.abs(truth), RmsNorm()
        arguments |= {"weight": weight[0].copy()}
    else:
        bias = numbers(rng, n_weights, width, kind="normal")
        op = LayerNorm()
        scale = 1 / np.sqrt(heads.var(-1, keepdims=True) + np.float32(eps))
        turn = np.resize(np.arange(n_weights), len(heads))
        truth = (heads - heads.mean(-1, keepdims=True)) * scale * weight[turn] + bias[turn]
        # A mean is as exact as the largest number, and so is the deviation that divides.
        largest = np.abs(heads).max(-1, keepdims=True)
        doubt = np.minimum(units * UNIT * largest * scale, 1)
        size = (largest * scale + np.abs(heads) * scale * doubt * 2) * np.abs(weight[turn])
        size = size + np.abs(bias[turn])
        arguments |= {"weight": weight, "bias": bias, "n_weights": n_weights}
        units *= 4
    truth[~np.isfinite(heads).all(-1)] = np.nan
    may_be_lost = (np.abs(heads) > SIDE).any(-1, keepdims=True)

    def check(written: dict[str, Array]) -> str:
        lost = may_be_lost & np.isnan(written["out"].reshape(truth.shape))
        return close(np.where(lost, np.nan, truth), tolerance(size, units))(written)

    return Case(op, n, arguments, check)


def rope(rng: Random) -> Case:
    adjacent, n = bool(rng.integers(2)), int(rng.integers(1, 4))
    n_pairs, n_heads = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    head_dim = 2 * n_pairs + int(rng.integers(0, 3)) * int(rng.integers(0, 9))
    table = rope_table(8, rng.random(n_pairs) * 2)
    x, positions = numbers(rng, n, n_heads * head_dim), rng.integers(0, 8, n).astype(np.int32)
    sizes = {"n_heads": n_heads, "head_dim": head_dim, "n_pairs": n_pairs}
    truth = f64(x).reshape(n, n_heads, head_dim)
    Rope(adjacent).reference(x=truth, positions=positions, table=table, **sizes)
    size = np.abs(f64(x)).reshape(n, n_heads, head_dim)
    flipped = np.abs(table)
    flipped[:, 1] *= -1  # so that nothing is taken off in the first of a pair
    first = size.copy()
    Rope(adjacent).reference(x=first, positions=positions, table=flipped, **sizes)
    Rope(adjacent).reference(x=size, positions=positions, table=np.abs(table), **sizes)
    within = tolerance(np.maximum(np.abs(first), np.abs(size)), 4)
    arguments = {"x": x, "positions": positions, "table": table, **sizes}
    return Case(Rope(adjacent), n, arguments, close(truth, within, "x"), frozenset())


def columns(rng: Random) -> Case:
    n, n_parts = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    n_x, n_y = int(rng.integers(1, 80)), int(rng.integers(1, 80))
    x, y = numbers(rng, n, n_parts * n_x, kind="any"), numbers(rng, n, n_parts * n_y, kind="any")
    if rng.random() < 0.5:
        op: Op = JoinColumns()
        arguments = {"x": x, "y": y, "n_x": n_x, "n_y": n_y, "n_parts": n_parts}
        out = blank(n, n_parts * (n_x + n_y))
    else:
        op, start = PickColumns(), int(rng.integers(0, n_x))
        width = int(rng.integers(1, n_x - start + 1))
        arguments = {"x": x, "start": start, "width": width, "stride": n_x, "n_parts": n_parts}
        out = blank(n, n_parts * width)
    op.reference(**arguments, out=out)
    return Case(op, n, {**arguments, "out": out.copy()}, exact(out))


def softmax(rng: Random) -> Case:
    """A sum has terms from 0 to 1; those of numbers far below the maximum lose the digits of it."""
    n, width = int(rng.integers(1, 4)), int(rng.integers(1, 3 * SOFTMAX_BLOCK))
    x, shape = numbers(rng, n, width), (n, -(-width // SOFTMAX_BLOCK))
    maxima, sums = np.zeros((2, *shape))
    SoftmaxBlocks().reference(x=x, maxima=maxima, sums=sums, width=width)
    lost = np.isnan(sums)  # and then a maximum may be anything
    within = all_of(
        close(np.where(lost, 0, maxima), np.where(lost, np.inf, 0), "maxima"),
        close(sums, tolerance(np.abs(sums), 100), "sums"),
    )
    arguments = {"x": x, "maxima": blank(*shape), "sums": blank(*shape), "width": width}
    blanks = frozenset({"maxima", "sums"})
    return Case(SoftmaxBlocks(), n, arguments, within, blanks)


def masked_softmax(rng: Random) -> Case:
    n, width = int(rng.integers(1, 4)), int(rng.integers(1, 3 * SOFTMAX_BLOCK))
    x, shape = np.nan_to_num(numbers(rng, n, width)), (n, -(-width // SOFTMAX_BLOCK))
    mask = rng.integers(0, 1 << 32, (n, -(-width // 32)), np.uint32)
    mask[rng.random(mask.shape) < 0.3] = 0
    out, (maxima, sums) = np.zeros((n, width)), np.zeros((2, *shape))
    MaskBlocks().reference(x=x, mask=mask, out=out, maxima=maxima, sums=sums, width=width)
    within = all_of(
        close(out, np.zeros_like(out), "out"),
        close(maxima, np.zeros_like(maxima), "maxima"),
        close(sums, tolerance(np.abs(sums), 100), "sums"),
    )
    blanks = {"out": blank(n, width), "maxima": blank(*shape), "sums": blank(*shape)}
    arguments = {"x": x, "mask": mask, **blanks, "width": width}
    return Case(MaskBlocks(), n, arguments, within, frozenset(blanks))


def reading(rng: Random) -> Case:
    n = int(rng.integers(1, 3 * BLOCK // 2))
    data, out = rng.integers(0, 256, n, np.uint8), np.zeros(-(-n // BLOCK), np.uint64)
    ReadBytes().reference(data=data, out=out, n_bytes=n)
    arguments = {"data": data, "out": out.copy(), "n_bytes": n}
    return Case(ReadBytes(), 1, arguments, exact(out))


# ---- numbers one by one --------------------------------------------------------------------------

# exp is held to 2 units; below e^-87 functions are 0, as far as f32 can tell: 1.2e-38, times 87.
FUNCTIONS: tuple[Op, ...] = (
    each.SiluMultiply(), each.GeluMultiply(), each.Gelu(), each.Silu(), each.Sigmoid(),
    each.SigmoidMultiply(), each.ClampedSwiGlu(),
)  # fmt: skip
SUMS: tuple[Op, ...] = (each.Add(), each.AddRow(), each.Multiply(), each.Scale(), each.SoftCap(),
                        each.ScaleRows(), each.ScaleByPosition())  # fmt: skip


def elementwise(rng: Random) -> Case:
    n, width = int(rng.integers(1, 4)), int(rng.choice([rng.integers(1, 70), rng.integers(1, 600)]))
    x, y = numbers(rng, n, width), numbers(rng, n, width)
    if rng.random() < 0.3:  # where functions bend
        x = (rng.standard_normal((n, width)) * rng.choice([1, 30, 90])).astype(np.float32)
    op = (FUNCTIONS if rng.random() < 0.5 else SUMS)[int(rng.integers(7))]
    arguments: dict[str, Any] = {"x": x, "width": width}
    wide = {"x": f64(x), "width": width}
    if op == each.ScaleByPosition():
        positions = rng.integers(0, 5, n).astype(np.int32)
        arguments["positions"] = wide["positions"] = positions
        y = numbers(rng, 5)
    elif op == each.ScaleRows():
        y = numbers(rng, n)
    elif op == each.AddRow():
        y = y[0].copy()
    if op in (each.Scale(), each.SoftCap()):
        number = float(np.float32(np.exp(rng.standard_normal() * 3)))
        arguments["y"] = wide["y"] = number
        by: Any = number
    elif "y" in op.parameters:
        arguments["y"], wide["y"], by = y, f64(y), f64(y)
    else:
        by = 1.0
    truth = np.empty(x.shape)
    op.reference(**wide, out=truth)
    size, floor = np.abs(truth), np.float64(1e-44)
    if op in FUNCTIONS:
        floor = 2e-36 * np.maximum(np.abs(by), 1)
        if op == each.ClampedSwiGlu():
            floor = 1e-34
    elif isinstance(op, each.Add):
        size = np.abs(f64(x)) + np.abs(by)
    if isinstance(op, each.GeluMultiply | each.Gelu):  # of a power that is off, e to it is
        size = size * (1 + np.minimum(np.abs(f64(x)) + np.abs(f64(x)) ** 3, 90) / 3)
    elif op == each.ClampedSwiGlu():
        size = size * (1 + np.minimum(np.abs(f64(x)), 90) / 3)
    within = tolerance(size, 12 if op in FUNCTIONS or op == each.SoftCap() else 2) + floor
    if op in FUNCTIONS:  # parts of the function overflow before it does
        within = np.where((np.abs(f64(x)) * np.maximum(np.abs(by), 1) < LARGEST), within, np.inf)
    return Case(op, n, {**arguments, "out": blank(n, width)}, close(truth, within))


# ---- experts -------------------------------------------------------------------------------------


def choosing(rng: Random) -> Case:
    n, n_experts = int(rng.integers(1, 4)), int(rng.integers(1, rng.choice([9, 70])))
    n_used = int(rng.integers(1, min(n_experts, 8) + 1))
    op = TopExperts(str(rng.choice(["softmax", "sigmoid"])), bool(rng.integers(2)))
    logits = numbers(rng, n, n_experts, kind=str(rng.choice(["normal", "steps", "holes", "mixed"])))
    bias = numbers(rng, n_experts, kind=str(rng.choice(["normal", "zeros"])))
    scale = float(np.float32(np.exp(rng.standard_normal())))
    arguments = {"logits": logits, "bias": bias, "n_experts": n_experts, "n_used": n_used}
    x = f64(logits)
    if op.scores == "sigmoid":
        scores = 1 / (1 + np.exp(-x))
    else:
        scores = np.exp(x - x.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    good = np.isfinite(x).all(axis=1)

    def check(written: dict[str, Array]) -> str:
        chosen, weights = written["experts"], written["weights"]
        if ((chosen < 0) | (chosen >= n_experts)).any():
            return f"experts {chosen.tolist()} of {n_experts}"
        ranks = (scores + bias)[good]
        own, of = chosen[good], scores[good]
        if any(len(set(row)) < n_used for row in own.tolist()):
            return f"an expert is chosen twice: {own.tolist()}"
        got = np.take_along_axis(ranks, own, 1)
        for row, of_row in zip(own.tolist(), logits[good], strict=True):
            for place, one in enumerate(row):
                equals = (of_row[:one] == of_row[one]) & (bias[:one] == bias[one])
                if not set(np.flatnonzero(equals).tolist()) <= set(row[:place]):
                    return f"of equals expert {one} comes before the first: {row}"
        best = -np.sort(-ranks, axis=1)[:, :n_used]
        if not np.allclose(got, best, rtol=1e-5, atol=1e-6):
            return f"experts of rank {got.tolist()}, not {best.tolist()}"
        truth = np.take_along_axis(of, own, 1)
        if op.normalised:
            truth = truth / np.maximum(truth.sum(axis=1, keepdims=True), SMALLEST_SUM)
        if not np.allclose(weights[good], truth * scale, rtol=3e-5, atol=1e-33):
            return f"weights {weights[good].tolist()}, not {(truth * scale).tolist()}"
        return ""

    chosen = {"experts": blank(n, n_used, dtype=np.int32), "weights": blank(n, n_used)}
    return Case(op, n, {**arguments, **chosen, "scale": scale}, check, frozenset(chosen))


def grouping(rng: Random) -> Case:
    n, n_used, n_experts = (int(rng.integers(1, end)) for end in (20, 5, 40))
    experts = rng.integers(0, n_experts, (n, n_used)).astype(np.int32)
    sizes = {"experts": experts, "n_used": n_used, "n_experts": n_experts}
    order, starts = blank(n, n_used, dtype=np.int32), blank(n_experts + 1, dtype=np.int64)
    GroupByExpert().reference(**sizes, order=order, starts=starts)
    arguments = {**sizes, "order": order.copy(), "starts": starts.copy()}
    checks = all_of(exact(order, "order"), exact(starts, "starts"))
    return Case(GroupByExpert(), n, arguments, checks, frozenset({"order", "starts"}))


def of_experts(rng: Random) -> Case:
    n, n_used, n_experts, width = (int(rng.integers(1, end)) for end in (4, 5, 5, 80))
    x = numbers(rng, n, n_used * width)
    wide = f64(x).reshape(n, n_used, width)
    if rng.random() < 0.5:
        by = numbers(rng, n, n_used)
        truth = (wide * by[..., None]).sum(axis=1)
        size = np.abs(wide * by[..., None]).sum(axis=1)
        arguments = {"x": x, "weights": by, "n_used": n_used, "width": width}
        out, check = blank(n, width), close(truth, tolerance(size, n_used + 2))
        return Case(SumExperts(), n, {**arguments, "out": out}, check)
    experts = rng.integers(0, n_experts, (n, n_used)).astype(np.int32)
    scales, biases = numbers(rng, n_experts), numbers(rng, n_experts, width)
    terms = wide * scales[experts, None], f64(biases[experts])
    arguments = {"x": x, "experts": experts, "scales": scales, "biases": biases}
    arguments |= {"n_used": n_used, "width": width, "out": blank(*x.shape)}
    size = np.abs(terms[0]) + np.abs(terms[1])
    return Case(PerExpert(), n, arguments, close(terms[0] + terms[1], tolerance(size, 3)))


# ---- states --------------------------------------------------------------------------------------


def places(rng: Random, n: int, n_slots: int) -> dict[str, Array]:
    """Tokens of sequences in order of position, which begin anywhere; some at 0."""
    slots = rng.integers(0, n_slots, n).astype(np.int32)
    begin = rng.integers(0, 3, n_slots)
    positions = [begin[slot] + np.count_nonzero(slots[:i] == slot) for i, slot in enumerate(slots)]
    return {"slots": slots, "positions": np.int32(positions)}


def convolution(rng: Random) -> Case:
    """The state before position 0 is taken to be zero, whatever lies there."""
    size, n, width = int(rng.choice([2, 4])), int(rng.integers(1, 5)), int(rng.integers(1, 150))
    where = places(rng, n, 2)
    x, kernel = numbers(rng, n, width), numbers(rng, size, width, kind="normal")
    state = numbers(rng, 2, size - 1, width)
    for slot in (0, 1):  # only what came before is there
        begin = where["positions"][where["slots"] == slot]
        if begin.size:
            state[slot, : max(0, size - 1 - int(begin[0]))] = 0
    arguments = {"x": x, "kernel": kernel, **where, "width": width}
    truth, after = blank(n, width, dtype=np.float64), f64(state)
    ShortConvolution(size).reference(**arguments, state=after, out=truth)
    sizes, old = blank(n, width, dtype=np.float64), np.abs(f64(state))
    wide = {"x": np.abs(x), "kernel": np.abs(kernel)}
    ShortConvolution(size).reference(**arguments | wide, state=old, out=sizes)
    check = all_of(close(truth, tolerance(sizes, 8)), exact(after.astype(np.float32), "state"))
    arguments |= {"state": state, "out": blank(n, width)}
    return Case(ShortConvolution(size), n, arguments, check)


def decay(rng: Random) -> Case:
    n, width = int(rng.integers(1, 4)), int(rng.integers(1, 80))
    x, bias = numbers(rng, n, width), numbers(rng, width, kind="normal")
    rate = -np.exp(rng.standard_normal(width) * 2).astype(np.float32)
    power = np.logaddexp(0, f64(x) + bias) * rate
    # The power is as exact as its terms; below 0 softplus is e^(x + bias), and as exact as that.
    terms = np.abs(f64(x)) + np.abs(bias)
    size = np.maximum(terms * np.abs(rate) * (x + bias >= 0), np.abs(power) * (1 + terms))
    size = np.minimum(np.nan_to_num(size, nan=0), 1e6)
    within = np.exp(power) * (size * 8 + 8) * UNIT + 2e-38
    arguments = {"x": x, "bias": bias, "rate": rate, "out": blank(n, width), "width": width}
    return Case(Decay(), n, arguments, close(np.exp(power), within))


def delta_net(rng: Random) -> Case:
    """With states and keys of sizes as they are; the rule may double what it keeps."""
    head_dim, n, n_k_heads = int(rng.choice([16, 20])), int(rng.integers(1, 5)), 2
    n_heads = 2 * int(rng.integers(1, 3))
    kinds = ("normal", "steps", "zeros", "holes")
    of = {"queries": n_k_heads, "keys": n_k_heads, "values": n_heads}
    a = {
        name: numbers(rng, n, heads * head_dim, kind=str(rng.choice(kinds)))
        for name, heads in of.items()
    }
    a |= {name: rng.random((n, n_heads), np.float32) for name in ("decay", "beta")}
    a |= {**places(rng, n, 2), "n_k_heads": n_k_heads, "n_heads": n_heads}
    a["keys"] *= np.float32(0.25)
    state = numbers(rng, 2, n_heads, head_dim, head_dim, kind="normal")
    op, truths, sizes = DeltaNet(head_dim), [], []
    abs_of = {name: np.abs(a[name]) for name in ("queries", "keys", "decay")}
    abs_of |= {name: -np.abs(a[name]) for name in ("values", "beta")}
    for arguments, before, results in ((a, state, truths), (a | abs_of, np.abs(state), sizes)):
        results += [blank(n, n_heads * head_dim, dtype=np.float64), f64(before)]
        op.reference(**arguments, out=results[0], state=results[1])
    units = (head_dim + 8) * (n + 1)
    check = all_of(
        *(
            close(truth, tolerance(size, units), name)
            for name, truth, size in zip(("out", "state"), truths, sizes, strict=True)
        )
    )
    return Case(op, n, {**a, "state": state, "out": blank(n, n_heads * head_dim)}, check)


BLOCKS: dict[str, Callable[[Random], Case]] = {
    made.__name__: made
    for made in (norm, rope, columns, softmax, masked_softmax, reading, elementwise, choosing,
                 grouping, of_experts, convolution, decay, delta_net)
}  # fmt: skip
