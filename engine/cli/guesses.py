"""What somebody may have meant who misspelled a flag or a command: likely words, or none."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

ALIKE = 0.75  # of 1: "hff" and "hf" are 0.8, "perf" and "temp" 0.5
MOST = 3


def close(word: str, known: Iterable[str]) -> list[str]:
    """Those spelled nearly so, or of which it is the beginning, or which it begins with: the
    likeliest first."""
    scores = {name: _likeness(word, name) for name in known if len(name.lstrip("-")) > 1}
    likely = [name for name, score in scores.items() if score >= ALIKE]
    return sorted(likely, key=lambda name: -scores[name])[:MOST]


def _likeness(word: str, name: str) -> float:
    """From 0 to 1; dashes count for little, but "no-" turns a flag into another."""
    (negated, word), (also_negated, name) = _plain(word), _plain(name)
    if negated != also_negated or not word:
        return 0.0
    if (len(word) > 2 and name.startswith(word)) or (len(name) > 3 and word.startswith(name)):
        return max(ALIKE, min(len(word), len(name)) / max(len(word), len(name)))
    return SequenceMatcher(a=word, b=name, autojunk=False).ratio()


def _plain(flag: str) -> tuple[bool, str]:
    """Whether it begins with "no-", and what is left without that and dashes."""
    text = flag.lstrip("-").lower()
    negated = text.startswith("no-")
    return negated, text.removeprefix("no-").replace("-", "").replace("_", "")
