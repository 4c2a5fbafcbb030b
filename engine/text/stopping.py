"""Find the end of a text that comes piece by piece: the first of any number of stop strings.

All are looked for at once, a character at a time, with the automaton of Aho and Corasick
("Efficient string matching: an aid to bibliographic search", 1975): the time is linear in the
text, whatever the stop strings are and however many.
"""

from __future__ import annotations

from collections.abc import Iterable

from linnet.engine.text.tokenizer import HIDDEN, Tokenizer, revealed


class StoppingDetokenizer:
    """Tokens that go on from others to text, up to a stop string.

    A control token in a stop string counts as that token, or as its name where the model spells it.
    """

    __slots__ = ("_controls", "_detokenizer", "_matcher", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str], *, skip_special: bool) -> None:
        """`skip_special`: see `Tokenizer.decode`. Raises what `StopMatcher` raises."""
        self._tokenizer, stop = tokenizer, [*stop]
        self._detokenizer = tokenizer.detokenizer(skip_special=skip_special, continues=True)
        # What gives no text is in the matcher's as its hidden name, which no text can hold.
        hidden = [tokenizer.hide_control_tokens(string) for string in stop if skip_special]
        self._controls = [string for string in hidden if HIDDEN.search(string)]
        self._matcher = StopMatcher([*stop, *self._controls])

    @property
    def matched(self) -> str | None:
        """The stop string that was found, or None; once there is one, no more text comes out."""
        found = self._matcher.matched
        return None if found is None else revealed(found)

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; raises `TokenizerError` for a wrong id."""
        text = self._detokenizer.push(token_id)
        if self._controls and self._tokenizer.is_hidden(token_id):
            name = self._tokenizer.hide_control_tokens(self._tokenizer.vocabulary.texts[token_id])
            text += name if any(name in string for string in self._controls) else ""
        return HIDDEN.sub("", self._matcher.push(text))

    def finish(self) -> str:
        """The rest of the text."""
        text = self._matcher.push(self._detokenizer.finish()) + self._matcher.finish()
        return HIDDEN.sub("", text)


class StopMatcher:
    """Gives text on until a stop string is complete, and never any part of that string.

    The stop string that is complete first counts; of those complete at the same character, the
    longest. So the outcome does not depend on how the text is cut into pieces.
    """

    __slots__ = ("_automaton", "_held", "_matched", "_state")

    def __init__(self, stop: Iterable[str]) -> None:
        """`stop` are the stop strings; raises `ValueError` if one of them is empty."""
        self._automaton = _Automaton(stop)
        self._state = 0
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that was found, or None; once there is one, no more text comes out."""
        return self._matched

    def push(self, text: str) -> str:
        """Take the next piece of the text; give back what cannot be part of a stop string."""
        if self._matched is not None:
            return ""
        automaton, state = self._automaton, self._state
        held = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            state = automaton.step(state, character)
            length = automaton.match_lengths[state]
            if length:
                self._matched = held[end - length : end]
                self._held = ""
                return held[: end - length]
        self._state = state
        n_free = len(held) - automaton.depths[state]
        self._held = held[n_free:]
        return held[:n_free]

    def finish(self) -> str:
        """The text is over: give back what was held."""
        held, self._held, self._state = self._held, "", 0
        return held


class _Automaton:
    """A state is a node in the tree of all beginnings of stop strings: the longest that the text
    ends in. State 0 is the empty one."""

    __slots__ = ("_edges", "_fallbacks", "depths", "match_lengths")

    def __init__(self, strings: Iterable[str]) -> None:
        self._edges: dict[tuple[int, str], int] = {}
        self._fallbacks = [0]  # the next longest beginning that the text ends in
        self.depths = [0]  # how many characters that is
        self.match_lengths = [0]  # of the longest stop string that the text ends in, or 0
        for string in strings:
            if not string:
                raise ValueError("a stop string is ''; it must have at least 1 character")
            self._add(string)
        self._link()

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (following := self._edges.get((state, character))) is None:
            if state == 0:
                return 0
            state = self._fallbacks[state]
        return following

    def _add(self, string: str) -> None:
        state = 0
        for depth, character in enumerate(string, start=1):
            following = self._edges.setdefault((state, character), len(self.depths))
            if following == len(self.depths):
                self.depths.append(depth)
                self._fallbacks.append(0)
                self.match_lengths.append(0)
            state = following
        self.match_lengths[state] = len(string)

    def _link(self) -> None:
        """Find each state's fallback, which is less deep, from those of less deep states."""
        by_depth = sorted(self._edges.items(), key=lambda edge: self.depths[edge[1]])
        for (parent, character), state in by_depth:
            if parent != 0:
                self._fallbacks[state] = self.step(self._fallbacks[parent], character)
            if not self.match_lengths[state]:
                self.match_lengths[state] = self.match_lengths[self._fallbacks[state]]
