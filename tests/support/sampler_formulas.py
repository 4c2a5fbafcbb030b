"""What llama-cli's samplers do, in plain float64, from the formulas of those who proposed them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from linnet.engine.sampling.params import SamplingParams

Logit = dict[int, float]


def shares_of(logit: Logit) -> dict[int, float]:
    weight = {i: math.exp(value - max(logit.values())) for i, value in logit.items()}
    return {i: w / sum(weight.values()) for i, w in weight.items()}


def entropy_of(share: dict[int, float]) -> float:
    return -sum(p * math.log(p) for p in share.values() if p > 0)


def fewest(order: list[int], share: dict[int, float], enough: Callable[[float], bool]) -> list[int]:
    reached = 0.0
    for n, i in enumerate(order):
        reached += share[i]
        if enough(reached):
            return order[: n + 1]
    return order


def by_logit(logit: Logit) -> list[int]:
    return sorted(logit, key=lambda i: (-logit[i], i))


def penalties(p: SamplingParams, logit: Logit, ids: list[int]) -> Logit:
    first = 0 if p.repeat_last_n < 0 else max(0, len(ids) - p.repeat_last_n)
    recent = Counter(ids[first:])
    logit = dict(logit)
    for i in recent.keys() & logit.keys():
        logit[i] *= p.repeat_penalty if logit[i] <= 0 else 1 / p.repeat_penalty
        logit[i] -= p.presence_penalty + recent[i] * p.frequency_penalty
    return logit


def dry(p: SamplingParams, logit: Logit, ids: list[int]) -> Logit:
    ids = ids[0 if p.dry_penalty_last_n < 0 else max(0, len(ids) - p.dry_penalty_last_n) :]
    longest: dict[int, int] = {}
    for place in range(1, len(ids)):
        n = max(n for n in range(place + 1) if ids[place - n : place] == ids[len(ids) - n :])
        longest[ids[place]] = max(n, longest.get(ids[place], 0))
    return {
        i: value - p.dry_multiplier * p.dry_base ** (longest[i] - p.dry_allowed_length)
        if longest.get(i, 0) >= p.dry_allowed_length
        else value
        for i, value in logit.items()
    }


def top_n_sigma(p: SamplingParams, logit: Logit, _: list[int]) -> Logit:
    if p.top_n_sigma <= 0:
        return logit
    some = [value for value in logit.values() if value > -math.inf]
    mean = sum(some) / len(some)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in some) / len(some))
    least = max(some) - p.top_n_sigma * deviation
    return {i: value if value >= least else -math.inf for i, value in logit.items()}


def top_k(p: SamplingParams, logit: Logit, _: list[int]) -> Logit:
    return {i: logit[i] for i in by_logit(logit)[: p.top_k or None]}


def typ_p(p: SamplingParams, logit: Logit, _: list[int]) -> Logit:
    share = shares_of(logit)
    entropy = entropy_of(share)
    order = sorted(share, key=lambda i: abs(-math.log(share[i] or 1e-300) - entropy))
    return {i: logit[i] for i in fewest(order, share, lambda reached: reached > p.typ_p)}


def top_p(p: SamplingParams, logit: Logit, _: list[int]) -> Logit:
    kept = fewest(by_logit(logit), shares_of(logit), lambda reached: 1 > p.top_p <= reached)
    return {i: logit[i] for i in kept}


def min_p(p: SamplingParams, logit: Logit, _: list[int]) -> Logit:
    share = shares_of(logit)
    return {i: logit[i] for i in logit if share[i] >= p.min_p * max(share.values())}


def xtc(p: SamplingParams, logit: Logit, _: list[int]) -> Logit:
    if not p.xtc_probability:
        return logit
    share = shares_of(logit)
    top = [i for i in by_logit(logit) if share[i] >= p.xtc_threshold]
    return {i: logit[i] for i in logit if i not in top[:-1]}


def temperature(p: SamplingParams, logit: Logit, _: list[int]) -> Logit:
    t = p.temperature
    if p.dynatemp_range > 0 and len(logit) > 1:
        low, high = max(0.0, t - p.dynatemp_range), t + p.dynatemp_range
        evenness = entropy_of(shares_of(logit)) / math.log(len(logit))
        t = low + (high - low) * evenness**p.dynatemp_exponent
    if t == 0:
        return {by_logit(logit)[0]: 0.0}
    return {i: value / t for i, value in logit.items()}


FORMULAS = {f.__name__: f for f in (
    penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature
)}  # fmt: skip


def expected(
    params: SamplingParams, logits: Sequence[float], ids: list[int] | None = None
) -> dict[int, float]:
    """The probability of each token that may follow `ids`; XTC is always taken to strike."""
    logit = {i: float(value) for i, value in enumerate(logits)}
    for i, bias in params.logit_bias.items():
        logit[i] += bias
    for name in params.samplers:
        logit = FORMULAS[name](params, logit, ids or [])
    return {i: p for i, p in shares_of(logit).items() if p > 0}
