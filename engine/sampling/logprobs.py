"""Log-probabilities of a token and of the likeliest beside it."""

from __future__ import annotations

from dataclasses import dataclass

from linnet.engine.sampling.candidates import Candidates
from linnet.engine.sampling.logits import Logits


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The natural logarithm of a token's probability, by the softmax of the model's own logits:
    before penalties, biases and temperature.

    `top`: (token id, logprob) of as many tokens as were asked for, likeliest first; of equal ones,
    the lower id.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, logits: Logits, token_id: int, n_top: int) -> TokenLogprob:
        """logit - log(sum of exp(logits)); all logits are finite."""
        total = logits.log_sum_exp()
        top = Candidates.all(logits).top(n_top)
        pairs = zip(top.ids.tolist(), top.logits.tolist(), strict=True)
        return cls(
            token_id,
            float(logits.values[token_id]) - total,
            tuple((each, logit - total) for each, logit in pairs),
        )
