"""The Responses API's objects: items, the response, and the events of a stream, by OpenAI's names."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Phase = Literal["commentary", "final_answer"]


class TopLogprob(msgspec.Struct, gc=False):
    """A likely token, and its log probability."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(msgspec.Struct, gc=False):
    """A token of the answer, its log probability, and the likeliest at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    """The one part of a message."""

    text: str
    annotations: list[dict[str, Any]] = []
    logprobs: list[Logprob] = []


class ReasoningText(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    """The one part of a reasoning item."""

    text: str


class SummaryText(msgspec.Struct, tag_field="type", tag="summary_text"):
    """Of a summary; this service writes none."""

    text: str


class Message(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """What the model says: before a call (`commentary`) or at the end (`final_answer`)."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    phase: Phase
    content: list[OutputText]


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning", kw_only=True):
    """A stretch of chain of thought. `encrypted_content` is there when it was asked for."""

    id: str
    status: ItemStatus
    summary: list[SummaryText] = []
    content: list[ReasoningText]
    encrypted_content: str | msgspec.UnsetType = msgspec.UNSET


class FunctionCall(msgspec.Struct, tag_field="type", tag="function_call", kw_only=True):
    """A call of a function. `namespace` is there when the function was offered in one."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    namespace: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str


Item = Message | ReasoningItem | FunctionCall
Part = OutputText | ReasoningText


class ResponseError(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct):
    """Why a response is not whole."""

    reason: Literal["max_output_tokens", "content_filter"]


class ReasoningConfig(msgspec.Struct):
    """How the model was to think."""

    effort: Literal["low", "medium", "high"]
    summary: str | None = None


class InputTokensDetails(msgspec.Struct):
    """Of the prompt's tokens. None is written to a cache that would cost something."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct):
    """Of the answer's tokens."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """What a response has cost, in tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Response(msgspec.Struct, kw_only=True):
    """The response object: every field that OpenAI's schema and Open Responses' have."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    presence_penalty: float
    frequency_penalty: float
    previous_response_id: None = None
    prompt_cache_key: str | None
    reasoning: ReasoningConfig
    safety_identifier: str | None
    service_tier: str
    store: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class Created(msgspec.Struct, tag_field="type", tag="response.created"):
    """The first event."""

    sequence_number: int
    response: Response


class InProgress(msgspec.Struct, tag_field="type", tag="response.in_progress"):
    """The second event."""

    sequence_number: int
    response: Response


class Completed(msgspec.Struct, tag_field="type", tag="response.completed"):
    """The last event of an answer that is whole."""

    sequence_number: int
    response: Response


class Incomplete(msgspec.Struct, tag_field="type", tag="response.incomplete"):
    """The last event of an answer that was cut."""

    sequence_number: int
    response: Response


class Failed(msgspec.Struct, tag_field="type", tag="response.failed"):
    """The last event of an answer that an error has ended."""

    sequence_number: int
    response: Response


class Error(msgspec.Struct, tag_field="type", tag="error"):
    """An error, flat as OpenAI's schema has it, and nested as OpenAI's clients look for it."""

    sequence_number: int
    code: str | None
    message: str
    param: str | None
    error: dict[str, Any]


class ItemAdded(msgspec.Struct, tag_field="type", tag="response.output_item.added"):
    """An item begins."""

    sequence_number: int
    output_index: int
    item: Item


class ItemDone(msgspec.Struct, tag_field="type", tag="response.output_item.done"):
    """An item has ended."""

    sequence_number: int
    output_index: int
    item: Item


class PartAdded(msgspec.Struct, tag_field="type", tag="response.content_part.added"):
    """The part of a message or a reasoning item begins."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: Part


class PartDone(msgspec.Struct, tag_field="type", tag="response.content_part.done"):
    """The part of a message or a reasoning item has ended."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: Part


class TextDelta(msgspec.Struct, tag_field="type", tag="response.output_text.delta", gc=False):
    """More of a message."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[Logprob] = []


class TextDone(msgspec.Struct, tag_field="type", tag="response.output_text.done"):
    """All of a message."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[Logprob]


class ReasoningDelta(msgspec.Struct, tag_field="type", tag="response.reasoning_text.delta", gc=False):
    """More of a reasoning item."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningDone(msgspec.Struct, tag_field="type", tag="response.reasoning_text.done"):
    """All of a reasoning item."""

    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class ArgumentsDelta(
    msgspec.Struct, tag_field="type", tag="response.function_call_arguments.delta", gc=False
):
    """More of a call's arguments."""

    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(msgspec.Struct, tag_field="type", tag="response.function_call_arguments.done"):
    """All of a call's arguments."""

    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str


Closing = Completed | Incomplete | Failed
ResponseEvent = (
    Created
    | InProgress
    | ItemAdded
    | PartAdded
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
    | PartDone
    | ItemDone
    | Completed
    | Incomplete
    | Failed
    | Error
)
