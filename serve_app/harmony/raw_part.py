"""A part of a header while it comes: its tokens, and where they stand in the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from serve_app.harmony.characters import Characters
from serve_app.harmony.header_parts import Part, PartKind, part_of
from serve_app.harmony.recipients import Names


class Text(NamedTuple):
    """Text of the message that is open."""

    text: str
    """Empty where the tokens complete no character."""
    position: int
    """The first token's, in the answer."""
    num_tokens: int
    """0: what was left of the token at `position` and those before it."""


class RawPart:
    """The tokens of a part. `is_first`: `assistant` stands before it already, in the prompt."""

    __slots__ = ("_bytes", "ids", "is_first", "kind", "positions")

    def __init__(self, kind: PartKind, token_bytes: list[bytes], *, is_first: bool = False) -> None:
        self.kind, self.is_first = kind, is_first
        self._bytes = token_bytes
        self.ids: list[int] = []
        self.positions: list[int] = []

    def add(self, token_ids: Sequence[int], position: int) -> None:
        """Adds tokens that follow each other from `position` on."""
        self.ids += token_ids
        self.positions += range(position, position + len(token_ids))

    @property
    def text(self) -> str:
        """All of it."""
        return b"".join([self._bytes[token] for token in self.ids]).decode(errors="replace")

    def read(self, names: Names) -> Part:
        """Returns the part with its words taken apart."""
        return part_of(self.kind, self.text, names, is_first=self.is_first)

    def pieces(self, start: int, end: int) -> Iterator[Text]:
        """Yields the text from one character to another, token by token."""
        characters = Characters()
        after = 0
        for token, position in zip(self.ids, self.positions, strict=True):
            text = characters.decode(self._bytes[token])
            before, after = after, after + len(text)
            piece = text[max(start - before, 0) : max(end - before, 0)]
            if piece or (not text and start <= before < end):
                yield Text(piece, position, 1)
        if after < end and (rest := characters.end()):
            yield Text(rest, self.positions[-1], 0)
