"""Stop strings: where a text ends because one of some strings begins in it, however the text arrives.

Of all that occur, the one that begins first counts; of those that begin at the same place, the one that is
complete first. What may be the beginning of one is held back until more text decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary


@dataclass(frozen=True, slots=True)
class Match:
    """A stop string, and where in the text it stands."""

    string: str
    start: int
    end: int


class StopStrings:
    """The strings, as an automaton (Aho and Corasick's): a character of text costs the same, however many.

    A state is the longest end of the text that is the beginning of a string.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        """Empty strings stop nothing."""
        self._next: list[dict[str, int]] = [{}]
        self._depths = [0]
        # Of each state: the next shorter end of the text that is the beginning of a string, and the longest
        # string that the text ends with.
        self._shorter = [0]
        self._found: list[str | None] = [None]
        for string in strings:
            if string:
                self._add(string)
        self._link()
        first = "".join(self._next[0])
        self._first = re.compile(f"[{re.escape(first)}]" if first else r"(?!)")

    @classmethod
    def of(cls, strings: tuple[str, ...]) -> StopStrings:
        """Returns the automaton of these strings: one for all that are in use at a time.

        The largest takes 30 ms to make and some megabytes, and a request may have 128 answers.
        """
        if (known := _in_use.get(strings)) is None:
            known = _in_use[strings] = cls(strings)
        return known

    def __bool__(self) -> bool:
        return bool(self._next[0])

    def first_in(self, text: str, start: int) -> int:
        """Returns where in a text, from `start` on, a string may begin; the text's end if nowhere."""
        match = self._first.search(text, start)
        return match.start() if match else len(text)

    def _add(self, string: str) -> None:
        state = 0
        for depth, character in enumerate(string, 1):
            following = self._next[state].get(character)
            if following is None:
                following = self._next[state][character] = len(self._next)
                self._next.append({})
                self._depths.append(depth)
                self._shorter.append(0)
                self._found.append(None)
            state = following
        self._found[state] = string

    def _link(self) -> None:
        states = list(self._next[0].values())
        for state in states:
            for character, following in self._next[state].items():
                states.append(following)
                shorter = self._shorter[following] = self.step(self._shorter[state], character)
                if self._found[following] is None:
                    self._found[following] = self._found[shorter]

    def step(self, state: int, character: str) -> int:
        """Returns the state behind one more character."""
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)

    def depth(self, state: int) -> int:
        """Returns how many characters the beginning of a string has that the text ends with."""
        return self._depths[state]

    def found(self, state: int) -> str | None:
        """Returns the longest stop string that the text ends with."""
        return self._found[state]


# Those that some answer still needs.
_in_use: WeakValueDictionary[tuple[str, ...], StopStrings] = WeakValueDictionary()


class StopSearch:
    """The search in one text."""

    __slots__ = ("_held", "_state", "_strings", "match", "num_chars", "num_released")

    def __init__(self, strings: StopStrings) -> None:
        self._strings = strings
        self._state = 0
        self._held = ""
        self.num_chars = 0
        """Characters of the text that were looked at."""
        self.num_released = 0
        """Those of them that were returned."""
        self.match: Match | None = None
        """The first stop string, as far as is known; for good when `is_decided`."""

    @property
    def is_decided(self) -> bool:
        """Whether nothing that follows can begin before `match`."""
        if self.match is None:
            return False
        return self.num_chars - self._strings.depth(self._state) >= self.match.start

    def feed(self, text: str) -> str:
        """Returns what of the text so far is certainly before any stop string, and was not returned before.

        When `is_decided`, that is all; what follows must not be fed.
        """
        strings = self._strings
        self._held += text
        index, num_before = 0, self.num_chars
        while index < len(text) and not self.is_decided:
            if not self._state:
                index = strings.first_in(text, index)
                if index == len(text):
                    break
            self._state = strings.step(self._state, text[index])
            index += 1
            self.num_chars = num_before + index
            if found := strings.found(self._state):
                start = self.num_chars - len(found)
                if self.match is None or start < self.match.start:
                    self.match = Match(found, start, self.num_chars)
        self.num_chars = num_before + index
        safe = self.num_chars - strings.depth(self._state)
        return self._release(safe if self.match is None else min(safe, self.match.start))

    def end(self) -> str:
        """Returns what was held back, up to `match` if there is one: the text is complete."""
        return self._release(self.num_chars if self.match is None else self.match.start)

    def _release(self, end: int) -> str:
        num_chars = end - self.num_released
        released, self._held = self._held[:num_chars], self._held[num_chars:]
        self.num_released = end
        return released
