"""How to choose tokens and when to stop, with every value checked as it comes in."""

from __future__ import annotations

import math
import re
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

MAX_STOP_CHARACTERS: Final = 1_000_000  # in all stop strings together
MAX_BREAKERS: Final = 100
MAX_BREAKER_BYTES: Final = 40  # in UTF-8; llama.cpp looks at no more, either
MAX_SAMPLERS: Final = 100

# All samplers but logit_bias, which is always first, and Mirostat, which has a chain of its own.
DEFAULT_ORDER: Final = (
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
)  # fmt: skip

_MAX_INT: Final = 2**31 - 1
_MAX_BIAS: Final = 1000
_KINDS: Final[dict[type, Any]] = {  # what one is called, which types are taken for it
    int: ("an integer", int | np.integer),
    float: ("a number", int | float | np.integer | np.floating),
}
_NAMES: Final = {name.replace("_", ""): name for name in DEFAULT_ORDER} | {
    "nucleus": "top_p", "temp": "temperature", "typ": "typ_p",
}  # fmt: skip
_T = TypeVar("_T", int, float)


class Parameter(NamedTuple):
    """What there is to know of a field of `SamplingParams` beside its name and default."""

    check: Callable[[str, object], Any]  # what to keep of a value by that name; raises ValueError
    flags: Sequence[str] = ()  # of commands; none where only programs can say it
    argument: Mapping[str, Any] = {}  # what argparse is told of the flags
    key: str | None = None  # what a GGUF file calls it
    off: float | None = None  # what a file's -1, or another number out of range, stands for

    def suggested(self, key: str, value: Any) -> Any:
        """What to keep of a file's value; raises ValueError. Warns of a number out of range."""
        try:
            return self.check(key, value)
        except ValueError as error:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if self.off is None or not is_number or math.isnan(value):
                raise
            if value != -1:
                warnings.warn(f"{error}; {self.off:g} is taken, which is off", stacklevel=3)
            return self.check(key, self.off)


def _ranged(
    kind: type[_T], default: float | None, low: float, high: float, usage: str, note: str,
    key: str | None = None, off: int | float | None = None,
) -> Any:  # fmt: skip
    """A field for a number from `low` to `high`; if the default is None, for which flags have -1,
    for None as well.

    `usage`: the flags, and what stands for a value in their help; `key`: what follows
    `general.sampling.` in files, and `off`: what is meant there by numbers out of range.
    """

    def check(name: str, value: object) -> _T | None:
        if default is None and value is None:
            return None
        return _number(kind, name, value, low, high, "" if default is not None else ", or None")

    *flags, metavar = usage.split()
    if default is not None:
        models = "the model's, or " if key else ""
        note = f"by default {models}{default:g}; {note}"
    argument = {"type": kind, "metavar": metavar, "help": note}
    about = Parameter(check, flags, argument, key and f"general.sampling.{key}", off)
    return field(default=default, metadata=about._asdict())


def _number(
    kind: type[_T], name: str, value: Any, low: float, high: float, or_else: str = ""
) -> _T:
    noun, types = _KINDS[kind]
    if isinstance(value, types) and not isinstance(value, bool) and low <= value <= high:
        return kind(value)  # which was not NaN
    raise _error(name, value, f"{noun} from {low} to {high}{or_else}")


def _error(name: str, value: object, limits: str) -> ValueError:
    return ValueError(f"{name} is {reprlib.repr(value)}; it must be {limits}")


def _bias(name: str, bias: object) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise _error(name, bias, "a mapping from token ids to numbers")
    return {
        _number(int, f"a token id in {name}", token_id, 0, _MAX_INT): _number(
            float, f"{name}[{token_id}]", value, -math.inf, _MAX_BIAS
        )
        for token_id, value in bias.items()
    }


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _error(name, value, "True or False")


def _token_ids(name: str, ids: object) -> tuple[int, ...]:
    if not isinstance(ids, list | tuple):
        raise _error(name, ids, "a list of token ids")
    return tuple(_number(int, f"{name}[{i}]", each, 0, _MAX_INT) for i, each in enumerate(ids))


def _strings(name: str, stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple):
        raise _error(name, stop, "a string, or a list of strings")
    for i, string in enumerate(strings):
        if not isinstance(string, str) or not string:
            raise _error(f"{name}[{i}]", string, "a string of at least 1 character")
    if sum(map(len, strings)) > MAX_STOP_CHARACTERS:
        raise ValueError(
            f"{name} has {sum(map(len, strings))} characters; it must be at most "
            f"{MAX_STOP_CHARACTERS} in all strings together"
        )
    return tuple(strings)


def _breakers(name: str, value: object) -> tuple[str, ...]:
    strings = _strings(name, value)
    if strings == ("none",):
        return ()
    if len(strings) > MAX_BREAKERS:
        raise ValueError(f"{name} has {len(strings)} strings; it must be at most {MAX_BREAKERS}")
    for i, string in enumerate(strings):
        data = string.encode(errors="replace")
        if data.decode() != string or len(data) > MAX_BREAKER_BYTES:
            raise _error(f"{name}[{i}]", string, f"text of at most {MAX_BREAKER_BYTES} bytes")
    return strings


def _samplers(name: str, value: object) -> tuple[str, ...]:
    names = value.split(";") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or len(names) > MAX_SAMPLERS:
        limits = f"at most {MAX_SAMPLERS} names in a list, or with ';' between them"
        raise _error(name, value, limits)
    known = [_NAMES.get(re.sub("[-_]", "", str(given).lower())) for given in names]
    for i, given in enumerate(names):
        if known[i] is None:
            raise _error(f"{name}[{i}]", given, f"one of {', '.join(DEFAULT_ORDER)}")
    return tuple(filter(None, known))


def _mirostat(name: str, value: Any) -> int:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value in (0, 2):
        return int(value)
    raise _error(name, value, "0, which is off, or 2, which is Mirostat 2.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens, and when to stop; the defaults are those of llama-cli.

    `max_tokens`: the most to generate; None for as many as fit the context.
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
    `logit_bias`: what is added to logits, by token id; -inf rules a token out.
    `seed`: the same one draws the same tokens; None for another every time.
    `stop`: a string, or several, before which the text ends; kept as a tuple. Control tokens in
        them are found, too, though they give no text.
    `stop_token_ids`: tokens that end the text as the model's own end tokens do; kept as a tuple.
    `ignore_eos`: go on where the model would end.
    `skip_special`: whether control tokens, but for those between gpt-oss's messages, give no text.

    Raises `ValueError` naming the field, its value and the limits. For what the samplers do, see
    `linnet.engine.sampling.samplers` and `linnet.engine.sampling.dry`.
    """

    # A field says all there is to know: checks, commands' flags and files' keys follow from it.
    max_tokens: int | None = _ranged(
        int, None, 0, _MAX_INT, "-n --n-predict --predict N", "tokens at most; -1: no limit"
    )
    samplers: Sequence[str] = field(default=DEFAULT_ORDER, metadata={
        "check": _samplers, "flags": ["--samplers"], "key": "general.sampling.sequence",
        "argument": {"metavar": "NAMES", "help": "in this order; by default the model's, or "
                     + ";".join(DEFAULT_ORDER)},
    })  # fmt: skip
    temperature: float = _ranged(
        float, 0.8, 0, 100, "--temp --temperature T", "0 is greedy", key="temp", off=0
    )
    dynatemp_range: float = _ranged(float, 0.0, 0, 100, "--dynatemp-range X", "0 is off")
    dynatemp_exponent: float = _ranged(
        float, 1.0, 0, 100, "--dynatemp-exp X", "of the entropy, for the temperature in the range"
    )
    top_k: int = _ranged(int, 40, 0, _MAX_INT, "--top-k K", "0 is off", key="top_k", off=0)
    top_p: float = _ranged(float, 0.95, 0, 1, "--top-p P", "1 is off", key="top_p", off=1)
    min_p: float = _ranged(float, 0.05, 0, 1, "--min-p P", "0 is off", key="min_p", off=0)
    typ_p: float = _ranged(float, 1.0, 0, 1, "--typical --typical-p P", "1 is off")
    top_n_sigma: float = _ranged(
        float, -1.0, -1, 100, "--top-nsigma --top-n-sigma N", "0 and -1 are off"
    )
    xtc_probability: float = _ranged(
        float, 0.0, 0, 1, "--xtc-probability P", "0 is off", key="xtc_probability", off=0
    )
    xtc_threshold: float = _ranged(
        float, 0.1, 0, 1, "--xtc-threshold P", "above 0.5 is off", key="xtc_threshold", off=1
    )
    repeat_penalty: float = _ranged(
        float, 1.0, 0.01, 100, "--repeat-penalty X", "1 is off", key="penalty_repeat", off=1
    )
    repeat_last_n: int = _ranged(
        int, 64, -1, _MAX_INT, "--repeat-last-n N", "-1: all tokens", key="penalty_last_n"
    )
    presence_penalty: float = _ranged(float, 0.0, -100, 100, "--presence-penalty X", "0 is off")
    frequency_penalty: float = _ranged(float, 0.0, -100, 100, "--frequency-penalty X", "0 is off")
    dry_multiplier: float = _ranged(float, 0.0, 0, 100, "--dry-multiplier X", "0 is off")
    dry_base: float = _ranged(float, 1.75, 1, 100, "--dry-base X", "to the power of the length")
    dry_allowed_length: int = _ranged(
        int, 2, 1, _MAX_INT, "--dry-allowed-length N", "repeated tokens that cost nothing yet"
    )
    dry_penalty_last_n: int = _ranged(
        int, 64, -1, _MAX_INT, "--dry-penalty-last-n N", "-1: all tokens"
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
    mirostat_tau: float = _ranged(
        float, 5.0, 0, 100, "--mirostat-ent X", "bits of surprise to aim for", key="mirostat_tau"
    )
    mirostat_eta: float = _ranged(
        float, 0.1, 0, 100, "--mirostat-lr X", "how fast to get there", key="mirostat_eta"
    )
    logit_bias: Mapping[int, float] = field(  # by token id
        default_factory=dict, hash=False, metadata={"check": _bias}
    )
    seed: int | None = _ranged(int, None, 0, 2**64 - 1, "-s --seed SEED", "-1: another each time")
    stop: Sequence[str] = field(default=(), metadata={  # one string, or several; kept as a tuple
        "check": _strings, "flags": ["--stop"],
        "argument": {"action": "append", "metavar": "TEXT", "help": "end there; may be repeated"},
    })  # fmt: skip
    stop_token_ids: Sequence[int] = field(default=(), metadata={"check": _token_ids})
    ignore_eos: bool = field(default=False, metadata={
        "check": _boolean, "flags": ["--ignore-eos"],
        "argument": {"action": "store_true", "help": "go on where the model would end"},
    })  # fmt: skip
    skip_special: bool = field(default=True, metadata={
        "check": _boolean, "flags": ["--special"],
        "argument": {"action": "store_false", "help": "write control tokens out, too"},
    })  # fmt: skip

    def __post_init__(self) -> None:
        for name, parameter in PARAMETERS.items():
            object.__setattr__(self, name, parameter.check(name, getattr(self, name)))

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
            except ValueError as error:
                warnings.warn(f"the file's suggestion is left out: {error}", stacklevel=2)
        return cls(**found, **given)


PARAMETERS: Final = {field.name: Parameter(**field.metadata) for field in fields(SamplingParams)}
METADATA: Final = {name: about.key for name, about in PARAMETERS.items() if about.key is not None}
