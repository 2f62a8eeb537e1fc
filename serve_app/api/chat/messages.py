"""The messages of a Chat Completions request as the turns of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from serve_app.api.chat.request import (
    AssistantMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    ToolMessage,
    UserMessage,
)
from serve_app.api.fields import quoted
from serve_app.api.text_parts import text_of
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Instructions,
    Reasoning,
    TextChannel,
    ToolResult,
    Turn,
    UserText,
)

# A client's word for an assistant's text that is (not) the answer, whatever comes after it.
_CHANNELS: dict[str, TextChannel] = {"commentary": "commentary", "final_answer": "final"}


def turns_of(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """Returns the turns of all messages. Raises `BadRequestError` with the place of what cannot be read."""
    return tuple(_Turns().all_of(messages))


class _Turns:
    def __init__(self) -> None:
        # The name of what was called last with an id; those of calls without one, for their older form.
        self._names_by_id: dict[str, str] = {}
        self._called: set[str] = set()

    def all_of(self, messages: Sequence[Message]) -> Iterator[Turn]:
        leads_to_call = _lead_to_call(messages)
        for index, message in enumerate(messages):
            place = f"messages[{index}]"
            match message:
                case AssistantMessage():
                    yield from self._of_assistant(message, place, leads_to_call[index])
                case ToolMessage():
                    name = self._names_by_id.get(message.tool_call_id)
                    if name is None:
                        param = f"{place}.tool_call_id"
                        raise BadRequestError(
                            f"{param} is {quoted(message.tool_call_id)}, and no call before it has that id",
                            param,
                        )
                    yield ToolResult(name, text_of(message.content, f"{place}.content"))
                case FunctionMessage():
                    if message.name not in self._called:
                        param = f"{place}.name"
                        raise BadRequestError(
                            f"{param} is {quoted(message.name)}, and no call before it is of that function",
                            param,
                        )
                    yield ToolResult(message.name, text_of(message.content, f"{place}.content"))
                case UserMessage():
                    yield UserText(text_of(message.content, f"{place}.content"), message.name)
                case _:
                    if text := text_of(message.content, f"{place}.content"):
                        yield Instructions(text)

    def _of_assistant(self, message: AssistantMessage, place: str, leads_to_call: bool) -> Iterator[Turn]:
        """Yields what the answer was made of, in harmony's order: analysis, preamble, calls."""
        if reasoning := message.reasoning or message.reasoning_content:
            yield Reasoning(reasoning)
        if text := text_of(message.content, f"{place}.content") or message.refusal:
            channel: TextChannel = "commentary" if leads_to_call else "final"
            yield AssistantText(text, _CHANNELS.get(message.phase or "", channel))
        for index, call in enumerate(message.tool_calls or ()):
            param = f"{place}.tool_calls[{index}]"
            if call.type not in (None, "function"):
                raise BadRequestError(
                    f"{param} is of type {quoted(call.type)}; calls of functions are served only", param
                )
            if call.function is None:
                raise BadRequestError(f"{param}.function: this field is missing", f"{param}.function")
            if call.id is not None:
                self._names_by_id[call.id] = call.function.name
            yield self._of_call(call.function)
        if message.function_call:
            yield self._of_call(message.function_call)

    def _of_call(self, call: FunctionCall) -> Call:
        self._called.add(call.name)
        arguments = call.arguments
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        return Call(call.name, arguments or "")


def _lead_to_call(messages: Iterable[Message]) -> list[bool]:
    """Returns of each message whether the assistant's next turn that is not reasoning is a call."""
    answers: list[bool] = []
    is_call_next = False
    for message in reversed(list(messages)):
        if isinstance(message, AssistantMessage):
            is_call_next = is_call_next or bool(message.tool_calls or message.function_call)
        else:
            is_call_next = False
        answers.append(is_call_next)
    answers.reverse()
    return answers
