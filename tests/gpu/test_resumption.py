"""An answer that is cut off goes on as if it had not been, on a GPU: model runner V2, async scheduling.

The model follows a chain of words, so that the next one is never a near-tie.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from serve_app.config import AppConfig
from serve_app.demo import CACHE, VOCABULARY_NAME
from serve_app.demo.unfolding import unfold
from serve_app.engine_arguments import engine_arguments
from serve_app.harmony.vocabulary_file import FILE_NAME
from tests.resumptions import CASES, COUNT, EIGHT, Case, Harness, check
from tests.services import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="module"),
]

# Beside a speculator only model runner V2 takes a bias.
ALL = CASES | {"logit_bias": Case(COUNT, {"logit_bias": {EIGHT: 30.0}})}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[0, 3])
async def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """Four layers of gpt-oss-20b at full width, without and with draft tokens."""
    folder: Path = tmp_path_factory.mktemp("checkpoints")
    unfold(CACHE)
    vocabulary = CACHE / VOCABULARY_NAME / FILE_NAME
    command = [sys.executable, "-m", "benchmarks.serving.weights", str(folder), str(vocabulary)]
    subprocess.run([*command, "--layers", "4"], cwd=ROOT, check=True)  # noqa: ASYNC221
    model, speculator = (str(folder / name) for name in ("gpt-oss-20b", "gpt-oss-20b-eagle3"))
    config = AppConfig.model_validate(
        {
            "model": {"id": "openai/gpt-oss-20b", "source": f"file:{model}"},
            "speculator": (
                {"source": f"file:{speculator}", "num_draft_tokens": request.param} if request.param else None
            ),
            "engine": {
                "max_concurrent_requests": 8,
                "max_model_len": 2048,
                # Small steps, so that long prompts take several.
                "max_num_batched_tokens": 256,
                "gpu_memory_utilization": 0.3,
                "kv_cache_memory_bytes": 1 << 30,
                "accelerator_type": None,
            },
        }
    )
    one = Harness(engine_arguments(config, model, speculator if request.param else None))
    try:
        yield one
    finally:
        await one.close()


@pytest.mark.parametrize("name", ALL)
async def test_the_answer_is_that_of_an_unbroken_run(harness: Harness, name: str) -> None:
    assert harness.engine.llm.vllm_config.use_v2_model_runner
    await check(harness, ALL[name], random.Random(name))
