"""The body of a Chat Completions request: OpenAI's fields and vLLM's further ones.

Fields that are not here are ignored, and so is null. What a field may hold beyond its type is checked where
it is used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serve_app.api.structured_outputs import StructuredOutputs

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# OpenAI's limit.
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
# OpenAI's is 128.
MAX_TOOLS = 1024
# More than OpenAI's 4. Each is looked for in each piece of an answer.
MAX_STOP_STRINGS = 32
MAX_STOP_CHARS = 1000
# It stands in each chunk of a stream.
MAX_REQUEST_ID_CHARS = 256
MAX_CACHE_SALT_CHARS = 1024

Content = Annotated[
    str | list[Any] | None,
    Meta(description="A text, or a list of parts of the types text, input_text, output_text and refusal."),
]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Argument = str | Int64 | float | list[str | Int64 | float]


class FunctionCall(msgspec.Struct, frozen=True):
    """What was called. Arguments are JSON as text; an object is accepted, too."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """A call that an earlier answer has made."""

    id: str | None = None
    type: str | None = None
    function: FunctionCall | None = None


class SystemMessage(msgspec.Struct, frozen=True, tag_field="role", tag="system"):
    """The same as a developer message."""

    content: Content = None


class DeveloperMessage(msgspec.Struct, frozen=True, tag_field="role", tag="developer"):
    """Instructions of the application."""

    content: Content = None


class UserMessage(msgspec.Struct, frozen=True, tag_field="role", tag="user"):
    """What the user says."""

    content: Content = None
    name: str | None = None


class AssistantMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant"):
    """An earlier answer, with all that this service puts into one."""

    content: Content = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The same as `reasoning`, by its older name."""
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    """One of `tool_calls`, as OpenAI's API had it before."""
    phase: str | None = None
    """`commentary` for a text that is not the answer, as in Responses."""


class ToolMessage(msgspec.Struct, frozen=True, tag_field="role", tag="tool"):
    """What a call has returned."""

    tool_call_id: str
    content: Content = None


class FunctionMessage(msgspec.Struct, frozen=True, tag_field="role", tag="function"):
    """A tool message, as OpenAI's API had it before."""

    name: str
    content: Content = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


class Function(msgspec.Struct, frozen=True):
    """A function that may be called. `parameters` is its JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class FunctionTool(msgspec.Struct, frozen=True):
    """A tool. Those of other types than `function` are refused."""

    type: str | None = None
    function: Function | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """A schema for the answer, and what OpenAI calls it."""

    name: str
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """What the answer must look like: OpenAI's types, and vLLM's `structural_tag` in its two forms."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    format: dict[str, Any] | None = None
    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's: usage in each chunk, only with `include_usage`."""


class ReasoningOptions(msgspec.Struct, frozen=True):
    """`reasoning_effort` as Responses and some clients of this API have it."""

    effort: str | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A Chat Completions request."""

    messages: list[Message]
    model: str | None = None

    # Tools.
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Meta(max_length=MAX_TOOLS)] | None = None
    function_call: str | dict[str, Any] | None = None

    # The answer.
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    include_stop_str_in_output: bool | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    echo: bool | None = None

    # What is said of it.
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    logprob_token_ids: list[Int64] | None = None
    include_reasoning: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    request_id: Annotated[str, Meta(max_length=MAX_REQUEST_ID_CHARS)] | None = None

    # Sampling, by the names of `Sampling`.
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int64 | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: Int64 | None = None
    min_tokens: Int64 | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[Int64] | None = None
    bad_words: list[str] | None = None
    stop_token_ids: list[Int64] | None = None
    ignore_eos: bool | None = None
    thinking_token_budget: Int64 | None = None
    repetition_detection: dict[str, Any] | None = None
    vllm_xargs: dict[str, Argument] | None = None

    # How it is served.
    service_tier: str | None = None
    priority: Int64 | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=MAX_CACHE_SALT_CHARS)] | None = None
    session_id: str | None = None
