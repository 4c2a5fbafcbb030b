"""How to choose tokens and when to stop, with every value checked as it comes in."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from linnet.engine.checks import known
from linnet.engine.sampling.elsewhere import ELSEWHERE
from linnet.engine.sampling.parameter import (
    MAX_INT,
    Parameter,
    boolean,
    callables,
    error,
    number,
    ranged,
    schema,
    strings,
    text,
    token_ids,
)

MAX_BREAKERS: Final = 100
MAX_BREAKER_BYTES: Final = 40  # in UTF-8; llama.cpp looks at no more, either
MAX_SAMPLERS: Final = 100

# All samplers but logit_bias, which is always first, and Mirostat, which has a chain of its own.
DEFAULT_ORDER: Final = (
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
)  # fmt: skip

MOST_LOGPROBS: Final = 20  # likeliest tokens; as in OpenAI's API
SHAPES: Final = ("json_schema", "regex", "choice", "grammar")  # of answers
LogitsProcessor: TypeAlias = Callable[[list[int], NDArray[np.float32]], NDArray[np.float32]]

_MAX_BIAS: Final = 1000
_BIAS: Final = re.compile(r"(\d{1,10})([+-](?:\d+(?:\.\d*)?|\.\d+|inf))")  # 15043+1, 15043-inf
_NAMES: Final = {name.replace("_", ""): name for name in DEFAULT_ORDER} | {
    "nucleus": "top_p", "temp": "temperature", "typ": "typ_p",
}  # fmt: skip


def _bias(name: str, bias: object) -> dict[int, float]:
    if isinstance(bias, list | tuple) and all(isinstance(each, str) for each in bias):
        found = [_BIAS.fullmatch(each) for each in bias]
        if not all(found):
            wrong = bias[found.index(None)]
            raise error(name, wrong, "a token id, + or -, and a number, as in 15043-inf")
        bias = {int(each[1]): float(each[2]) for each in found if each}
    if not isinstance(bias, Mapping):
        raise error(name, bias, "a mapping from token ids to numbers")
    return {
        number(int, f"a token id in {name}", token_id, 0, MAX_INT): number(
            float, f"{name}[{token_id}]", value, -math.inf, _MAX_BIAS
        )
        for token_id, value in bias.items()
    }


def _breakers(name: str, value: object) -> tuple[str, ...]:
    texts = strings(name, value)
    if texts == ("none",):
        return ()
    if len(texts) > MAX_BREAKERS:
        raise ValueError(f"{name} has {len(texts)} strings; it must be at most {MAX_BREAKERS}")
    for i, string in enumerate(texts):
        data = string.encode(errors="replace")
        if data.decode() != string or len(data) > MAX_BREAKER_BYTES:
            raise error(f"{name}[{i}]", string, f"text of at most {MAX_BREAKER_BYTES} bytes")
    return texts


def _samplers(name: str, value: object) -> tuple[str, ...]:
    names = value.split(";") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or len(names) > MAX_SAMPLERS:
        limits = f"at most {MAX_SAMPLERS} names in a list, or with ';' between them"
        raise error(name, value, limits)
    known = [_NAMES.get(re.sub("[-_]", "", str(given).lower())) for given in names]
    for i, given in enumerate(names):
        if known[i] is None:
            raise error(f"{name}[{i}]", given, f"one of {', '.join(DEFAULT_ORDER)}")
    return tuple(filter(None, known))


def _mirostat(name: str, value: Any) -> int:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value in (0, 2):
        return int(value)
    raise error(name, value, "0, which is off, or 2, which is Mirostat 2.0")


def _names_checked(params: type[SamplingParams]) -> type[SamplingParams]:
    """Have a TypeError for a field there is not say what it is called here."""
    keep = params.__init__

    @wraps(keep)
    def init(self: SamplingParams, **given: Any) -> None:
        known(given, PARAMETERS, "field of SamplingParams", ELSEWHERE)
        keep(self, **given)

    params.__init__ = init  # type: ignore[method-assign]
    return params


@_names_checked
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens, and when to stop; the defaults are those of llama-cli.

    `max_tokens`: the most to generate, at which `finish_reason` is "length"; None, or -1, for as
        many as fit the context.
    `samplers`: the names of the samplers, in their order, of those in `DEFAULT_ORDER`; a string of
        names with ";" between them will do. One whose parameters are off does nothing.
    `temperature`: divides logits; at 0 the likeliest token is always taken.
    `dynatemp_range`: by how much the temperature may be lower, where one token has all probability,
        and higher, where all have the same; 0 is off.
    `dynatemp_exponent`: the power of the entropy, from 0 to 1, that says where between them.
    `top_k`: keep the so many likeliest; 0 is off.
    `top_p`: keep the fewest that together are this probable; 1 is off.
    `min_p`: keep those at least this many times as likely as the likeliest; 0 is off.
    `typ_p`: keep those whose surprise is nearest the entropy, the fewest that together are more
        probable than this; 1 is off.
    `top_n_sigma`: keep those at most so many standard deviations below the highest logit; 0 and
        less are off.
    `xtc_probability`: how often tokens of a probability of `xtc_threshold` or more are dropped, but
        for the least likely of them; 0, and a threshold above 0.5, are off.
    `repeat_penalty`: divides logits above 0 of recent tokens, and multiplies others; 1 is off.
    `repeat_last_n`: how many tokens are recent, those of the prompt included; 0 for none, -1 all.
    `presence_penalty`: is taken from the logits of recent tokens; 0 is off.
    `frequency_penalty`: is taken from them as often as the token is there; 0 is off.
    `dry_multiplier`: times `dry_base` ** (n - `dry_allowed_length`) is taken from the logits of
        tokens that would prolong a repetition of n tokens, at least `dry_allowed_length`, among the
        last `dry_penalty_last_n`; 0 is off, and -1 for the last means all.
    `dry_sequence_breakers`: strings over which no repetition goes; "none" is the same as an empty
        list.
    `mirostat`: 2 for Mirostat 2.0, with which there are no samplers but it, the temperature and
        `logit_bias`; 0 is off.
    `mirostat_tau`: how many bits of surprise Mirostat aims for; `mirostat_eta`: how fast it gets
        there.
    `logit_bias`: what is added to logits, by token id; -inf rules a token out. A list of texts as
        "15043+1" and "15043-inf" will do.
    `seed`: the same one draws the same tokens; None, or -1, for another every time.
    `stop`: a string, or several, before which the text ends; kept as a tuple. Control tokens in
        them are found, too, though they give no text.
    `stop_token_ids`: tokens that end the text as the model's own end tokens do; kept as a tuple.
    `min_tokens`: how many tokens are generated before an end token or one of `stop_token_ids` can
        be; a stop string ends the text all the same.
    `ignore_eos`: go on where the model would end.
    `skip_special`: whether control tokens, but for those between gpt-oss's messages, give no text.
    `logprobs`: give each token's log-probability, and those of so many of the likeliest, 0 to 20;
        None for none at all. See `TokenLogprob`.
    `prompt_logprobs`: the same of the prompt's tokens, whose passes then are of 32 tokens and reuse
        nothing that is cached.
    `json_schema`: answer in JSON that this schema allows, a dict, JSON text, a boolean or a
        pydantic model; {} allows any object. `regex`: with what the expression matches. `choice`:
        with one of these texts. `grammar`: by one in GBNF or Lark. At most one of them; an answer
        that `max_tokens` ends is cut. Needs linnet-llm[structured].
    `logits_processors`: functions of all token ids so far, the prompt's first, and of a copy of the
        logits, f32 (n_vocab,), to other such logits; called one after another before anything else.

    Where None stands for no number, -1 is taken for it, and for `top_k` as 0. Raises `ValueError`
    naming the field, its value and the limits, and TypeError for a field there is not. For what the
    samplers do, see `linnet.engine.sampling.samplers` and `linnet.engine.sampling.dry`.
    """

    # A field says all there is to know: checks, commands' flags and files' keys follow from it.
    max_tokens: int | None = ranged(
        int, 512, 0, MAX_INT, "-n --n-predict --predict N", "tokens at most; -1: no limit",
        optional=True,
    )  # fmt: skip
    samplers: Sequence[str] = field(default=DEFAULT_ORDER, metadata={
        "check": _samplers, "flags": ["--samplers"], "key": "general.sampling.sequence",
        "argument": {"metavar": "NAMES", "help": "in this order; by default the model's, or "
                     + ";".join(DEFAULT_ORDER)},
    })  # fmt: skip
    temperature: float = ranged(
        float, 0.8, 0, 100, "--temp --temperature T", "0 is greedy", key="temp", off=0
    )
    dynatemp_range: float = ranged(float, 0.0, 0, 100, "--dynatemp-range X", "0 is off")
    dynatemp_exponent: float = ranged(
        float, 1.0, 0, 100, "--dynatemp-exp X", "of the entropy, for the temperature in the range"
    )
    top_k: int = ranged(int, 40, 0, MAX_INT, "--top-k K", "0 is off", key="top_k", off=0)
    top_p: float = ranged(float, 0.95, 0, 1, "--top-p P", "1 is off", key="top_p", off=1)
    min_p: float = ranged(float, 0.05, 0, 1, "--min-p P", "0 is off", key="min_p", off=0)
    typ_p: float = ranged(float, 1.0, 0, 1, "--typical --typical-p P", "1 is off")
    top_n_sigma: float = ranged(
        float, -1.0, -1, 100, "--top-nsigma --top-n-sigma N", "0 and -1 are off"
    )
    xtc_probability: float = ranged(
        float, 0.0, 0, 1, "--xtc-probability P", "0 is off", key="xtc_probability", off=0
    )
    xtc_threshold: float = ranged(
        float, 0.1, 0, 1, "--xtc-threshold P", "above 0.5 is off", key="xtc_threshold", off=1
    )
    repeat_penalty: float = ranged(
        float, 1.0, 0.01, 100, "--repeat-penalty X", "1 is off", key="penalty_repeat", off=1
    )
    repeat_last_n: int = ranged(
        int, 64, -1, MAX_INT, "--repeat-last-n N", "-1: all tokens", key="penalty_last_n"
    )
    presence_penalty: float = ranged(float, 0.0, -100, 100, "--presence-penalty X", "0 is off")
    frequency_penalty: float = ranged(float, 0.0, -100, 100, "--frequency-penalty X", "0 is off")
    dry_multiplier: float = ranged(float, 0.0, 0, 100, "--dry-multiplier X", "0 is off")
    dry_base: float = ranged(float, 1.75, 1, 100, "--dry-base X", "to the power of the length")
    dry_allowed_length: int = ranged(
        int, 2, 1, MAX_INT, "--dry-allowed-length N", "repeated tokens that cost nothing yet"
    )
    dry_penalty_last_n: int = ranged(
        int, 64, -1, MAX_INT, "--dry-penalty-last-n N", "-1: all tokens"
    )
    dry_sequence_breakers: Sequence[str] = field(default=("\n", ":", '"', "*"), metadata={
        "check": _breakers, "flags": ["--dry-sequence-breaker"],
        "argument": {"action": "append", "metavar": "TEXT", "help": "where repetitions end; may "
                     r"""be repeated; by default \n : " and *; none: there is none"""},
    })  # fmt: skip
    mirostat: int = field(default=0, metadata={
        "check": _mirostat, "flags": ["--mirostat"], "key": "general.sampling.mirostat", "off": 0,
        "argument": {"type": int, "metavar": "N", "help": "by default the model's, or 0; 2: "
                     "Mirostat 2.0, in place of all samplers but the temperature"},
    })  # fmt: skip
    mirostat_tau: float = ranged(
        float, 5.0, 0, 100, "--mirostat-ent X", "bits of surprise to aim for", key="mirostat_tau"
    )
    mirostat_eta: float = ranged(
        float, 0.1, 0, 100, "--mirostat-lr X", "how fast to get there", key="mirostat_eta"
    )
    logit_bias: Mapping[int, float] = field(  # by token id
        default_factory=dict, hash=False, metadata={
            "check": _bias, "flags": ["-l", "--logit-bias"],
            "argument": {"action": "append", "metavar": "ID+BIAS", "help": "add to the logit of a "
                         "token, as in 15043+1; 15043-inf rules it out; may be repeated"},
        },
    )  # fmt: skip
    seed: int | None = ranged(int, None, 0, 2**64 - 1, "-s --seed SEED", "-1: another each time")
    stop: Sequence[str] = field(default=(), metadata={  # one string, or several; kept as a tuple
        "check": strings, "flags": ["--stop", "-r", "--reverse-prompt"],
        "argument": {"action": "append", "metavar": "TEXT", "help": "end there; may be repeated"},
    })  # fmt: skip
    min_tokens: int = ranged(int, 0, 0, MAX_INT, "--min-tokens N", "tokens before one may end it")
    stop_token_ids: Sequence[int] = field(default=(), metadata={"check": token_ids})
    ignore_eos: bool = field(default=False, metadata={
        "check": boolean, "flags": ["--ignore-eos"],
        "argument": {"action": "store_true", "help": "go on where the model would end"},
    })  # fmt: skip
    skip_special: bool = field(default=True, metadata={
        "check": boolean, "flags": ["-sp", "--special"],
        "argument": {"action": "store_false", "help": "write control tokens out, too"},
    })  # fmt: skip
    logprobs: int | None = ranged(
        int, None, 0, MOST_LOGPROBS, "--logprobs N",
        "log-probabilities of each token and of the N likeliest; -1: none",
    )  # fmt: skip
    prompt_logprobs: int | None = ranged(
        int, None, 0, MOST_LOGPROBS, "--prompt-logprobs N", "the same of the prompt's; -1: none"
    )
    logits_processors: Sequence[LogitsProcessor] = field(
        default=(), hash=False, metadata={"check": callables}
    )
    json_schema: Mapping[str, Any] | bool | None = field(default=None, hash=False, metadata={
        "check": schema, "flags": ["-j", "--json-schema"],
        "argument": {"metavar": "SCHEMA", "help": "answer in JSON that a schema "
                     "allows; {}: any object"},
    })  # fmt: skip
    regex: str | None = field(default=None, metadata={"check": text, "flags": ["--regex"],
        "argument": {"metavar": "EXPRESSION", "help": "answer with what the expression matches"},
    })  # fmt: skip
    choice: Sequence[str] = field(default=(), metadata={"check": strings, "flags": ["--choice"],
        "argument": {"action": "append", "metavar": "TEXT", "help": "answer with one of these; to "
                     "be repeated"},
    })  # fmt: skip
    grammar: str | None = field(default=None, metadata={"check": text, "flags": ["--grammar"],
        "argument": {"metavar": "GRAMMAR", "help": "answer by a grammar in GBNF or Lark"},
    })  # fmt: skip

    def __post_init__(self) -> None:
        for name, parameter in PARAMETERS.items():
            object.__setattr__(self, name, parameter.check(name, getattr(self, name)))
        if len(shapes := self._shapes) > 1:
            raise ValueError(f"{' and '.join(shapes)} are given; an answer has one shape")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            limit = f"at most max_tokens, which is {self.max_tokens}"
            raise error("min_tokens", self.min_tokens, limit)

    @property
    def shape(self) -> str | None:
        """The name of the field that gives the answer's, if one does."""
        return next(iter(self._shapes), None)

    @property
    def _shapes(self) -> list[str]:
        return [name for name in SHAPES if getattr(self, name) not in (None, ())]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], **given: Any) -> SamplingParams:
        """The fields given; for others what a file's metadata says, as `general.sampling.top_k`
        does, or the defaults.

        A file's -1 is off, as in other programs, and so, with a UserWarning, is another number out
        of range; what is of no use at all is left out, with a UserWarning. Raises `ValueError` for
        a given field, and TypeError for one there is not.
        """
        found: dict[str, Any] = {}
        for name, key in METADATA.items():
            if name in given or key not in metadata:
                continue
            try:
                found[name] = PARAMETERS[name].suggested(key, metadata[key])
            except ValueError as wrong:
                warnings.warn(f"the file's suggestion is left out: {wrong}", stacklevel=2)
        return cls(**found, **given)


PARAMETERS: Final = {field.name: Parameter(**field.metadata) for field in fields(SamplingParams)}
METADATA: Final = {name: about.key for name, about in PARAMETERS.items() if about.key is not None}
