"""A conversation in harmony's terms: the APIs make it of their requests, and the renderer a prompt of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Effort = Literal["low", "medium", "high"]
TextChannel = Literal["commentary", "final"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is its JSON schema, None for no parameters."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class UserText:
    """What the user says."""

    text: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Instructions:
    """A system or developer message of the client's, wherever it stands in the conversation."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Chain of thought: the channel `analysis`."""

    text: str


@dataclass(frozen=True, slots=True)
class AssistantText:
    """What the assistant has said: a preamble (`commentary`) or an answer (`final`)."""

    text: str
    channel: TextChannel = "final"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function. `name` is without a namespace, `arguments` text as it came."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a function has returned. `name` is that of the call it belongs to."""

    name: str
    text: str


Turn = UserText | Instructions | Reasoning | AssistantText | Call | ToolResult


@dataclass(frozen=True, slots=True)
class Conversation:
    """All that is rendered. `turns` are in order; which chain of thought is kept is the renderer's business.

    With `is_continued`, the last turn is an `AssistantText` that the model goes on with: no end token follows
    it, and the answer begins inside its text.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    effort: Effort = "medium"
    is_continued: bool = False
