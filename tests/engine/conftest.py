"""An engine on a CPU, as it is in production but for its size; the tests share it that leave it as it was."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from serve_app.config import AppConfig
from serve_app.demo import CACHE, MODEL_NAME, SPECULATOR_NAME
from serve_app.demo.unfolding import unfold
from serve_app.engine_arguments import engine_arguments
from tests.resumptions import Harness

MAX_REQUESTS = 8


def config(num_gpus: int = 0) -> AppConfig:
    """That of the engine; with a GPU, of one that is like it."""
    return AppConfig.model_validate(
        {
            "model": {"id": MODEL_NAME, "source": f"file:{CACHE / MODEL_NAME}"},
            "speculator": {"source": f"file:{CACHE / SPECULATOR_NAME}", "num_draft_tokens": 3},
            "engine": {
                "max_concurrent_requests": MAX_REQUESTS,
                "max_model_len": 2048,
                # Small steps, so that long prompts take several.
                "max_num_batched_tokens": 256,
                "kv_cache_dtype": "fp8",
                "num_gpus": num_gpus,
                "gpu_memory_utilization": 0.1,
                "kv_cache_memory_bytes": 1 << 27,
            },
        }
    )


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def harness() -> AsyncIterator[Harness]:
    unfold(CACHE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        environment.setenv("OMP_NUM_THREADS", "1")
        one = Harness(engine_arguments(config(), str(CACHE / MODEL_NAME), str(CACHE / SPECULATOR_NAME)))
    try:
        yield one
    finally:
        await one.close()
        gc.collect()  # ZeroMQ warns of its context, here and not at the end of all tests
