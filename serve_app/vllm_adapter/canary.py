"""A request of one token, for nobody: whether an engine that has been idle still generates."""

from __future__ import annotations

from itertools import count

from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

# Shorter than a block of the KV cache: nothing of it is cached, and it takes the same block each time.
_PROMPT = [1, 2, 3]
# After all others, should they come together: a lower number comes first.
_PRIORITY = 1 << 30
_numbers = count()


async def generate_token(llm: AsyncLLM) -> None:
    """Returns when the token has come. Cancelling the task aborts the request."""
    params = SamplingParams(
        max_tokens=1,
        temperature=0,
        detokenize=False,
        ignore_eos=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    steps = llm.generate(tokens_input(_PROMPT), params, f"canary-{next(_numbers)}", priority=_PRIORITY)
    try:
        async for _ in steps:
            pass
    finally:
        await steps.aclose()
