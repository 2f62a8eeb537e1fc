"""How far one choice of a Chat Completions answer is, while its events become chunks."""

from __future__ import annotations

from enum import Enum, auto

from serve_app.answers.items import SEPARATOR


class Kind(Enum):
    """Where the text of the item that is open goes."""

    CONTENT = auto()
    REASONING = auto()
    HIDDEN = auto()
    CALL = auto()


class Choice:
    """How far a choice is."""

    __slots__ = ("_is_echoed", "_said", "index", "is_fresh", "kind", "num_calls", "num_tokens")

    def __init__(self, index: int) -> None:
        self.index = index
        self.kind = Kind.CONTENT
        self.is_fresh = False
        """Whether the item that is open has no text yet, and a separator may have to come first."""
        self.num_calls = 0
        self.num_tokens = 0
        self._said: set[Kind] = set()
        self._is_echoed = False

    def echo(self) -> None:
        """The text that comes first goes on with one that is there already."""
        self._said.add(Kind.CONTENT)
        self._is_echoed = True

    def begin(self, kind: Kind) -> None:
        """An item begins."""
        self.kind = kind
        goes_on = self._is_echoed and kind is Kind.CONTENT
        self.is_fresh = kind is not Kind.CALL and not goes_on
        self._is_echoed = False

    def first(self, text: str) -> str:
        """Returns an item's first text, with what separates it from the one before it."""
        if not text:
            return text
        self.is_fresh = False
        if self.kind in self._said:
            return SEPARATOR + text
        self._said.add(self.kind)
        return text
