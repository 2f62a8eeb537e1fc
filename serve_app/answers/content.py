"""Content: the text of an item that stop strings may cut, and the log probabilities of its tokens."""

from __future__ import annotations

from collections import deque

from serve_app.answers.items import TokenLogprob
from serve_app.answers.stop_strings import Match, StopSearch, StopStrings

Released = tuple[str, list[TokenLogprob]]
"""Text, and the log probabilities of the tokens whose text begins in it."""


class Content:
    """The text of one item, token by token."""

    __slots__ = ("_ends", "_keeps_stop_string", "_logprobs", "_num_released", "_search", "match", "num_chars")

    def __init__(self, strings: StopStrings, *, keeps_stop_string: bool) -> None:
        self._search = StopSearch(strings) if strings else None
        self._keeps_stop_string = keeps_stop_string
        self.num_chars = 0
        self._num_released = 0
        # Of tokens whose text is held back: where it ends, and their position in the answer.
        self._ends: deque[tuple[int, int]] = deque()
        # Where the text of a token begins, and its log probability.
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()
        self.match: Match | None = None
        """The stop string that has ended the text."""

    @property
    def last_position(self) -> int:
        """The position of the token that has completed `match`."""
        assert self.match is not None
        end = self.match.end
        return next(position for token_end, position in self._ends if token_end >= end)

    def feed(self, text: str, position: int, logprob: TokenLogprob | None) -> Released:
        """Returns what can be shown after the text of the token at `position`; see `match` then."""
        if logprob is not None:
            self._logprobs.append((self.num_chars, logprob))
        self.num_chars += len(text)
        search = self._search
        if search is None:
            return self._release(text)
        self._ends.append((self.num_chars, position))
        released = search.feed(text)
        if search.is_decided:
            return self._finish(search, released)
        if search.num_released == self.num_chars:
            self._ends.clear()
        return self._release(released)

    def end(self) -> Released:
        """Returns what was held back: no more text follows."""
        search = self._search
        if search is None:
            return self._release("")
        released = search.end()
        return self._finish(search, released) if search.match is not None else self._release(released)

    def _finish(self, search: StopSearch, released: str) -> Released:
        self.match = search.match
        assert self.match is not None
        return self._release(released + self.match.string if self._keeps_stop_string else released)

    def _release(self, text: str) -> Released:
        self._num_released += len(text)
        logprobs = []
        while self._logprobs and self._logprobs[0][0] < self._num_released:
            logprobs.append(self._logprobs.popleft()[1])
        return text, logprobs
