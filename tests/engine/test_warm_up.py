"""The whole warm-up of an engine with a GPU, on an engine without one: vLLM takes every request of it."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from serve_app.config import AppConfig
from serve_app.demo import CACHE, MODEL_NAME, SPECULATOR_NAME
from serve_app.demo.unfolding import unfold
from serve_app.engine_arguments import engine_arguments
from serve_app.warm_up.rounds import Round, plan

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def config(num_gpus: int) -> AppConfig:
    engine: dict[str, Any] = {
        "max_concurrent_requests": 4,
        "max_model_len": 1024,
        # Small steps, so that prompts take several.
        "max_num_batched_tokens": 256,
        "num_gpus": num_gpus,
        "gpu_memory_utilization": 0.1,
        "kv_cache_memory_bytes": 1 << 27,
    }
    return AppConfig.model_validate(
        {
            "model": {"id": MODEL_NAME, "source": f"file:{CACHE / MODEL_NAME}"},
            "speculator": {"source": f"file:{CACHE / SPECULATOR_NAME}", "num_draft_tokens": 3},
            "engine": engine,
        }
    )


async def run(rounds: list[Round]) -> tuple[list[str], list[dict[str, Any]], int]:
    """Returns what was refused, the workers' reports of their graphs, and how many requests were left."""
    from serve_app.vllm_adapter import TokenEngine
    from serve_app.vllm_adapter.warming import warm_up

    arguments = engine_arguments(config(num_gpus=0), str(CACHE / MODEL_NAME), str(CACHE / SPECULATOR_NAME))
    engine = TokenEngine(arguments)
    try:
        reports = await engine.llm.collective_rpc("report_graphs")
        refused = await warm_up(engine.llm, rounds)
        return refused, reports, engine.num_unfinished_requests
    finally:
        engine.shutdown()


async def test_vllm_takes_every_request_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    unfold(CACHE)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rounds = plan(config(num_gpus=1))
    assert len(rounds) > 60

    refused, [report], num_left = await run(rounds)
    gc.collect()  # ZeroMQ warns of its context, here and not at the end of all tests
    assert refused == []
    assert num_left == 0
    # The question about graphs reaches the worker, which has none here.
    assert report["max_requests"] == 4
    assert set(report["batches"]) == {"NONE"}
