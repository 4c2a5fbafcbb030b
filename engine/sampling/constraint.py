"""Answers in a shape: which tokens may come next, by a schema, an expression or a grammar.

llguidance (Microsoft's, MIT) keeps the grammar's state and knows which tokens go on from it.
"""

from __future__ import annotations

import importlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import Any, Final, Protocol

from linnet.engine.extras import installing
from linnet.engine.json_schemas import as_meant
from linnet.engine.sampling.mask import Mask
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.text.tokenizer import Tokenizer
from linnet.kernels.compiler.jit import Library

# JSON allows any white space; small models, left to it, write blanks for ever.
WHITESPACE: Final = r"[ ]?|\n[ ]{0,16}"
JSON_OPTIONS: Final = {
    "whitespace_pattern": WHITESPACE, "coerce_one_of": False, "lenient": False,
}  # fmt: skip
# Sets of tokens by what they are made of, which masks take as a whole: those within a text in JSON.
# llguidance's own two more take a third of the trie's time, and save masks none.
SLICES: Final = (r'[^"\\\x00-\x1F\x7F]{1,10}', r'[^"\\\x00-\x1F\x7F]+')
MOST_COMPILED: Final = 16  # grammars that are kept
LISTING: Final = re.compile(r"<state>|\n *\d+ \| ")  # of a grammar, after what is wrong with it
GBNF_RULE: Final = re.compile(r"^\s*root\s*::=", re.MULTILINE)


class ConstraintError(ValueError):
    """A schema or grammar that cannot be enforced, with the reason."""


class Rule(Protocol):
    """Says which tokens may come next, while an answer is generated."""

    @property
    def mask(self) -> Mask:
        """What `fill` sets the bits of."""

    @property
    def is_free(self) -> bool:
        """Whether any token may come, so that there is nothing to fill."""

    @property
    def is_over(self) -> bool:
        """Whether nothing but an end token can follow."""

    def fill(self) -> None:
        """Set the bits of the tokens that may come next, an end token among them where the text may
        end. Raises ConstraintError where the grammar is too much for llguidance's limits."""

    def accept(self, token_id: int) -> None:
        """Take a token, one of those. Raises ConstraintError."""

    def forced(self) -> list[int]:
        """The tokens that likely come next, as far as there is only one way on for the text, which
        others may spell, too. Takes 0.1 to 0.5 ms where there are any."""


class Constraints:
    """Makes the constraints of one model, from any thread.

    The vocabulary's trie is built for the first one, in 0.1 to 1 s in which no other thread runs
    Python; or by `prepare`. All share one mask: it is filled and applied as a token is drawn, one
    at a time in a model's steps.
    """

    def __init__(self, tokenizer: Tokenizer, library: Library) -> None:
        self._tokenizer, self._library = tokenizer, library
        self._lock = threading.Lock()
        # Those of conversations under way, whose tools are the same with every turn.
        self._compiled = lru_cache(MOST_COMPILED)(self._compile)

    def prepare(self) -> None:
        """Do now what the first constraint would wait for, if llguidance is there. Raises
        CompileError."""
        if is_installed():
            with self._lock:
                _ = self._trie, self._mask

    def of(self, params: SamplingParams) -> Constraint | None:
        """What `params` ask for, at its beginning; None where they ask for nothing.

        Raises ConstraintError, naming the field, and ModuleNotFoundError without llguidance.
        """
        with _naming(params.shape):
            grammar = _grammar(params)
            return None if grammar is None else self.make(grammar)

    def make(self, grammar: str) -> Constraint:
        """That of a grammar of llguidance's, as it has them internally: see `grammar_of`. Takes
        milliseconds, in which other threads go on. Raises what `of` raises."""
        return self._compiled(grammar).copy()

    def _compile(self, grammar: str) -> Constraint:
        with self._lock:
            trie, mask = self._trie, self._mask
        matcher = _llguidance().LLMatcher(trie, grammar, log_level=0)
        if matcher.is_error():
            raise ConstraintError(_reason(matcher.get_error()))
        return Constraint(matcher, mask)

    @property
    def mask(self) -> Mask:
        """Raises CompileError."""
        with self._lock:
            return self._mask

    @cached_property
    def _mask(self) -> Mask:
        return Mask(self._library, self._tokenizer.n_vocab)

    @cached_property
    def _trie(self) -> Any:
        wrapped = _Wrapped(self._tokenizer)
        n_vocab, ends = len(wrapped.tokens), [*self._tokenizer.eog_ids, wrapped.eos_token_id]
        return _llguidance().LLTokenizer(wrapped, n_vocab=n_vocab, eos_token=ends, slices=[*SLICES])


class Constraint:
    """One generation's place in its grammar: a `Rule`."""

    is_free: Final = False

    def __init__(self, matcher: Any, mask: Mask) -> None:
        self._matcher, self.mask = matcher, mask

    @property
    def is_over(self) -> bool:
        return bool(self._matcher.is_stopped())

    def fill(self) -> None:
        words = self.mask.words
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)
        self._check()

    def forced(self) -> list[int]:
        return [] if self.is_over else list(self._matcher.compute_ff_tokens())

    def copy(self) -> Constraint:
        """Another, at the same place."""
        return Constraint(self._matcher.deep_copy(), self.mask)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(_reason(self._matcher.get_error()))


def grammar_of(params: SamplingParams) -> str | None:
    """The grammar, as llguidance has it internally, that `params` ask for. Raises ConstraintError,
    naming the field, for what is none; what cannot be enforced is seen as it is compiled."""
    with _naming(params.shape):
        return _grammar(params)


def check_shape(params: SamplingParams) -> None:
    """Raise ConstraintError, naming the field, where what `params` ask for cannot be enforced,
    whatever the vocabulary."""
    with _naming(params.shape):
        grammar = _grammar(params)
        wrong = _llguidance().LLMatcher.validate_grammar(grammar) if grammar else ""
        if wrong:
            raise ConstraintError(_reason(wrong))


@contextmanager
def _naming(field: str | None) -> Iterator[None]:
    try:
        yield
    except ConstraintError as error:
        raise ConstraintError(f"{field} cannot be enforced: {error}") from error


def _grammar(params: SamplingParams) -> str | None:
    if params.json_schema is not None:
        return json_grammar(params.json_schema)
    if params.regex is not None:
        return _made("grammar_from_regex", params.regex)
    if params.choice:
        return lark_grammar("start: " + " | ".join(map(json.dumps, params.choice)))
    if params.grammar is not None:
        return lark_grammar(params.grammar)
    return None


def json_grammar(schema: Mapping[str, Any] | bool) -> str:
    """That of JSON texts that a schema allows; see `as_meant`. `oneOf` is done where no text can be
    of two."""
    if schema is False:
        raise ConstraintError("False allows nothing")
    try:
        text = json.dumps({} if schema is True else as_meant(schema))
    except (ValueError, TypeError) as error:
        raise ConstraintError(str(error)) from error
    return _made("grammar_from_json_schema", text, overrides=JSON_OPTIONS)


def lark_grammar(text: str) -> str:
    """That of a grammar in Lark's notation, or in GBNF, which has a rule `root ::=`."""
    if GBNF_RULE.search(text):
        try:
            text = importlib.import_module("llguidance.gbnf_to_lark").any_to_lark(text)
        except Exception as error:
            raise ConstraintError(f"grammar: {error}") from error
    return _made("grammar_from_lark", text)


def containing(text: str, name: str, inner: str | None) -> str:
    """A grammar in Lark's notation, in which `@name` stands for another one, if there is one."""
    if inner is None:
        return lark_grammar(text)
    try:
        named = json.loads(inner)["grammars"][0]
    except ValueError:  # one in Lark stands as it is
        named = {"lark_grammar": inner}
    return json.dumps({"grammars": [{"lark_grammar": text}, named | {"name": name}]})


def _made(how: str, given: str, **options: Any) -> str:
    try:
        grammar: str = getattr(_llguidance().LLMatcher, how)(given, **options)
    except ValueError as error:
        raise ConstraintError(_reason(str(error))) from error
    return grammar


def _reason(error: str) -> str:
    """Without the grammar, which follows line by line."""
    return LISTING.split(error)[0].strip()


def is_installed() -> bool:
    """Whether anything can be constrained at all."""
    return find_spec("llguidance") is not None


def _llguidance() -> Any:
    """Raises ModuleNotFoundError that says what to install."""
    try:
        return importlib.import_module("llguidance")
    except ModuleNotFoundError as error:
        wanted = f"answers in a shape need llguidance: {installing('structured')}"
        raise ModuleNotFoundError(wanted, name="llguidance") from error


class _Wrapped:
    """What llguidance asks of a tokenizer: tokens as bytes, which of them are control tokens, and
    how a text that goes on from another is cut.

    It has an end token more than there are, since there has to be one, and a vocabulary may have
    none: its bit in masks is beyond those that are looked at.
    """

    is_tokenizer_wrapper: Final = True
    bos_token_id: Final = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.n_vocab)
        self.eos_token_id = len(ids)
        self.tokens = [*map(tokenizer.token_bytes, ids), b""]
        shown = tokenizer.vocabulary.shown
        control = [i for i in ids if tokenizer.is_hidden(i) or i in shown]
        self.special_token_ids = [*control, self.eos_token_id]
        self._encode = tokenizer.encode_continuation

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode() if isinstance(text, bytes) else text)
