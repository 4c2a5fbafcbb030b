"""What answers may be, written as a grammar in Lark, as llguidance has it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from linnet.engine.chat.formats.schemas import GrammarError, has_type, options_of, values_of

COMMA: Final = '","'
SPACE: Final = '" "?'
LINE: Final = '"\\n"?'
ANY: Final = r"(.|\n)*"


@dataclass
class Lark:
    """Writes the rules of a grammar.

    `tokens`: the texts that are tokens which text does not give: they are written by id.
    `json_options`: llguidance's, of JSON texts.
    """

    tokens: Mapping[str, int]
    json_options: Mapping[str, Any]
    _rules: list[str] = field(default_factory=list)

    def text(self, text: str) -> str:
        """This text, perhaps none."""
        pieces = self._tokens.split(text) if self.tokens else [text]
        written = [
            f"<[{self.tokens[piece]}]>" if piece in self.tokens else _quoted(piece)
            for piece in pieces
            if piece
        ]
        return " ".join(written) or '""'

    def json(self, schema: Any) -> str:
        """A text in JSON that a schema allows."""
        if isinstance(schema, bool):
            schema = {} if schema else {"not": {}}
        return f"%json {json.dumps({**schema, 'x-guidance': dict(self.json_options)})}"

    def bare(
        self, schema: Any, close: str, *, without: Sequence[str] = (), null: bool = True
    ) -> str:
        """A text that a schema allows, as it is, up to `close`, and that; none of `without` is in
        it. `null`: whether that word is none, where the schema allows it. Raises GrammarError."""
        choices = _choices(schema, null=null)
        if choices is not None:
            return self.either(self.text(choice + close) for choice in choices)
        pattern = _pattern(schema)
        body = " & ".join([f"/{pattern}/", *(f"~/{ANY}{_escaped(t)}{ANY}/" for t in without)])
        if self._tokens.match(close):  # it is told by itself
            terminal = self.rule(f"({body}) & /(.|\\n)+/", is_terminal=True)
            may_be_empty = re.compile(pattern).fullmatch("") is not None
            return f"{terminal}{'?' * may_be_empty} {self.text(close)}"
        return self.rule(body, f"[suffix={_quoted(close)}]")

    def rule(self, body: str, attributes: str = "", *, is_terminal: bool = False) -> str:
        """Its name."""
        name = f"{'T' if is_terminal else 'r'}{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def either(self, bodies: Iterable[str]) -> str:
        return f"({' | '.join(bodies)})"

    def many(self, item: str, between: str, *, several: bool) -> str:
        """One or, where there may be several, more."""
        name = self.rule(item)
        return f"{name} ({between} {name})*" if several else name

    def in_order(self, items: Sequence[tuple[str, bool]], between: str) -> str:
        """Items in order, of which all that are required are there."""
        first, later = '""', '""'  # of what follows; after some
        for item, is_required in reversed(items):
            item = self.rule(item)
            with_it = f"{item} {later}"
            first = self.rule(with_it if is_required else f"{with_it} | {first}")
            later = self.rule(f"({between} {item}){'' if is_required else '?'} {later}")
        return first

    def grammar(self, start: str) -> str:
        """All of it."""
        return "\n".join([f"start: {start}", *self._rules])

    @property
    def _tokens(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if self.tokens else "(?!)")


def _choices(schema: Any, *, null: bool = True) -> list[str] | None:
    """The texts that a schema allows, where it lists them."""
    found: list[str] = []
    for option in options_of(schema):
        if has_type(option, "null") and not has_type(option, "string"):
            found += ["null"] * null
            continue
        values = values_of(option)
        if not values and has_type(option, "string"):
            return None
        found += [value for value in values if isinstance(value, str)]
        found += ["null"] * (null and None in values)
    return found


def _pattern(schema: Any) -> str:
    """An expression of the texts that a schema allows. Raises GrammarError."""
    patterns = []
    for option in options_of(schema):
        if _choices(option) is not None:
            patterns += [_escaped(choice) for choice in _choices(option) or ()]
            continue
        least, most = option.get("minLength", 0), option.get("maxLength", "")
        lengths = f"{{{least},{most}}}" if least or most != "" else "*"
        if "pattern" not in option:
            patterns.append(rf"(.|\n){lengths}")
        elif lengths != "*":
            raise GrammarError("'pattern' beside a length is more than such calls can be held to")
        else:
            patterns.append(_searched(option["pattern"]))
    return "|".join(patterns) if len(patterns) > 1 else patterns[0]


def _searched(pattern: str) -> str:
    """An expression that matches a whole text where `pattern` is found in it."""
    begins = pattern.startswith("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends].replace("/", r"\/")
    return f"{'' if begins else ANY}({inner}){'' if ends else ANY}"


def _escaped(text: str) -> str:
    """A text as an expression between slashes."""
    return re.escape(text).replace("/", r"\/").replace("\n", "n").replace("\\\\n", "\\n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
