"""The header of a message: who speaks to whom on which channel, as far as its words can be made out.

Models leave parts out, repeat them, and glue words together. What a word means depends little on its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, cast

from serve_app.harmony.header_parts import CHANNELS, READERS, ROLES, Part, PartKind
from serve_app.harmony.recipients import NAMESPACE, Names, bare, resolve
from serve_app.harmony.slips import Slip

Channel = Literal["analysis", "commentary", "final"]

# Beside `functions.*` and names with a dot, what calls itself this is a tool.
BUILT_IN_TOOL = "python"


class Author(Enum):
    """Whose message it is."""

    ASSISTANT = "assistant"
    TOOL = "tool"
    """A tool: the model has invented its result."""
    OTHER = "other"
    """The user, the system or the developer."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says."""

    channel: Channel | None = None
    recipient: str | None = None
    """One of `Names`, or what the model said without `functions.`; None: the client."""
    author: Author = Author.ASSISTANT


def read_header(parts: Sequence[Part], names: Names, slips: Counter[str]) -> Header:
    """Returns what the words of a header say, and counts what had to be guessed."""
    channel = _channel(parts, slips)
    recipient, is_to_assistant = _recipient(parts, names, slips)
    author = Author.ASSISTANT
    if parts and parts[0].kind is PartKind.ROLE:
        author = _author(parts[0], names, recipient, is_to_assistant)
    if author is not Author.ASSISTANT:
        slips[Slip.OTHER_AUTHOR] += 1
    elif channel is None:
        slips[Slip.NO_CHANNEL] += 1
    return Header(channel, recipient, author)


def _channel(parts: Sequence[Part], slips: Counter[str]) -> Channel | None:
    """Returns the last channel that is named."""
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
    """Returns the recipient (None: the client), and whether it is the assistant.

    That is what the last `to=` names, if one of them names an offered tool, the last of those; without any,
    a tool whose name stands there alone.
    """
    said = [word.name for part in parts for word in part.words if word.name]
    lone = [] if said else [name for part in parts if (name := part.lone_name(names))]
    if lone:
        slips[Slip.HEADER_RECIPIENT] += 1
        return lone[-1], False
    if any(not word.is_known for part in parts if part.kind is not PartKind.TYPE for word in part.words):
        slips[Slip.HEADER_JUNK] += 1
    if not said:
        return None, False
    meant = [(name, resolve(name, names)) for name in said]
    offered = [pair for pair in meant if pair[1] in names.offered]
    known = [pair for pair in meant if pair[1] is not None]
    name, known_name = (offered or known or meant)[-1]
    if len(said) > 1 or (known_name is not None and name != NAMESPACE + known_name):
        slips[Slip.HEADER_RECIPIENT] += 1
    if known_name is not None:
        return known_name, False
    if (reader := bare(name)) in READERS or not reader:
        return None, reader == "assistant"
    return name.removeprefix(NAMESPACE) or name, False


def _author(role: Part, names: Names, recipient: str | None, is_to_assistant: bool) -> Author:
    """Returns whose message it is by the words that its role part begins with."""
    if recipient is None and (role.is_functions or (is_to_assistant and _is_named_as_tool(role, names))):
        return Author.TOOL
    for word in role.words:
        if not word.is_header:
            break
        for keyword in word.keywords:
            if keyword in ROLES and keyword != "assistant":
                return Author.TOOL if keyword == "tool" else Author.OTHER
    return Author.ASSISTANT


def _is_named_as_tool(role: Part, names: Names) -> bool:
    if role.is_assistants or not role.words:
        return False
    first = role.words[0].text
    return first in names or "." in first.strip(".") or first == BUILT_IN_TOOL
