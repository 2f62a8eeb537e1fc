"""The answer to a Chat Completions request: chunks from the events of its items, and the body from chunks.

Almost all chunks of a stream hold nothing but a piece of text. Those are a `TextChunk`, whose bytes are made
of parts that are the same in all chunks of their kind.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serve_app.answers.items import (
    AnswerEnded,
    CallBegan,
    Delta,
    Finish,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
)
from serve_app.answers.usage import Usage
from serve_app.api.chat.choice import Choice, Kind
from serve_app.api.chat.fold import fold
from serve_app.api.chat.logprobs import LogprobsWriter
from serve_app.api.chat.response import (
    ChatChunk,
    ChatDelta,
    ChatEvent,
    ChatUsage,
    ChunkChoice,
    FinishReason,
    FunctionDelta,
    TextChunk,
    ToolCallDelta,
)
from serve_app.api.event_lines import on_one_line
from serve_app.api.exchange import Start
from serve_app.errors import ServiceError, body_of

_FINISH_REASONS: dict[Finish, FinishReason] = {
    Finish.STOP: "stop",
    Finish.CALLS: "tool_calls",
    Finish.LENGTH: "length",
}
_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a request wants to see of its answer."""

    num_choices: int = 1
    request_id: str | None = None
    """What the client calls the request; its answer's id follows from it."""
    service_tier: str = "default"
    has_reasoning: bool = True
    has_usage: bool = True
    has_running_usage: bool = False
    """Usage in all chunks."""
    num_top_logprobs: int | None = 0
    """None: all that come."""
    has_token_names: bool = True
    """False: tokens in log probabilities are `token_id:NUMBER`."""
    has_prompt_token_ids: bool = False
    has_token_ids: bool = False
    echoed: str = ""
    """Text that is put before the content of each choice."""


class ChatEncoder:
    """Makes chunks of events. One for each answer."""

    def __init__(self, options: AnswerOptions, start: Start) -> None:
        self._options, self._start = options, start
        self._id = f"chatcmpl-{options.request_id or uuid.uuid4().hex}"
        self._logprobs = LogprobsWriter(start.detokenize, options.num_top_logprobs, options.has_token_names)
        self._choices = [Choice(index) for index in range(options.num_choices)]
        # Of each choice, what stands around the text of its content, and around the texts of its reasoning.
        self._frames: list[tuple[list[bytes], list[bytes]]] = []
        self._watches_tokens = options.has_token_ids or options.has_running_usage

    def begin(self) -> list[ChatEvent]:
        """Returns the chunks with the role."""
        chunks: list[ChatEvent] = []
        for choice in self._choices:
            chunk = self._chunk(choice, ChatDelta(role="assistant", content=""))
            if self._options.has_prompt_token_ids and choice.index == 0:
                chunk.prompt_token_ids = list(self._start.prompt_token_ids)
            chunks.append(chunk)
        if self._options.echoed:
            for choice in self._choices:
                choice.echo()
                chunks.append(self._chunk(choice, ChatDelta(content=self._options.echoed)))
        return chunks

    def feed(self, choice: int, events: Sequence[ItemEvent], token_ids: Sequence[int]) -> list[ChatEvent]:
        """Returns the chunks of a choice's events."""
        ours = self._choices[choice]
        ours.num_tokens += len(token_ids)
        chunks: list[ChatEvent] = []
        for event in events:
            if type(event) is Delta:
                text = ours.first(event.text) if ours.is_fresh else event.text
                kind = ours.kind
                if kind is Kind.CONTENT and event.logprobs:
                    chunk = self._chunk(ours, ChatDelta(content=text))
                    chunk.choices[0].logprobs = self._logprobs.write(event.logprobs)
                    chunks.append(chunk)
                elif not text or kind is Kind.HIDDEN:
                    continue
                elif kind is Kind.CALL:
                    call = ToolCallDelta(ours.num_calls - 1, FunctionDelta(text))
                    chunks.append(self._chunk(ours, ChatDelta(tool_calls=[call])))
                else:
                    chunks.append(TextChunk(choice, kind is Kind.REASONING, text))
            elif other := self._chunk_of(ours, event):
                chunks.append(other)
        return self._with_tokens(ours, chunks, token_ids) if self._watches_tokens else chunks

    def end(self, usage: Usage) -> list[ChatEvent]:
        """Returns the chunk with the usage, if it was asked for."""
        if not self._options.has_usage:
            return []
        chunk = self._empty()
        chunk.usage = ChatUsage.of(usage)
        return [chunk]

    def to_bytes(self, event: ChatEvent) -> bytes:
        """Returns a chunk as a server-sent event."""
        if type(event) is TextChunk:
            frames = self._frames or self._new_frames()
            text = _encode(event.text)
            if not event.text.isascii():
                text = on_one_line(text)
            return text.join(frames[event.choice][event.is_reasoning])
        return b"data: " + on_one_line(_encode(event)) + b"\n\n"

    def last_bytes(self) -> bytes:
        """Returns OpenAI's mark of a stream's end."""
        return _DONE

    def error_bytes(self, error: ServiceError) -> bytes:
        """Returns an event with OpenAI's error object, and the end."""
        return b"data: " + on_one_line(_encode(body_of(error))) + b"\n\n" + _DONE

    def fold(self, events: Iterable[ChatEvent]) -> dict[str, Any]:
        """Returns the body that says what the chunks say."""
        return fold(self._empty(), self._options.num_choices, events)

    def _empty(self) -> ChatChunk:
        start = self._start
        return ChatChunk(self._id, start.created, start.model, self._options.service_tier, [])

    def _chunk(self, choice: Choice, delta: ChatDelta) -> ChatChunk:
        chunk = self._empty()
        chunk.choices.append(ChunkChoice(choice.index, delta))
        if self._options.has_running_usage:
            num_prompt_tokens = len(self._start.prompt_token_ids)
            chunk.usage = ChatUsage(
                num_prompt_tokens, choice.num_tokens, num_prompt_tokens + choice.num_tokens
            )
        return chunk

    def _chunk_of(self, choice: Choice, event: ItemEvent) -> ChatChunk | None:
        match event:
            case ReasoningBegan():
                choice.begin(Kind.REASONING if self._options.has_reasoning else Kind.HIDDEN)
            case TextBegan():
                choice.begin(Kind.CONTENT)
            case CallBegan(name):
                choice.begin(Kind.CALL)
                function = FunctionDelta("", name)
                call = ToolCallDelta(choice.num_calls, function, f"call_{secrets.token_hex(12)}", "function")
                choice.num_calls += 1
                return self._chunk(choice, ChatDelta(tool_calls=[call]))
            case AnswerEnded():
                choice.num_tokens = event.completion_tokens
                chunk = self._chunk(choice, ChatDelta())
                chunk.choices[0].finish_reason = _FINISH_REASONS[event.finish]
                is_string = event.stop_string is not None
                chunk.choices[0].stop_reason = event.stop_string if is_string else event.stop_token
                return chunk
        return None

    def _with_tokens(
        self, choice: Choice, chunks: list[ChatEvent], token_ids: Sequence[int]
    ) -> list[ChatEvent]:
        """Returns the chunks in full, with the tokens that led to them in the last one."""
        whole = [self._whole(chunk) for chunk in chunks]
        if self._options.has_token_ids and token_ids:
            if not whole:
                whole = [self._chunk(choice, ChatDelta())]
            whole[-1].choices[0].token_ids = list(token_ids)
        return list[ChatEvent](whole)

    def _whole(self, event: ChatEvent) -> ChatChunk:
        if isinstance(event, ChatChunk):
            return event
        return self._chunk(self._choices[event.choice], _text_delta(event.is_reasoning, event.text))

    def _new_frames(self) -> list[tuple[list[bytes], list[bytes]]]:
        """Makes the frames from chunks with a text that JSON escapes as nothing else in a chunk."""
        mark = _encode("\0")
        for index in range(self._options.num_choices):
            chunks = (self._whole(TextChunk(index, is_reasoning, "\0")) for is_reasoning in (False, True))
            content, reasoning = (self.to_bytes(chunk).split(mark) for chunk in chunks)
            self._frames.append((content, reasoning))
        return self._frames


def _text_delta(is_reasoning: bool, text: str) -> ChatDelta:
    # Both names: clients read either.
    return ChatDelta(reasoning=text, reasoning_content=text) if is_reasoning else ChatDelta(content=text)
