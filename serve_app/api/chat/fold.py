"""The body of a Chat Completions answer, made of the chunks that would have been its stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from serve_app.api.chat.response import (
    CalledFunction,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatEvent,
    ChatMessage,
    ChatUsage,
    ChunkChoice,
    FinishReason,
    Logprobs,
    MessageToolCall,
    TextChunk,
    TokenLogprobs,
)


def fold(empty: ChatChunk, num_choices: int, events: Iterable[ChatEvent]) -> dict[str, Any]:
    """Returns the body. `empty` is a chunk of the answer, for what all of them say alike."""
    choices = [_Choice(index) for index in range(num_choices)]
    usage: ChatUsage | None = None
    prompt_token_ids: list[int] | UnsetType = UNSET
    for event in events:
        if isinstance(event, TextChunk):
            choice = choices[event.choice]
            (choice.reasoning if event.is_reasoning else choice.content).append(event.text)
            continue
        for part in event.choices:
            choices[part.index].add(part)
        # The last one is that of all choices.
        usage = event.usage or usage
        prompt_token_ids = event.prompt_token_ids or prompt_token_ids
    answer = ChatAnswer(
        empty.id,
        empty.created,
        empty.model,
        [choice.whole() for choice in choices],
        usage,
        empty.service_tier,
        prompt_token_ids=prompt_token_ids,
    )
    body: dict[str, Any] = msgspec.to_builtins(answer)
    return body


class _Choice:
    """What has come of one choice: pieces, joined once."""

    def __init__(self, index: int) -> None:
        self._index = index
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self._calls: list[MessageToolCall] = []
        self._arguments: list[list[str]] = []
        self._logprobs: list[TokenLogprobs] | None = None
        self._token_ids: list[int] | UnsetType = UNSET
        self._finish_reason: FinishReason = "stop"
        self._stop_reason: str | int | None = None

    def add(self, part: ChunkChoice) -> None:
        """Takes more of it."""
        delta = part.delta
        if delta.content:
            self.content.append(delta.content)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        for call in delta.tool_calls or ():
            if call.id:
                self._calls.append(MessageToolCall(call.id, CalledFunction(call.function.name or "", "")))
                self._arguments.append([])
            self._arguments[call.index].append(call.function.arguments)
        if part.logprobs:
            self._logprobs = self._logprobs or []
            self._logprobs += part.logprobs.content
        if part.token_ids:
            self._token_ids = self._token_ids or []
            self._token_ids += part.token_ids
        if part.finish_reason:
            self._finish_reason = part.finish_reason
            self._stop_reason = None if part.stop_reason is UNSET else part.stop_reason

    def whole(self) -> ChatChoice:
        """Returns the choice as the body has it."""
        content, reasoning = "".join(self.content), "".join(self.reasoning) or None
        for call, arguments in zip(self._calls, self._arguments, strict=True):
            call.function.arguments = "".join(arguments)
        return ChatChoice(
            self._index,
            ChatMessage(content or None, reasoning, reasoning, tool_calls=self._calls or UNSET),
            self._finish_reason,
            self._stop_reason,
            None if self._logprobs is None else Logprobs(self._logprobs),
            self._token_ids,
        )
