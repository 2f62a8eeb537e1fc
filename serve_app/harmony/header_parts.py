"""The parts of a message's header, and their words: which belong to headers, and which are just said.

A header is a role part, then any number of channel parts and type parts (behind `<|channel|>` and
`<|constrain|>`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from serve_app.harmony.recipients import NAMESPACE, Names

ROLES = ("assistant", "user", "system", "developer", "tool")
CHANNELS = ("analysis", "commentary", "final")
CONTENT_TYPES = ("json", "code")
# Who is meant by these is the client.
READERS = ("user", "assistant", "all")

# What stands behind so many characters of a part is read as one word that means nothing: no header is that
# long, but an answer without any header is one for as long as it goes on.
_MAX_READ_CHARS = 4096
_KEYWORDS = "|".join((*ROLES, *CHANNELS, *CONTENT_TYPES))
_KEYWORD = re.compile(_KEYWORDS)
# Words of a header, glued together or not, with punctuation around them; then a recipient.
_HEADER_WORD = re.compile(rf"[\W_]*(?:(?:{_KEYWORDS})[\W_]*)*(?P<to>to=(?P<name>.*))?", re.DOTALL)
# Words end at whitespace, and at the markers of harmony spelled as text.
_WORD = re.compile(r"(?:(?!<\|[a-z]+\|>)\S)+")
# What may stand at the end of a cut header.
_BEGINNINGS = (*ROLES, *CHANNELS, *CONTENT_TYPES, "to=", NAMESPACE)


class PartKind(Enum):
    """What a part of a header is about."""

    ROLE = "role"
    CHANNEL = "channel"
    TYPE = "type"


@dataclass(slots=True)
class Word:
    """A word of a header and where it begins in its part."""

    text: str
    start: int
    keywords: list[str] = field(default_factory=list)
    """The roles, channels and content types that it consists of."""
    name: str | None = None
    """What stands behind `to=`."""

    @property
    def is_header(self) -> bool:
        """Whether it can only be part of a header: a role, a channel, a recipient."""
        return self.name is not None or any(keyword not in CONTENT_TYPES for keyword in self.keywords)

    @property
    def is_known(self) -> bool:
        """Whether it is that or a content type."""
        return self.name is not None or bool(self.keywords)

    @property
    def may_become_header(self) -> bool:
        """Whether it may be the beginning of a word that only a header has."""
        return self.text.startswith(NAMESPACE) or any(known.startswith(self.text) for known in _BEGINNINGS)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a header, with its words."""

    kind: PartKind
    text: str
    words: list[Word]
    is_assistants: bool = False
    """Whether it is a role part that begins with `assistant`, which is not among the words."""

    @property
    def is_functions(self) -> bool:
        """Whether a function speaks, as `functions.NAME` at the place of the role says."""
        if self.kind is not PartKind.ROLE or self.is_assistants or not self.words:
            return False
        return self.words[0].text.startswith(NAMESPACE)

    def lone_name(self, names: Names) -> str | None:
        """Returns the tool that is named by a word which stands alone among words of a header."""
        if self.kind is PartKind.TYPE or self.is_functions:
            return None
        others = [word.text for word in self.words if not word.is_known]
        # A tool may be called like a content type. It is meant only where no other is named.
        others = [name for name in others if name not in CONTENT_TYPES] or others
        if len(others) != 1:
            return None
        return next((said for said in (others[0], others[0].removeprefix(NAMESPACE)) if said in names), None)

    def text_span(self, names: Names, *, is_cut: bool) -> tuple[int, int]:
        """Returns from where to where the part is no header but text, in a header without `<|message|>`.

        `is_cut`: there may have been more, so what may become a word of a header is none.
        """
        if self.kind is PartKind.TYPE or self.lone_name(names):
            return 0, 0
        num_leading = next((i for i, word in enumerate(self.words) if not word.is_header), len(self.words))
        rest = self.words[num_leading:]
        if all(word.is_known for word in rest) or (is_cut and len(rest) == 1 and rest[0].may_become_header):
            return 0, 0
        return rest[0].start, len(self.text.rstrip())


def part_of(kind: PartKind, text: str, names: Names, *, is_first: bool = False) -> Part:
    """Returns a part with its words taken apart.

    `is_first`: `assistant` stands before it already, in the prompt.
    """
    start, is_assistants = 0, is_first
    if kind is PartKind.ROLE and not is_first and text.startswith("assistant"):
        start, is_assistants = len("assistant"), True
    words = list(_words(text, start, names))
    if is_assistants and words and words[0].start == start:
        # A word that is glued to `assistant` is no role.
        words[0].keywords = [word for word in words[0].keywords if word not in ROLES or word == "assistant"]
    return Part(kind, text, words, is_assistants)


def may_be_header(text: str, names: Names) -> bool:
    """Returns whether a text that has only begun may be the words of a role part."""
    words = part_of(PartKind.ROLE, text, names).words
    is_whole = all(word.is_header for word in words[:-1])
    return is_whole and (not words or words[-1].is_header or words[-1].may_become_header)


def _words(text: str, start: int, names: Names) -> Iterator[Word]:
    found = [Word(match[0], match.start()) for match in _WORD.finditer(text, start, _MAX_READ_CHARS)]
    for word in found:
        if match := _HEADER_WORD.fullmatch(word.text):
            before = match.start("to") if match["to"] else len(word.text)
            word.keywords = _KEYWORD.findall(word.text, 0, before)
            word.name = match["name"]
        if word.text in CONTENT_TYPES and word.text in names.offered:
            word.keywords = []
    if text[_MAX_READ_CHARS:].strip():
        found.append(Word(text[_MAX_READ_CHARS:], _MAX_READ_CHARS))
    is_taken = False
    for index, word in enumerate(found):
        if is_taken:
            # It was the name behind a `to=` that stood alone.
            is_taken = False
            continue
        if word.name == "" and index + 1 < len(found) and _is_name(found[index + 1], names):
            word.name, is_taken = found[index + 1].text, True
        yield word


def _is_name(word: Word, names: Names) -> bool:
    return word.text in names or word.text in READERS or not word.is_known
