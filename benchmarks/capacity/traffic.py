"""Requests on an engine of this process, closed loop, and what is seen of their tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
# What users ask for, not what the warm-up generates: other values, and in random mixtures.
KINDS: dict[str, Mapping[str, Any]] = {
    "plain": {"temperature": 0.0},
    "plain, sampled": {"temperature": 1.0},
    "sampled": {"temperature": 0.6, "top_p": 0.95},
    "sampled, seed": {"temperature": 0.9, "top_k": 50, "seed": 11},
    "penalties": {"temperature": 0.7, "presence_penalty": 0.2, "repetition_penalty": 1.05},
    "JSON schema": {"temperature": 0.0, "structured_outputs": {"json": _SCHEMA}},
    "choice": {"temperature": 0.8, "structured_outputs": {"choice": ["red", "green", "blue"]}},
    "logprobs": {"temperature": 1.0, "logprobs": 4},
    "many logprobs": {"temperature": 0.0, "logprobs": 18},
}


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """A closed loop. `lengths` are prompt tokens, drawn for each request; so are the `kinds`."""

    requests: int
    concurrency: int
    lengths: tuple[int, ...]
    output_tokens: int
    kinds: tuple[str, ...] = ("plain",)
    seed: int = 0
    # After so long, what has been answered is all there is.
    limit_s: float | None = None


@dataclass
class Answer:
    """Times of the outputs of one request, in seconds since it was sent, and their tokens."""

    kind: str
    arrivals_s: list[float]
    num_tokens: list[int]
    error: str = ""


async def run(llm: AsyncLLM, traffic: Traffic) -> dict[str, Any]:
    """Sends everything and returns the figures."""
    chosen = random.Random(traffic.seed)
    todo = iter(
        [
            (number, chosen.choice(traffic.kinds), chosen.choice(traffic.lengths))
            for number in range(traffic.requests)
        ]
    )
    answers: list[Answer] = []

    async def client() -> None:
        for number, kind, length in todo:
            prompt = random.Random(f"{traffic.seed}:{number}").choices(range(1000, 90_000), k=length)
            request_id = f"bench-{traffic.seed}-{number}-{time.monotonic_ns()}"
            answers.append(await _answer(llm, prompt, kind, traffic.output_tokens, request_id))

    begun = time.perf_counter()
    clients = [asyncio.ensure_future(client()) for _ in range(traffic.concurrency)]
    _, late = await asyncio.wait(clients, timeout=traffic.limit_s)
    seconds = time.perf_counter() - begun
    for one in late:
        one.cancel()
    for found in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(found, Exception):
            raise found
    return {"is_complete": not late} | figures(answers, seconds)


async def _answer(
    llm: AsyncLLM, prompt: Sequence[int], kind: str, output_tokens: int, request_id: str
) -> Answer:
    sampling = dict(KINDS[kind])
    structured = sampling.pop("structured_outputs", None)
    params = SamplingParams(
        max_tokens=output_tokens,
        ignore_eos=structured is None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=StructuredOutputsParams(**structured) if structured else None,
        **sampling,
    )
    answer = Answer(kind, [], [])
    sent = time.perf_counter()
    try:
        async for output in llm.generate(
            tokens_input(list(prompt)), params, request_id, reasoning_ended=True
        ):
            if num_tokens := len(output.outputs[0].token_ids):
                answer.arrivals_s.append(time.perf_counter() - sent)
                answer.num_tokens.append(num_tokens)
    except ValueError as error:  # refused; everything else ends the measurement
        answer.error = str(error)
    return answer


def figures(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Returns the figures as they go into the results; times in ms."""
    good = [answer for answer in answers if answer.arrivals_s]
    num_tokens = sum(sum(answer.num_tokens) for answer in good)
    first = defaultdict(list)
    for answer in good:
        first[answer.kind].append(answer.arrivals_s[0])
    steps = [np.diff(answer.arrivals_s) for answer in good]
    later_tokens = sum(sum(answer.num_tokens[1:]) for answer in good)
    return {
        "requests": len(answers),
        "errors": dict(Counter(answer.error for answer in answers if answer.error)),
        "seconds": round(seconds, 2),
        "tokens": num_tokens,
        "tokens_per_s": round(num_tokens / seconds, 1),
        "tokens_per_step": round(later_tokens / max(1, sum(map(len, steps))), 3),
        "ttft_ms": _spread([answer.arrivals_s[0] for answer in good]),
        # Between two outputs of a request: with drafts each brings several tokens.
        "step_ms": _spread(np.concatenate([np.zeros(0), *steps])),
        # The longest pause of each answer.
        "longest_pause_ms": _spread([float(step.max()) for step in steps if len(step)]),
        "ttft_ms_by_kind": {kind: _spread(values) for kind, values in sorted(first.items())},
    }


def _spread(seconds: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    if not len(seconds):
        return {}
    shares = {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 90, 99)} | {"max": float(max(seconds))}
    return {name: round(value * 1000, 2) for name, value in shares.items()}
