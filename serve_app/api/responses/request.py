"""The body of a Responses request: OpenAI's fields and vLLM's further ones.

Fields that are not here are ignored, and so is null. What a field may hold beyond its type is checked where
it is used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serve_app.api.structured_outputs import StructuredOutputs

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_TOP_LOGPROBS = 20
# More than OpenAI's 4. Each is looked for in each piece of an answer.
MAX_STOP_STRINGS = 32
MAX_STOP_CHARS = 1000
# It stands in several events of a stream.
MAX_REQUEST_ID_CHARS = 256
MAX_CACHE_SALT_CHARS = 1024

StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Summary = Literal["auto", "concise", "detailed"]
Argument = str | Int64 | float | list[str | Int64 | float]


class ReasoningOptions(msgspec.Struct, frozen=True):
    """How to think. No summary is written, whichever is asked for: the reasoning itself is in the answer."""

    effort: str | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    """The older name of `summary`."""


class TextFormat(msgspec.Struct, frozen=True):
    """What the answer must look like; `name` and `schema` belong to `json_schema`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """How to answer. The verbosity is taken note of, and the model knows nothing of it."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A Responses request."""

    input: (
        Annotated[
            str | list[dict[str, Any]],
            Meta(
                description="A text of the user's, or items: messages, reasoning, calls and what "
                "these have returned. Content is text. Items of hosted tools are left out, with a warning."
            ),
        ]
        | None
    ) = None
    model: str | None = None
    instructions: str | None = None

    # Tools.
    tools: (
        Annotated[
            list[dict[str, Any]],
            Meta(description="Functions, also in namespaces. Other kinds are left out, with a warning."),
        ]
        | None
    ) = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None

    # The answer.
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    include_stop_str_in_output: bool | None = None

    # What is said of it.
    include: list[str] | None = None
    include_reasoning: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    request_id: Annotated[str, Meta(min_length=1, max_length=MAX_REQUEST_ID_CHARS)] | None = None

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
    truncation: Literal["auto", "disabled"] | None = None

    # What would need a store: refused, except for `store`, which is answered with false.
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    previous_input_messages: list[Any] | None = None
