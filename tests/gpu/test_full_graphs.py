"""A full decode batch runs in a full CUDA graph, seen in vLLM's own model runner, with draft tokens.

The model is four layers of gpt-oss-20b at full width, so that all kernels are those of the whole one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppConfig
from serve_app.config.graph_sizes import DecodeShape, batch_sizes
from serve_app.demo import CACHE, VOCABULARY_NAME
from serve_app.demo.unfolding import unfold
from serve_app.engine_arguments import engine_arguments
from serve_app.harmony.vocabulary_file import FILE_NAME
from tests.services import ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]

# No multiple of 1 + k, and no size of an even spacing.
NUM_REQUESTS, NUM_DRAFT_TOKENS = 50, 3
NUM_TOKENS = 200


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder with model and speculator: 4 GB that follow a chain of words."""
    unfold(CACHE)
    vocabulary = CACHE / VOCABULARY_NAME / FILE_NAME
    command = [sys.executable, "-m", "benchmarks.serving.weights", str(tmp_path), str(vocabulary)]
    subprocess.run([*command, "--layers", "4"], cwd=ROOT, check=True)
    return tmp_path


def config(model: str, speculator: str) -> AppConfig:
    engine = {
        "max_concurrent_requests": NUM_REQUESTS,
        "max_model_len": 4096,
        "gpu_memory_utilization": 0.3,
        "kv_cache_memory_bytes": 1 << 30,
        "accelerator_type": None,
    }
    return AppConfig.model_validate(
        {
            "model": {"id": "openai/gpt-oss-20b", "source": f"file:{model}"},
            "speculator": {
                "source": f"file:{speculator}",
                "num_draft_tokens": NUM_DRAFT_TOKENS,
            },
            "engine": engine,
        }
    )


async def run(checkpoints: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the report that the engine checks, and what ran under full load."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    from serve_app.vllm_adapter import TokenEngine

    model, speculator = (str(checkpoints / name) for name in ("gpt-oss-20b", "gpt-oss-20b-eagle3"))
    arguments = engine_arguments(config(model, speculator), model, speculator)
    arguments |= {"worker_extension_cls": "tests.gpu.graph_runs.GraphRuns"}
    engine = TokenEngine(arguments)
    try:
        await engine.check_graphs(DecodeShape(NUM_REQUESTS, NUM_DRAFT_TOKENS))
        [report] = await engine.llm.collective_rpc("report_graphs")
        await engine.llm.collective_rpc("watch_graphs")

        async def generate(number: int) -> None:
            params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, temperature=0)
            prompt = tokens_input([1000 + number * 7 + i for i in range(16)])
            async for _ in engine.llm.generate(prompt, params, f"request-{number}"):
                pass

        await asyncio.gather(*map(generate, range(NUM_REQUESTS)))
        [runs] = await engine.llm.collective_rpc("graph_runs")
        return report, runs
    finally:
        engine.shutdown()


async def test_a_full_batch_runs_in_a_full_graph(checkpoints: Path) -> None:
    report, runs = await run(checkpoints)
    assert set(report["batches"]) == {"FULL"}
    assert set(report["drafts"]) == {"FULL"}
    tokens = 1 + NUM_DRAFT_TOKENS
    full = [steps for *key, steps in runs["dispatched"] if key == [NUM_REQUESTS, tokens, "FULL"]]
    assert full, runs
    # Nor did any smaller batch in which all requests decode go without.
    modes = {mode for _, uniform, mode, _ in runs["dispatched"] if uniform == tokens}
    assert modes == {"FULL"}, runs
    replayed = {requests for requests, _ in runs["replayed"]}
    assert NUM_REQUESTS in replayed
    # The speculator's own size, in whole requests of the model.
    draft_size = -(-NUM_REQUESTS // tokens)
    assert replayed <= {*batch_sizes(NUM_REQUESTS), draft_size}
