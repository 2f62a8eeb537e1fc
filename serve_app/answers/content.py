"""Content: the text of an item that stop strings may cut, and the log probabilities of its tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from serve_app.answers.items import TokenLogprob
from serve_app.answers.stop_strings import Match, StopSearch, StopStrings

Released = tuple[str, list[TokenLogprob]]
"""Text, and the log probabilities of the tokens whose text begins in it."""


class _Fed(NamedTuple):
    """Tokens whose text is held back, at least in part."""

    start: int
    """Where in the text theirs begins."""
    end: int
    position: int
    """The first one's, in the answer."""
    tokens_for: Callable[[int], int] | None
    """Returns how many of them it takes to complete so many characters of their text; None: there is one."""


class Content:
    """The text of one item."""

    __slots__ = ("_fed", "_keeps_stop_string", "_logprobs", "_num_released", "_search", "match", "num_chars")

    def __init__(self, strings: StopStrings, *, keeps_stop_string: bool) -> None:
        self._search = StopSearch(strings) if strings else None
        self._keeps_stop_string = keeps_stop_string
        self.num_chars = 0
        self._num_released = 0
        self._fed: deque[_Fed] = deque()
        # Where the text of a token begins, and its log probability.
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()
        self.match: Match | None = None
        """The stop string that has ended the text."""

    @property
    def last_position(self) -> int:
        """The position of the token that has completed `match`."""
        assert self.match is not None
        end = self.match.end
        fed = next(fed for fed in self._fed if fed.end >= end)
        num_tokens = 1 if fed.tokens_for is None else fed.tokens_for(end - fed.start)
        return fed.position + num_tokens - 1

    def feed(
        self,
        text: str,
        position: int,
        logprob: TokenLogprob | None = None,
        tokens_for: Callable[[int], int] | None = None,
    ) -> Released:
        """Returns what can be shown after the text of the token at `position`; see `match` then.

        Tokens without log probabilities may come together, with a `tokens_for` as `_Fed` has it.
        """
        start = self.num_chars
        self.num_chars += len(text)
        if logprob is not None:
            self._logprobs.append((start, logprob))
        search = self._search
        if search is None:
            return self._release(text)
        released = search.feed(text)
        if search.num_released == self.num_chars:
            self._fed.clear()
            return self._release(released)
        self._fed.append(_Fed(start, self.num_chars, position, tokens_for))
        return self._finish(search, released) if search.is_decided else self._release(released)

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
        logprobs: list[TokenLogprob] = []
        while self._logprobs and self._logprobs[0][0] < self._num_released:
            logprobs.append(self._logprobs.popleft()[1])
        return text, logprobs
