"""What answers Chat Completions: the body, and the chunks of a stream.

`reasoning` and `reasoning_content` are the same text: clients read either.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from serve_app.answers.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(msgspec.Struct, frozen=True, gc=False):
    """A token that might have stood at a place, and the log of its probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(msgspec.Struct, frozen=True):
    """A token of the content."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct, frozen=True):
    """Log probabilities of the content's tokens; of nothing else."""

    content: list[TokenLogprobs]
    refusal: None = None


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Part of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Part of the answer's tokens."""

    reasoning_tokens: int


class ChatUsage(msgspec.Struct, frozen=True):
    """What an answer has cost. The usage in the middle of a stream is without details."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET

    @classmethod
    def of(cls, usage: Usage) -> ChatUsage:
        """Returns a whole answer's usage."""
        return cls(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            PromptTokensDetails(usage.cached_tokens),
            CompletionTokensDetails(usage.reasoning_tokens),
        )


class CalledFunction(msgspec.Struct):
    """What the model calls, and its arguments in its own words."""

    name: str
    arguments: str


class MessageToolCall(msgspec.Struct):
    """A call."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct):
    """What the model has said. Preambles and the answer are both content."""

    content: str | None
    reasoning: str | None
    reasoning_content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: list[MessageToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct):
    """One of the answers."""

    index: int
    message: ChatMessage
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    """The stop string or the token of `stop_token_ids` that has ended it."""
    logprobs: Logprobs | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatAnswer(msgspec.Struct):
    """The body of an answer that is not streamed."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage | None
    service_tier: str
    object: Literal["chat.completion"] = "chat.completion"
    system_fingerprint: str | None = None
    prompt_token_ids: list[int] | UnsetType = UNSET


class FunctionDelta(msgspec.Struct):
    """The name comes once, and then pieces of the arguments."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct):
    """More of a call."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(msgspec.Struct):
    """More of a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """More of one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct):
    """An event of a stream. The one with the usage of all has no choices."""

    id: str
    created: int
    model: str
    service_tier: str
    choices: list[ChunkChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    system_fingerprint: str | None = None
    usage: ChatUsage | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class TextChunk(msgspec.Struct, gc=False):
    """A `ChatChunk` with nothing but a piece of text, in short: most are."""

    choice: int
    is_reasoning: bool
    """Else it is content."""
    text: str


ChatEvent = ChatChunk | TextChunk
