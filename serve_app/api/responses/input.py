"""The input of a Responses request as the turns of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from serve_app.api.fields import convert, quoted
from serve_app.api.responses.tools import flat_name
from serve_app.api.sealing import Sealer, UnsealError
from serve_app.api.text_parts import text_of
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Instructions,
    Reasoning,
    ToolResult,
    Turn,
    UserText,
)

# Items of tools that are not served here: a client that has talked to another service has them in its
# history, and what was made of them is in the messages that follow. References: AI SDK sends them in place of
# reasoning and texts unless it is told that nothing is stored, in each turn but the first.
REFERENCE = "item_reference"
LEFT_OUT = frozenset(
    {
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "computer_call",
        "computer_call_output",
        "file_search_call",
        "image_generation_call",
        REFERENCE,
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
# Items that stand for content that is not in the request. Without it the conversation would be another one.
REFUSED = {
    "compaction": "holds what only the service that has made it can read",
    "compaction_summary": "holds what only the service that has made it can read",
    "context_compaction": "holds what only the service that has made it can read",
    "configuration_update": "changes the reasoning effort in the middle, which is not served",
    "compaction_trigger": "asks for a compaction, which is not served",
}


class _MessageItem(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Any]
    phase: Literal["commentary", "final_answer"] | None = None
    status: str | None = None


class _ReasoningItem(msgspec.Struct, frozen=True):
    content: list[Any] | None = None
    summary: list[Any] | None = None
    encrypted_content: str | None = None


class _CallItem(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class _CustomCallItem(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    input: str
    namespace: str | None = None


class _OutputItem(msgspec.Struct, frozen=True):
    call_id: str
    output: str | list[Any]


class _ToolsItem(msgspec.Struct, frozen=True):
    tools: list[dict[str, Any]]


@dataclass(slots=True)
class ReadInput:
    """What an input holds."""

    turns: list[Turn] = field(default_factory=list)
    tools: list[tuple[list[dict[str, Any]], str]] = field(default_factory=list)
    """Lists of tools that stand among the items, and where."""
    warnings: list[str] = field(default_factory=list)
    is_continued: bool = False
    """Whether the last item is an answer that was cut, for the model to go on with."""


def read_input(value: str | Sequence[Mapping[str, Any]] | None, sealer: Sealer) -> ReadInput:
    """Returns what an `input` holds. Raises `BadRequestError` with the place of what cannot be read."""
    if value is None:
        raise BadRequestError("input: this field is missing", "input")
    if isinstance(value, str):
        return ReadInput([UserText(value)])
    if not value:
        raise BadRequestError("input must not be empty", "input")
    reader = _Reader(sealer)
    for index, item in enumerate(value):
        reader.add(item, f"input[{index}]")
    read = reader.read
    if not read.turns:
        raise BadRequestError("input has no item that this service can answer to", "input")
    read.turns = _with_preambles(read.turns)
    last, is_cut = read.turns[-1], reader.is_last_cut
    read.is_continued = is_cut and isinstance(last, AssistantText) and last.channel == "final"
    return read


class _Reader:
    def __init__(self, sealer: Sealer) -> None:
        self.read = ReadInput()
        self.is_last_cut = False
        self._sealer = sealer
        # Of the nearest call so far.
        self._names_by_id: dict[str, str] = {}
        self._readers: dict[str, Callable[[Mapping[str, Any], str], Iterator[Turn]]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._call,
            "function_call_output": self._output,
            "custom_tool_call": self._custom_call,
            "custom_tool_call_output": self._output,
            "additional_tools": self._tools,
        }

    def add(self, item: Mapping[str, Any], place: str) -> None:
        kind = item.get("type")
        if kind is None:
            kind = "message" if "role" in item else REFERENCE if "id" in item else None
        self.is_last_cut = False
        if isinstance(kind, str):
            if reader := self._readers.get(kind):
                self.read.turns.extend(reader(item, place))
                return
            if kind in LEFT_OUT:
                why = "nothing is stored, send items whole" if kind == REFERENCE else "not served"
                self.read.warnings.append(f"{place}: {kind}: {why}")
                return
            if reason := REFUSED.get(kind):
                raise BadRequestError(f"{place} is of type {kind}: it {reason}", place)
        said = quoted(kind) if isinstance(kind, str) else "no text"
        raise BadRequestError(f"{place}.type is {said}, which is no kind of item", f"{place}.type")

    def _message(self, item: Mapping[str, Any], place: str) -> Iterator[Turn]:
        message = convert(item, _MessageItem, place)
        text = text_of(message.content, f"{place}.content")
        match message.role:
            case "user":
                yield UserText(text)
            case "assistant" if text:
                self.is_last_cut = message.status in ("in_progress", "incomplete")
                yield AssistantText(text, "commentary" if message.phase == "commentary" else "final")
            case "system" | "developer" if text:
                yield Instructions(text)

    def _reasoning(self, item: Mapping[str, Any], place: str) -> Iterator[Turn]:
        reasoning = convert(item, _ReasoningItem, place)
        text = _reasoning_text(reasoning.content, f"{place}.content")
        if not text and reasoning.encrypted_content:
            text = self._unseal(reasoning.encrypted_content, f"{place}.encrypted_content")
        if text := text or _reasoning_text(reasoning.summary, f"{place}.summary"):
            yield Reasoning(text)

    def _unseal(self, sealed: str, param: str) -> str:
        try:
            return self._sealer.unseal(sealed)
        except UnsealError as error:
            raise BadRequestError(
                f"{param} cannot be read: {error}", param, "invalid_encrypted_content"
            ) from None

    def _call(self, item: Mapping[str, Any], place: str) -> Iterator[Turn]:
        call = convert(item, _CallItem, place)
        yield self._called(call.call_id, call.name, call.namespace, call.arguments, place)

    def _custom_call(self, item: Mapping[str, Any], place: str) -> Iterator[Turn]:
        call = convert(item, _CustomCallItem, place)
        yield self._called(call.call_id, call.name, call.namespace, call.input, place)

    def _called(self, call_id: str, name: str, namespace: str | None, arguments: str, place: str) -> Call:
        if not name:
            raise BadRequestError(f"{place}.name is empty", f"{place}.name")
        self._names_by_id[call_id] = name = flat_name(name, namespace)
        return Call(name, arguments)

    def _output(self, item: Mapping[str, Any], place: str) -> Iterator[Turn]:
        output = convert(item, _OutputItem, place)
        name = self._names_by_id.get(output.call_id)
        if name is None:
            param = f"{place}.call_id"
            raise BadRequestError(
                f"{param} is {quoted(output.call_id)}, and no call before it has that id", param
            )
        yield ToolResult(name, text_of(output.output, f"{place}.output"))

    def _tools(self, item: Mapping[str, Any], place: str) -> Iterator[Turn]:
        self.read.tools.append((convert(item, _ToolsItem, place).tools, f"{place}.tools"))
        yield from ()


def _reasoning_text(parts: list[Any] | None, place: str) -> str:
    texts: list[str] = []
    for index, part in enumerate(parts or ()):
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            param = f"{place}[{index}]"
            raise BadRequestError(f"{param} is not a part with a text", param)
        texts.append(text)
    return "".join(texts)


def _with_preambles(turns: Sequence[Turn]) -> list[Turn]:
    """Returns the turns, with what the assistant has said before a call as a preamble.

    Chain of thought before a final answer is dropped: a text that the model has only called the end, and then
    gone on to a call, must not take it away in the middle of a loop of tools.
    """
    marked: list[Turn] = []
    is_call_ahead = False
    for turn in reversed(turns):
        if isinstance(turn, UserText):
            is_call_ahead = False
        elif isinstance(turn, Call):
            is_call_ahead = True
        elif isinstance(turn, AssistantText) and is_call_ahead:
            marked.append(AssistantText(turn.text, "commentary"))
            continue
        marked.append(turn)
    marked.reverse()
    return marked
