"""Sampling that looks at all tokens and puts all in order, as plainly as it can be written."""

from __future__ import annotations

import math

import numpy as np

from linnet.engine.sampling import chain, samplers
from linnet.engine.sampling.candidates import Candidates, NonFiniteLogits
from linnet.engine.sampling.history import History
from linnet.engine.sampling.logits import Blocks, Logits
from linnet.engine.sampling.params import SamplingParams
from linnet.kernels.ops.softmax import BLOCK, SoftmaxBlocks
from support.sampler_cases import Floats


def logits_with_blocks(values: Floats) -> Logits:
    """As a pass leaves them; the sums in f32, as native code has them."""
    maxima, sums = np.empty((2, -(-values.size // BLOCK)), np.float32)
    SoftmaxBlocks().reference(values, maxima, sums, values.size)
    return Logits(values, Blocks.of(maxima, sums))


def top_k(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    return candidates.ordered().keep(slice(params.top_k))


def top_p(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    weights = candidates.weights()
    least = (1 - params.top_p) * weights.sum() / len(weights) / 2
    likely = candidates.keep(weights >= least).ordered()
    n = 1 + np.searchsorted(np.cumsum(likely.weights()), params.top_p * weights.sum())
    return likely.keep(slice(n))


def min_p(candidates: Candidates, params: SamplingParams, _: History) -> Candidates:
    least = np.float64(candidates.logits.max()) + math.log(params.min_p)
    return candidates.keep(candidates.logits >= least)


PLAIN = {samplers.top_k: top_k, samplers.top_p: top_p, samplers.min_p: min_p}


def token(params: SamplingParams, values: Floats, history: History) -> int | None:
    """The token drawn; None where none can be chosen."""
    candidates = Candidates(np.arange(len(values)), values)
    try:
        for apply in chain.make_chain(params):
            candidates = PLAIN.get(apply, apply)(candidates, params, history)
    except NonFiniteLogits:
        return None
    if len(candidates.ids) == 1:
        return int(candidates.ids[0])
    edges = np.cumsum(candidates.weights())
    point = history.random.random() * edges[-1]
    return int(candidates.ids[np.searchsorted(edges, point, side="right")])
