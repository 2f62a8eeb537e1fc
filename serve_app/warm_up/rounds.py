"""What an engine generates before it is ready: a plan of rounds, so that no user is the first with anything.

vLLM warms up two requests of its own. What else it compiles, it compiles in front of a user, for a second or
more each, in which nobody gets a token. The plan goes through what was found in vLLM 0.29:

- Triton compiles a kernel anew for each block size that it is given: of logprobs (powers of two of 1 + n), of
  the top-k and top-p filters (which of the two; from 8 rows on). And for whole numbers that are 1, or
  multiples of 16, or neither. The experts have kernels for lengths of steps: `step_shapes`.
- A feature of a request is a kernel of its own: penalties, logit bias and its relatives, bad words, min_p,
  rejection of drafts, log probabilities of prompts, the bitmask of structured output.
- The first structured output builds the tables of the vocabulary; FlashInfer's sampler compiles at first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.config import AppConfig
from serve_app.config.graph_sizes import batch_sizes, capture_sizes
from serve_app.warm_up import step_shapes

# Steps of decode that a request takes at least: the first comes from prefill, drafts come from the second on.
STEPS = 4
# In rounds of a batch size: all must have come before the first is done. A request is added in some 0.3 ms, a
# step takes some 10 ms, so 64 come within two or three steps, and 1,024 within thirty.
BATCH_STEPS, REQUESTS_PER_STEP = 8, 8
PROMPT_TOKENS = 32
MIXED_BATCHES = (2, 9, 16)
# Long enough for whole blocks of the prefix cache: 16 tokens on GPUs, 128 on CPUs.
PREFIX_TOKENS = 400
# vLLM's limit on `logprobs`, unless it is overridden.
MAX_LOGPROBS = 20

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}
_SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9}

GREEDY: dict[str, Any] = {"temperature": 0.0}
# By name, fields of vLLM's `SamplingParams`; `structured_outputs` is a mapping too. First what most ask for.
FEATURES: dict[str, Mapping[str, Any]] = {
    "greedy": GREEDY,
    "sampling": {"temperature": 1.0},
    "temperature": {"temperature": 0.7},
    "top_p": {"temperature": 1.0, "top_p": 0.9},
    "top_k": {"temperature": 1.0, "top_k": 40},
    "top_k and top_p": {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    "min_p": {"temperature": 1.0, "min_p": 0.05},
    "seed": {"temperature": 1.0, "seed": 7},
    "seed and top_p": {"temperature": 0.7, "top_p": 0.9, "seed": 7},
    "repetition penalty": {"temperature": 0.0, "repetition_penalty": 1.1},
    "frequency and presence penalty": {"temperature": 1.0, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    "logit bias": {"temperature": 1.0, "logit_bias": {1000: 5.0, 2000: -100.0}},
    "allowed tokens": {"temperature": 1.0, "allowed_token_ids": [1000, 2000, 3000]},
    "min_tokens": {"temperature": 1.0, "min_tokens": 3, "stop_token_ids": [1000]},
    "bad words": {"temperature": 1.0, "bad_words": ["bad", "very bad"]},
    **{f"logprobs {n}": {"temperature": 1.0, "logprobs": n} for n in (0, 1, 2, 5, 10, 15, 20)},
    "prompt logprobs 0": {"temperature": 0.0, "prompt_logprobs": 0},
    "prompt logprobs 5": {"temperature": 0.0, "prompt_logprobs": 5},
    "JSON schema": GREEDY | {"structured_outputs": {"json": _SCHEMA}},
    "JSON schema, sampled": _SAMPLED | {"structured_outputs": {"json": _SCHEMA}},
    "JSON object": _SAMPLED | {"structured_outputs": {"json_object": True}},
    "regular expression": _SAMPLED | {"structured_outputs": {"regex": r"[a-z]{3,30}@[a-z]{2,20}\.com"}},
    "choice": GREEDY | {"structured_outputs": {"choice": ["positive", "negative"]}},
    "JSON schema and logprobs": GREEDY | {"structured_outputs": {"json": _SCHEMA}, "logprobs": 5},
}


# vLLM refuses them beside a speculator.
NOT_WITH_DRAFTS = {"min_p", "logit_bias"}


@dataclass(frozen=True)
class WarmUpRequest:
    """`prompt` numbers prompts: those with the same number begin alike, the others have nothing in common."""

    prompt: int
    prompt_tokens: int
    max_tokens: int
    sampling: Mapping[str, Any] = field(default_factory=lambda: GREEDY)

    def token_ids(self) -> list[int]:
        """Returns ordinary text tokens."""
        return [1000 + (self.prompt * 7919 + i * 13) % 50_000 for i in range(self.prompt_tokens)]


@dataclass(frozen=True)
class Round:
    """Requests that are sent at once. The next round begins when all of them are done."""

    name: str
    requests: tuple[WarmUpRequest, ...]
    phase: str = "first"


def plan(config: AppConfig) -> list[Round]:
    """Returns the rounds of the config's engine.

    All of them with CUDA graphs: some 140 rounds for 64 requests. Without, on CPUs and with `fast_boot`, a
    few: nothing is compiled on CPUs, and a start that should be soon must not wait.
    """
    rounds = _Rounds(config)
    if not config.engine.warm_up:
        return [rounds.one()]
    if not config.engine.has_graphs:
        return list(rounds.short())
    return list(rounds.full())


class _Rounds:
    def __init__(self, config: AppConfig) -> None:
        engine = config.engine
        self._most = engine.max_concurrent_requests
        self._step_tokens = engine.batched_tokens
        self._max_len = engine.max_model_len
        self._largest_graph = max(capture_sizes(config.decode_shape))
        self._tokens = config.decode_shape.tokens_per_request
        limit = engine.engine_overrides.get("max_logprobs", MAX_LOGPROBS)
        self._features = {
            name: sampling
            for name, sampling in FEATURES.items()
            if (_logprobs(sampling) <= limit or limit < 0)
            and not (config.num_draft_tokens and sampling.keys() & NOT_WITH_DRAFTS)
        }
        self._num_prompts = 0

    def one(self) -> Round:
        return Round("one request", (self._request(),))

    def short(self) -> Iterator[Round]:
        yield self.one()
        yield self._batch(self._most, ("greedy", "sampling"))
        for name in ("JSON schema", "logprobs 5"):
            if name in self._features:
                yield self._batch(1, (name,), STEPS)

    def full(self) -> Iterator[Round]:
        yield self.one()
        for one in self._prefills():
            yield replace(one, phase="prefill")
        for name in self._features:
            yield replace(self._batch(1, (name,), STEPS), phase="features, alone")
        for name in self._features:
            yield replace(self._batch(self._most, (name,), STEPS), phase="features, full batch")
        for size in batch_sizes(self._most):
            yield replace(self._batch(size, ("greedy", "sampling")), phase="batch sizes")
        # Kernels of the sampler know numbers of rows that are 1, or multiples of 16, or neither.
        for size in sorted({size for size in MIXED_BATCHES if size < self._most} | {self._most}):
            yield replace(self._batch(size, tuple(self._features)), phase="mixed batches")

    def _prefills(self) -> Iterator[Round]:
        most = min(self._step_tokens, self._max_len - 1)
        lengths = {16, 13, most, *step_shapes.prefill_lengths(self._largest_graph, most)}
        for tokens in sorted(length for length in lengths if length <= most):
            yield Round(f"prefill of {tokens} tokens", (self._request(prompt_tokens=tokens, max_tokens=1),))
        # More than a step: the rest goes into the next one, together with requests that decode.
        long = self._request(prompt_tokens=self._step_tokens * 3 // 2 + 5)
        yield Round("chunked prefill", (long,))
        others = [self._request(steps=BATCH_STEPS) for _ in range(min(self._most - 1, 8))]
        long = self._request(prompt_tokens=self._step_tokens * 3 // 2 + 5)
        yield Round("chunked prefill among decodes", (*others, long))
        first = self._request(prompt_tokens=PREFIX_TOKENS)
        yield Round("prefix, first", (first,))
        yield Round("prefix, again", (first, first)[: self._most])

    def _batch(self, size: int, names: tuple[str, ...], steps: int = 0) -> Round:
        about = names[0] if len(names) == 1 else f"{len(names)} kinds"
        steps = steps or max(BATCH_STEPS, size // REQUESTS_PER_STEP)
        # All prompts fit a step, so that all requests decode together.
        prompt_tokens = max(1, min(PROMPT_TOKENS, self._step_tokens // size))
        requests = [
            self._request(prompt_tokens, self._features[names[number % len(names)]], steps)
            for number in range(size)
        ]
        return Round(f"{size} requests, {about}", tuple(requests))

    def _request(
        self,
        prompt_tokens: int = PROMPT_TOKENS,
        sampling: Mapping[str, Any] = GREEDY,
        steps: int = STEPS,
        max_tokens: int | None = None,
    ) -> WarmUpRequest:
        self._num_prompts += 1
        # With all drafts accepted, a step brings as many tokens as it has.
        max_tokens = max_tokens or min(steps * self._tokens, self._max_len // 2)
        prompt_tokens = min(prompt_tokens, self._max_len - max_tokens)
        return WarmUpRequest(self._num_prompts, prompt_tokens, max_tokens, sampling)


def _logprobs(sampling: Mapping[str, Any]) -> int:
    return max(int(sampling.get(name, 0)) for name in ("logprobs", "prompt_logprobs"))
