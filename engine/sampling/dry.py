"""DRY, "don't repeat yourself": makes tokens less likely that would prolong a repetition.

By p-e-w, 2024 (github.com/oobabooga/text-generation-webui/pull/5677), as llama.cpp does it
(src/llama-sampler.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np

from linnet.engine.sampling.candidates import Candidates
from linnet.engine.sampling.history import History, Tails
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.text.tokenizer import Tokenizer

_MAX_TAIL: Final = 20  # tokens of a sequence breaker after its first that are looked at
_MAX_PENALTY: Final = 1e38  # what a logit can lose and stay finite


def dry(candidates: Candidates, params: SamplingParams, history: History) -> Candidates:
    """logit -= dry_multiplier * dry_base ** (n - dry_allowed_length), where n >= that

    n, of a token: how many of the latest tokens stand, in their order, right before an earlier one
    of it; the most of all places among the last `dry_penalty_last_n`. Only tokens after the latest
    sequence breaker count, and tokens that hold one are left alone.

    Takes time in proportion to the tokens looked at, whatever they are.
    """
    first = -params.dry_penalty_last_n - 1 if params.dry_penalty_last_n > 0 else None
    latest = history.ids[:first:-1]
    n_most = _since_breaker(latest, history.tails)
    if n_most < params.dry_allowed_length:
        return candidates
    lengths: dict[int, int] = {}
    for k, n in _repeats(latest):
        token_id = latest[k - 1]
        if n >= params.dry_allowed_length and () not in history.tails(token_id):
            lengths[token_id] = max(lengths.get(token_id, 0), min(n, n_most))
    if not lengths:
        return candidates
    candidates = candidates.by_id()
    index, n_repeated = candidates.find(lengths)
    with np.errstate(over="ignore"):
        factors = params.dry_base ** (n_repeated - params.dry_allowed_length)
        penalties = np.minimum(params.dry_multiplier * factors, _MAX_PENALTY)
    return candidates.with_logits(index, candidates.logits[index] - penalties)


def _since_breaker(latest: Sequence[int], tails: Tails) -> int:
    """How many tokens, of which the latest comes first, follow the last sequence breaker."""
    for i, token_id in enumerate(latest):
        for tail in tails(token_id):
            n = len(tail)
            if n <= i and tail == tuple(latest[i - n : i][::-1]):
                return i - n
    return len(latest)


def _repeats(latest: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each k > 0 with the highest n for which latest[k : k + n] == latest[:n], where that is not 0.

    The Z-algorithm (Gusfield, 1997, "Algorithms on strings, trees, and sequences"): whatever the
    tokens, no more comparisons than twice their number.
    """
    lengths: dict[int, int] = {}
    left = right = 0  # latest[left:right] == latest[: right - left], and no other ends later
    for k in [k for k, token_id in enumerate(latest) if token_id == latest[0] and k > 0]:
        n = min(lengths[k - left], right - k) if k < right else 0
        if k + n >= right:
            while k + n < len(latest) and latest[n] == latest[k + n]:
                n += 1
            left, right = k, k + n
        lengths[k] = n
        yield k, n


def breaker_tails(breakers: Sequence[str], tokenizer: Tokenizer | None) -> Tails:
    """What tells of a token's id which ids, after it, complete a sequence breaker that begins in
    that token, longest first; () where the token holds a whole one.

    The rest of a breaker is looked for as the tokenizer writes it, from a whole character on.
    What the vocabulary has no way to write is never completed; the tokenizer warns of it. Raises
    `ValueError` where there are breakers and no tokenizer.
    """
    if not breakers:
        return lambda token_id: ()
    if tokenizer is None:
        raise ValueError("tokenizer is None; dry_sequence_breakers need that of the model")
    cuts = {
        text: {
            text[:i].encode(): tuple(tokenizer.encode(text[i:], add_special=False)[:_MAX_TAIL])
            for i in range(1, len(text))
        }
        for text in breakers
    }

    @cache
    def tails(token_id: int) -> Sequence[tuple[int, ...]]:
        written = tokenizer.token_bytes(token_id)
        found: set[tuple[int, ...]] = set()
        for text, rests in cuts.items():
            if text.encode() in written:
                found.add(())
            else:
                found |= {rest for start, rest in rests.items() if rest and written.endswith(start)}
        return sorted(found, key=len, reverse=True)

    return tails
