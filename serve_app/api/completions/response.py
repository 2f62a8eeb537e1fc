"""What answers Completions: OpenAI's `text_completion` with vLLM's further fields, and a stream's chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from serve_app.answers.usage import Usage

FinishReason = Literal["stop", "length"]


class Logprobs(msgspec.Struct):
    """OpenAI's four lists, of one length. What the prompt's first token has is null."""

    text_offset: list[int] = []
    token_logprobs: list[float | None] = []
    tokens: list[str] = []
    top_logprobs: list[dict[str, float] | None] = []

    def extend(self, more: Logprobs) -> None:
        """Adds those of the tokens that follow."""
        self.text_offset += more.text_offset
        self.token_logprobs += more.token_logprobs
        self.tokens += more.tokens
        self.top_logprobs += more.top_logprobs


class PromptLogprob(msgspec.Struct):
    """The log probability of a token of the prompt, or of an alternative to it, as vLLM shows it."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Part of the prompts' tokens."""

    cached_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True):
    """What an answer has cost. The usage in the middle of a stream is that of its choice, without details."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET

    @classmethod
    def of(cls, usage: Usage) -> CompletionUsage:
        """Returns a whole answer's usage."""
        details = PromptTokensDetails(usage.cached_tokens)
        return cls(usage.prompt_tokens, usage.total_tokens, usage.completion_tokens, details)


class ChunkChoice(msgspec.Struct, kw_only=True):
    """What has come of one choice."""

    index: int
    text: str = ""
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop string or the token of `stop_token_ids` that has ended it."""
    prompt_token_ids: Sequence[int] | None = None
    token_ids: Sequence[int] | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class CompletionChunk(msgspec.Struct, kw_only=True):
    """An event of a stream: more of one choice, or none and the usage of all."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | UnsetType = UNSET


class CompletionChoice(msgspec.Struct, kw_only=True):
    """A text that goes on from a prompt."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    token_ids: Sequence[int] | None
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: Sequence[int] | None
    # vLLM's, for what is not served here; the same below.
    routed_experts: None = None


class Completion(msgspec.Struct, kw_only=True):
    """A whole answer."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: str | None
    system_fingerprint: None = None
    usage: CompletionUsage
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    metrics: None = None
