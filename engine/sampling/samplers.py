"""What llama-cli's samplers do, but for DRY: small functions from candidates to candidates.

Each takes the candidates, the parameters and the history, and gives the candidates that are left,
at least one, perhaps with other logits. What each does is what llama.cpp's does
(src/llama-sampler.cpp), in float64; `linnet.engine.sampling.chain` has the order. Where nothing
else is said, samplers may run in any order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from linnet.engine.sampling.candidates import Candidates, draw
from linnet.engine.sampling.history import History
from linnet.engine.sampling.params import SamplingParams

FEW = 256  # candidates of which top_p puts so many in order first


def logit_bias(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    """logit += bias. -inf rules a token out; `NonFiniteLogits` if that leaves none.

    All tokens must be candidates, so that a token's id is also its index.
    """
    ids = np.array(list(params.logit_bias))
    return candidates.with_logits(
        ids, candidates.logits[ids] + np.array(list(params.logit_bias.values()))
    )


def penalties(candidates: Candidates, params: SamplingParams, history: History) -> Candidates:
    """Lower the logits of the tokens among the last `repeat_last_n`.

    logit = (logit / repeat_penalty if logit > 0 else logit * repeat_penalty)
            - count * frequency_penalty - presence_penalty

    The first line is that of Keskar et al., 2019, "CTRL: a conditional transformer language model",
    with llama.cpp's repair for logits below 0; the second is that of the OpenAI API.
    """
    if not history.counts:
        return candidates
    candidates = candidates.by_id()
    index, counts = candidates.find(history.counts)
    old = candidates.logits[index].astype(np.float64)
    with np.errstate(over="ignore"):  # which `with_logits` refuses
        new = np.where(old > 0, old / params.repeat_penalty, old * params.repeat_penalty)
    new -= counts * params.frequency_penalty
    return candidates.with_logits(index, new - params.presence_penalty)


def top_n_sigma(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    """Rule out those more than `top_n_sigma` standard deviations below the highest logit (Tang et
    al., 2024, "Top-n sigma: not all logits are you need"). Those that are -inf do not count."""
    logits = candidates.logits
    with np.errstate(over="ignore", invalid="ignore"):  # after a temperature near 0; all are kept
        deviation = np.std(logits[logits > -np.inf], dtype=np.float64)
    least = logits.max() - params.top_n_sigma * deviation
    return candidates.with_all(np.where(logits < least, -np.inf, logits))


def top_k(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    """Keep the `top_k` highest (Fan et al., 2018, "Hierarchical neural story generation"); of
    equal ones, the lower ids."""
    return candidates.top(params.top_k)


def typ_p(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    """Keep the fewest that together are more probable than `typ_p`, in the order of how far their
    surprise, -ln(p), is from the entropy, the sum of -p ln(p) (Meister et al., 2022, "Locally
    typical sampling"); of those as far, in the order they are in."""
    p = candidates.probabilities()
    surprise = _surprise(p)
    order = np.argsort(np.abs(surprise - _entropy(p)), kind="stable")
    n_kept = 1 + np.searchsorted(np.cumsum(p[order]), params.typ_p, side="right")
    kept = np.zeros(len(p), bool)
    kept[order[:n_kept]] = True
    return candidates.keep(kept)


def top_p(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    """Keep the fewest that together have a probability of at least `top_p`, likeliest first
    (Holtzman et al., 2019, "The curious case of neural text degeneration")."""
    share, k, n = params.top_p, FEW, len(candidates.ids)
    total, doubt = candidates.total() if 8 * k < n else (0.0, 0.0)
    # As many are put in order as have that much together, if not all; where a share is so near to 1
    # that the roundings of all weights count, all are.
    while 8 * k < n and share < 1 - 1e-9:
        few = candidates.top(k)
        edges = np.cumsum(few.weights())
        first, last = np.searchsorted(edges, [share * (total - doubt), share * (total + doubt)])
        if first < last:  # it hangs on what the total is exactly
            total, doubt = float(candidates.weights().sum()), 0.0
            last = np.searchsorted(edges, share * total)
        if last < k:
            return few.keep(slice(1 + last))
        k *= 16
    weights = candidates.weights()
    total = weights.sum()
    # All below this have less than 1 - top_p together (half of it, as sums are rounded), so they
    # need not be put in order.
    least = (1 - share) * total / n / 2
    candidates = candidates.keep(weights >= least).ordered()
    n_kept = 1 + np.searchsorted(np.cumsum(candidates.weights()), share * total)
    return candidates.keep(slice(n_kept))


def min_p(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    """Keep those at least `min_p` times as likely as the likeliest (Nguyen et al., 2024, "Turning
    up the heat: min-p sampling for creative and coherent LLM outputs")."""
    return candidates.at_least(np.float64(candidates.highest + math.log(params.min_p)))


def xtc(candidates: Candidates, params: SamplingParams, history: History) -> Candidates:
    """With a probability of `xtc_probability`, drop all that have one of `xtc_threshold` or more
    but the least likely of these (Weidmann, 2024, "Exclude Top Choices",
    github.com/oobabooga/text-generation-webui/pull/6335); of equal ones, the last stays."""
    if len(candidates.ids) < 2 or history.random.random() >= params.xtc_probability:
        return candidates
    p = candidates.probabilities()
    is_top = (p >= params.xtc_threshold) & (p > 0)
    top = np.flatnonzero(is_top)
    if len(top) < 2:
        return candidates
    is_top[top[p[top] == p[top].min()][-1]] = False
    return candidates.keep(~is_top)


def temperature(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    """logit /= t, where t is `temperature` or, if there is a `dynatemp_range`,

        t = low + (high - low) * (entropy / ln(number of candidates)) ** dynatemp_exponent
        low, high = max(0, temperature - dynatemp_range), temperature + dynatemp_range

    which is llama.cpp's entropy-based temperature; Mirostat has no range. At a t of 0, or one by
    which the highest cannot be divided, keep that only (of equal ones, that of the lowest id).
    """
    t = params.temperature
    n = len(candidates.ids)
    if params.dynatemp_range > 0 and n > 1 and not params.mirostat:
        low, high = max(0.0, t - params.dynatemp_range), t + params.dynatemp_range
        evenness = _entropy(candidates.probabilities()) / math.log(n)
        t = low + (high - low) * evenness**params.dynatemp_exponent
    if t > 0 and math.isfinite(candidates.highest / t):
        with np.errstate(over="ignore"):
            return candidates.with_all(np.divide(candidates.logits, t, dtype=np.float64))
    return candidates.likeliest()


def mirostat(candidates: Candidates, params: SamplingParams, history: History) -> Candidates:
    """Draw a token of no more surprise, -log2(p), than mu bits, or else the likeliest; keep it
    alone (Basu et al., 2020, "Mirostat: a neural text decoding algorithm that directly controls
    perplexity"; this is llama.cpp's Mirostat 2.0).

    mu -= mirostat_eta * (surprise among those it was drawn from - mirostat_tau)
    """
    surprise = _surprise(candidates.probabilities())
    likely = surprise <= history.mu * math.log(2)
    likely[surprise.argmin()] = True
    candidates = candidates.keep(likely)
    chosen = draw(candidates, history.random)
    bits = -math.log2(candidates.probabilities()[chosen])
    history.mu -= params.mirostat_eta * (bits - params.mirostat_tau)
    return candidates.keep(slice(chosen, chosen + 1))


def _surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) -ln(p): infinite where p is 0."""
    with np.errstate(divide="ignore"):
        return -np.log(p)


def _entropy(p: NDArray[np.float64]) -> float:
    """The sum of -p ln(p), to which p = 0 adds nothing."""
    p = p[p > 0]
    return max(0.0, float(-(p * np.log(p)).sum()))
