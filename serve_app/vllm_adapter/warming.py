"""Runs the rounds of a warm-up on an `AsyncLLM`, and throws away what is generated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from serve_app.warm_up.rounds import Round, WarmUpRequest

logger = logging.getLogger("ray.serve")

NUM_SLOWEST = 3


async def warm_up(llm: AsyncLLM, rounds: Sequence[Round]) -> list[str]:
    """Generates all of them, and logs how long that took.

    Returns what vLLM refuses: no user can ask for it either. Every other failure is raised, and fails the
    start.
    """
    begun = time.perf_counter()
    phases: dict[str, list[float]] = {}
    seconds: list[tuple[float, str]] = []
    refused: dict[str, str] = {}
    for number, one in enumerate(rounds):
        start = time.perf_counter()
        await asyncio.gather(
            *(
                _generate(llm, request, f"warm-up-{number}-{index}", refused)
                for index, request in enumerate(one.requests)
            )
        )
        seconds.append((time.perf_counter() - start, one.name))
        phases.setdefault(one.phase, []).append(seconds[-1][0])
        if number + 1 == len(rounds) or rounds[number + 1].phase != one.phase:
            taken = phases[one.phase]
            logger.info("warm-up: %s: %d rounds in %.1f s", one.phase, len(taken), sum(taken))
    await llm.reset_prefix_cache()
    slowest = ", ".join(f"{name} {taken:.1f} s" for taken, name in sorted(seconds)[: -NUM_SLOWEST - 1 : -1])
    logger.info(
        "warm-up: %d rounds with %d requests in %.1f s; the slowest: %s",
        len(rounds),
        sum(len(one.requests) for one in rounds),
        time.perf_counter() - begun,
        slowest,
    )
    for feature, reason in refused.items():
        logger.warning("warm-up: vLLM refuses %s: %s", feature, reason)
    return list(refused)


async def _generate(llm: AsyncLLM, request: WarmUpRequest, request_id: str, refused: dict[str, str]) -> None:
    sampling = dict(request.sampling)
    structured = sampling.pop("structured_outputs", None)
    params = SamplingParams(
        max_tokens=request.max_tokens,
        # A grammar ends with a stop token.
        ignore_eos=structured is None,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(**structured) if structured else None,
        **sampling,
    )
    prompt = tokens_input(request.token_ids())
    try:
        # Structured output would wait for the end of the reasoning.
        async for _ in llm.generate(prompt, params, request_id, reasoning_ended=True):
            pass
    except (VLLMClientError, ValueError) as error:
        refused[str(dict(request.sampling))] = str(error)
