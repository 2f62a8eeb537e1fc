"""How to sample, whichever API asks. The adapter makes vLLM's `SamplingParams` of it, and checks ranges."""

from __future__ import annotations

from typing import Any

import msgspec


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's parameters and vLLM's further ones, by vLLM's names; None: the checkpoint's or vLLM's default.

    Stop strings are not here: the ingress looks for them (`Offer.stop`).
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    """None: what the context leaves."""
    min_tokens: int | None = None
    logprobs: int | None = None
    """Number of alternatives at each token of the answer; None: no log probabilities at all."""
    prompt_logprobs: int | None = None
    """The same at each token of the prompt. The encoder takes them by `feed_prompt`."""
    logprob_token_ids: list[int] | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    thinking_token_budget: int | None = None
    repetition_detection: dict[str, Any] | None = None
    vllm_xargs: dict[str, Any] | None = None
    cache_salt: str | None = None
    session_id: str | None = None
    priority: int = 0
