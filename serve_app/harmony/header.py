"""The header of a message: who speaks to whom on which channel, as far as its words can be made out.

A header is everything up to `<|message|>`: a role part, then any number of channel parts and type parts
(behind `<|channel|>` and `<|constrain|>`). Models leave parts out, repeat them, and glue words together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, cast

from serve_app.harmony.slips import Slip

Channel = Literal["analysis", "commentary", "final"]

ROLES = ("assistant", "user", "system", "developer", "tool")
CHANNELS = ("analysis", "commentary", "final")
CONTENT_TYPES = ("json", "code")
NAMESPACE = "functions."
# Who is meant by these is the client.
READERS = ("user", "assistant", "all")
# Beside `functions.*` and names with a dot, what calls itself this is a tool.
BUILT_IN_TOOL = "python"

# More of these steps than a name could need, few enough that a name of any length costs little.
_MAX_STEPS = 16
# What stands behind so many characters of a part is read as one word that means nothing: no header is that
# long, but an answer without any header is one for as long as it goes on.
_MAX_READ_CHARS = 4096
_KEYWORDS = "|".join((*ROLES, *CHANNELS, *CONTENT_TYPES))
_KEYWORD = re.compile(_KEYWORDS)
# Words of a header, glued together or not, with punctuation around them; then a recipient.
_HEADER_WORD = re.compile(rf"[\W_]*(?:(?:{_KEYWORDS})[\W_]*)*(?P<to>to=(?P<name>.*))?", re.DOTALL)
# Words end at whitespace, and at the markers of harmony spelled as text.
_WORD = re.compile(r"(?:(?!<\|[a-z]+\|>)\S)+")
# What a tool's name does not begin with; at its end see `_without_edges`.
_LEADING = re.compile(r"[^\w-]*")
_NAME_CHARACTER = re.compile(r"[\w-]")
# What may stand at the end of a cut header.
_HEADER_WORDS = (*ROLES, *CHANNELS, *CONTENT_TYPES, "to=", NAMESPACE)


class PartKind(Enum):
    """What a part of a header is about."""

    ROLE = "role"
    CHANNEL = "channel"
    TYPE = "type"


class Author(Enum):
    """Whose message it is."""

    ASSISTANT = "assistant"
    TOOL = "tool"
    """A tool: the model has invented its result."""
    OTHER = "other"
    """The user, the system or the developer."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names that a recipient may be meant to be."""

    offered: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    """Known, and not offered."""

    def __contains__(self, name: str) -> bool:
        return name in self.offered or name in self.others


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says."""

    channel: Channel | None = None
    recipient: str | None = None
    """One of `Names`, or what the model said without `functions.`; None: the client."""
    author: Author = Author.ASSISTANT


@dataclass(slots=True)
class Word:
    """A word of a header and where it begins in its part."""

    text: str
    start: int
    keywords: list[str] = field(default_factory=list)
    """The header words that it consists of."""
    name: str | None = None
    """What stands behind `to=`."""

    @property
    def is_header(self) -> bool:
        """Whether it is part of a header's language: a role, a channel, a recipient."""
        return self.name is not None or any(keyword not in CONTENT_TYPES for keyword in self.keywords)

    @property
    def is_known(self) -> bool:
        """Whether it is that or a content type."""
        return self.name is not None or bool(self.keywords)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a header, with its words."""

    kind: PartKind
    text: str
    words: list[Word]
    is_assistants: bool = False
    """Whether it is a role part that begins with `assistant`, which is not among the words."""


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


def _words(text: str, start: int, names: Names) -> Iterator[Word]:
    found = [Word(match[0], match.start()) for match in _WORD.finditer(text, start, _MAX_READ_CHARS)]
    for word in found:
        if match := _HEADER_WORD.fullmatch(word.text):
            before = match.start("to") if match["to"] else len(word.text)
            word.keywords = _KEYWORD.findall(word.text, 0, before)
            word.name = match["name"]
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


def read_header(parts: Sequence[Part], names: Names, slips: Counter[str]) -> Header:
    """Returns what the words of a header say, and counts what had to be guessed."""
    channel = _channel(parts, slips)
    recipient, is_to_assistant = _recipient(parts, names, slips)
    author = _author(parts, names, recipient, is_to_assistant)
    if author is not Author.ASSISTANT:
        slips[Slip.OTHER_AUTHOR] += 1
    elif channel is None:
        slips[Slip.NO_CHANNEL] += 1
    return Header(channel, recipient, author)


def _channel(parts: Sequence[Part], slips: Counter[str]) -> Channel | None:
    said = [
        (keyword, word, part)
        for part in parts
        if part.kind is not PartKind.TYPE
        for word in part.words
        for keyword in word.keywords
        if keyword in CHANNELS
    ]
    if not said:
        return None
    channel, word, part = said[-1]
    if len(said) > 1 or word.text != channel or part.kind is PartKind.ROLE:
        slips[Slip.HEADER_CHANNEL] += 1
    return cast(Channel, channel)


def _recipient(parts: Sequence[Part], names: Names, slips: Counter[str]) -> tuple[str | None, bool]:
    """Returns the recipient (None: the client), and whether it is the assistant."""
    said = [word.name for part in parts for word in part.words if word.name]
    if not said:
        lone = [name for part in parts if (name := _lone_name(part, names))]
        if lone:
            slips[Slip.HEADER_RECIPIENT] += 1
            return lone[-1], False
        _count_junk(parts, slips)
        return None, False
    _count_junk(parts, slips)
    meant = [(name, resolve(name, names)) for name in said]
    offered = [pair for pair in meant if pair[1] in names.offered]
    known = [pair for pair in meant if pair[1] is not None]
    name, known_name = (offered or known or meant)[-1]
    if len(said) > 1 or (known_name is not None and name != NAMESPACE + known_name):
        slips[Slip.HEADER_RECIPIENT] += 1
    if known_name is not None:
        return known_name, False
    bare = _without_edges(name)
    if not bare or bare in READERS:
        return None, bare == "assistant"
    return name.removeprefix(NAMESPACE) or name, False


def _lone_name(part: Part, names: Names) -> str | None:
    """Returns the tool that a part names by a word that stands alone among words of a header."""
    if part.kind is PartKind.TYPE or _is_tools(part):
        return None
    others = [word.text for word in part.words if not word.is_known]
    if len(others) != 1:
        return None
    name = others[0]
    return next((said for said in (name, name.removeprefix(NAMESPACE)) if said in names), None)


def _count_junk(parts: Sequence[Part], slips: Counter[str]) -> None:
    if any(not word.is_known for part in parts if part.kind is not PartKind.TYPE for word in part.words):
        slips[Slip.HEADER_JUNK] += 1


def _author(parts: Sequence[Part], names: Names, recipient: str | None, is_to_assistant: bool) -> Author:
    part = next((part for part in parts if part.kind is PartKind.ROLE), None)
    if part is None or not part.words:
        return Author.ASSISTANT
    if recipient is None and (_is_tools(part) or (is_to_assistant and _is_named_as_tool(part, names))):
        return Author.TOOL
    for word in part.words:
        if not word.is_header:
            break
        for keyword in word.keywords:
            if keyword in ROLES and keyword != "assistant":
                return Author.TOOL if keyword == "tool" else Author.OTHER
    return Author.ASSISTANT


def _is_tools(part: Part) -> bool:
    """Whether a part says that a function speaks, as `functions.NAME` at the place of the role does."""
    if part.kind is not PartKind.ROLE or part.is_assistants or not part.words:
        return False
    return part.words[0].text.startswith(NAMESPACE)


def _is_named_as_tool(part: Part, names: Names) -> bool:
    first = part.words[0].text
    return not part.is_assistants and (first in names or "." in first.strip(".") or first == BUILT_IN_TOOL)


def resolve(name: str, names: Names) -> str | None:
    """Returns the known name that is meant by what a model said behind `to=`, None if there is none.

    `functions.` before it and what leaks into its end (markers, content types, channels, punctuation) are
    taken off one by one, until a known name is left.
    """
    for _ in range(_MAX_STEPS):
        if name in names:
            return name
        shorter = _shorter(name)
        if shorter == name:
            return None
        name = shorter
    return None


def _shorter(name: str) -> str:
    if name.startswith(NAMESPACE):
        return name.removeprefix(NAMESPACE)
    if "<|" in name:
        return name[: name.index("<|")]
    if (stripped := _without_edges(name)) != name:
        return stripped
    for word in (*CONTENT_TYPES, *CHANNELS):
        if name.endswith(word):
            return name.removesuffix(word)
    return name


def _without_edges(name: str) -> str:
    match = _LEADING.match(name)
    start, end = match.end() if match else 0, len(name)
    while end > start and not _NAME_CHARACTER.match(name, end - 1):
        end -= 1
    return name[start:end]


def text_in(part: Part, names: Names, *, is_cut: bool) -> tuple[int, int]:
    """Returns from where to where a part of a header that ended without `<|message|>` is text, not header.

    `is_cut`: there may have been more, so the beginning of a header word is none.
    """
    if part.kind is PartKind.TYPE or _lone_name(part, names):
        return 0, 0
    first = next((index for index, word in enumerate(part.words) if not word.is_header), None)
    rest = part.words[first:] if first is not None else []
    if all(word.is_known for word in rest):
        return 0, 0
    if is_cut and len(rest) == 1 and _may_become_header(rest[0]):
        return 0, 0
    return rest[0].start, len(part.text.rstrip())


def _may_become_header(word: Word) -> bool:
    return word.text.startswith(NAMESPACE) or any(known.startswith(word.text) for known in _HEADER_WORDS)


def may_be_header(text: str, names: Names) -> bool:
    """Returns whether a text that has only begun may be the words of a role part."""
    words = part_of(PartKind.ROLE, text, names).words
    is_whole = all(word.is_header for word in words[:-1])
    return is_whole and (not words or words[-1].is_header or _may_become_header(words[-1]))
