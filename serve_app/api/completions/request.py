"""The body of a Completions request: OpenAI's fields and vLLM's further ones.

Fields that are not here are ignored, and null is as left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serve_app.api.chat.request import (
    MAX_CACHE_SALT_CHARS,
    MAX_REQUEST_ID_CHARS,
    MAX_STOP_STRINGS,
    Argument,
    Int64,
    ResponseFormat,
    StopString,
    StreamOptions,
)
from serve_app.api.structured_outputs import StructuredOutputs

# Prompts times `n`: OpenAI's limit for the latter.
MAX_SEQUENCES = 128
MAX_LOGPROBS = 20


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A Completions request."""

    prompt: Annotated[
        str | list[Any],
        Meta(description="A text, a list of texts, a list of token ids, or a list of such lists."),
    ]
    model: str | None = None

    # The answer.
    n: Annotated[int, Meta(ge=1, le=MAX_SEQUENCES)] | None = None
    best_of: int | None = None
    """As `n`, or left out: what is not among the best is not generated here."""
    suffix: str | None = None
    """Empty, or left out."""
    echo: bool | None = None
    """Whether the text begins with the prompt."""
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=1)] | None = None
    """How many tokens of each prompt are kept: the last ones, or the first ones."""
    truncation_side: Literal["left", "right"] | None = None

    # What is said of it.
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    """The number of alternatives at each token."""
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    logprob_token_ids: list[Int64] | None = None
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
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
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
