"""Templates in our sandbox write what they write in plain jinja2."""

from __future__ import annotations

import json
import re
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from linnet.engine.chat.worker import Sandbox


def plain() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **how: json.dumps(
        value, **{"ensure_ascii": False, **how}
    )
    return environment


PLAIN, OURS = plain(), Sandbox()
VALUES: dict[str, Any] = {
    "text": "a<b>&'\"é🦙",
    "spelled": "\\udc41 \\n",
    "number": 3,
    "real": 1.5,
    "none": None,
    "flag": True,
    "items": ["<", 1, None, ["&", "\\udc42"]],
    "mapping": {"k": "<v>", "n": {"m": [1.0, "'"]}},
}


def written(environment: jinja2.Environment, source: str) -> str:
    """What it writes, or the kind of error it ends in."""
    try:
        return environment.from_string(source).render(VALUES)
    except Exception as error:
        return type(error).__name__


ATOMS = (
    *("text", "spelled", "number", "real", "none", "flag", "items", "mapping", "missing"),
    *("missing.deep", "'<'", "'&' | e", "'<i>' | safe", "'\\\\udc41'", "''", "1", "-2.5", "true"),
    *("[]", "[1, '<']", "{'a': '&'}", "('<', 1)", "[none] | list", "caller", "namespace(a=1)"),
    *("range(3)", "m('<')", "m('&' | e) ~ m(1)"),
)
FILTERS = (
    *("e", "escape", "safe", "forceescape", "upper", "lower", "trim", "string", "length", "list"),
    *(
        "join",
        "tojson",
        "title",
        "capitalize",
        "first",
        "last",
        "reverse | list",
        "sort",
        "unique | list",
        "int",
    ),
    *("float", "abs", "striptags", "urlencode", "wordcount", "items | list", "xmlattr", "pprint"),
    *("dictsort", "default('<')", "join('<')", "replace('<', '&')", "indent(2)", "center(9)"),
    *(
        "batch(2) | list",
        "map('e') | list",
        "truncate(3)",
        "format(1)",
        "attr('x')",
        "tojson(indent=1)",
    ),
    *("tojson(ensure_ascii=true)", "map('string') | join", "join('&' | e)", "map('upper') | list"),
    "replace('a', '<' | e)",
)
SHAPES = (
    *("(A ~ B)", "(A ~ B ~ C)", "(A ~ B | FILTER)", "(A | FILTER)", "(A if B else C)", "[A, B]"),
    *("m(A)", "(A OPERATOR B)"),
)
OPERATORS = ("+", "*", "%", "and", "or", "==", "in", "<", "is eq")


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    shape = draw(st.sampled_from(SHAPES)) if depth else "A"
    words = {"FILTER": FILTERS, "OPERATOR": OPERATORS}
    for word in re.findall(r"\b(?:A|B|C|FILTER|OPERATOR)\b", shape):
        if word in words:
            grown = draw(st.sampled_from(words[word]))
        else:
            deeper = expressions(depth - 1) if depth else st.nothing()
            grown = draw(st.sampled_from(ATOMS) | deeper)
        shape = re.sub(rf"\b{word}\b", lambda _, grown=grown: grown, shape, count=1)
    return shape


AROUND = st.sampled_from(
    [
        "{{ X }}",
        "{% set x = X %}{{ x ~ x }}|{{ x }}",
        "{% set x %}{{ X }}<{% endset %}{{ x ~ '&' }}",
        "{% for i in [X, X] %}{{ loop.index ~ i }}{% if i %}{% break %}{% endif %}{% endfor %}",
        "{% filter upper %}{{ X }}{% endfilter %}",
        "{% call m(X) %}{{ X }}{% endcall %}",
        "{% autoescape true %}{{ X }}{{ '<' ~ X }}{% endautoescape %}",
        "{% autoescape flag %}{{ '<' ~ (X) }}{{ m(X) ~ '<' }}{% endautoescape %}",
        "{% if X ~ '' %}yes{% else %}no{% endif %}",
    ]
)
MACRO = "{% macro m(x) %}<{{ x }}>{{ caller() if caller else '' }}{% endmacro %}"


@settings(max_examples=600, deadline=None)
@given(source=AROUND, expression=expressions())
def test_expressions_are_written_as_by_jinja2(source: str, expression: str) -> None:
    source = MACRO + source.replace("X", expression)
    assert written(OURS, source) == written(PLAIN, source)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'<' ~ ('&' | e)", "<&amp;"),
        ("('a' | safe) ~ [1, '<']", "a[1, '<']"),
        ("([1] | join | safe) ~ '\"'", '1"'),
        ("'<' | forceescape ~ '<'", "&lt;<"),
        ("('<' | safe) | upper ~ '&'", "<&"),
        ("'<enum>' ~ ([1, 'c'] | tojson | safe) ~ '</enum>'", '<enum>[1, "c"]</enum>'),
        ("missing ~ none ~ 1.0", "None1.0"),
    ],
)
def test_concatenation_makes_text_of_markup(expression: str, expected: str) -> None:
    assert written(PLAIN, f"{{{{ {expression} }}}}") == expected
    assert written(OURS, f"{{{{ {expression} }}}}") == expected


def test_half_surrogate_pairs_come_through_a_list() -> None:
    """Which plain jinja2 escapes: control tokens in messages are hidden as such."""
    source = "{{ x }}{{ x ~ x }}{{ x | tojson(ensure_ascii=true) }}"
    text = OURS.from_string(source).render(x=["\udc41"])
    assert text == "['\udc41']['\udc41']['\udc41'][\"\udc41\"]"


def test_a_generation_block_is_a_scope() -> None:
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert written(OURS, source) == "21"
