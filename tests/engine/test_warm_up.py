"""The whole warm-up of an engine with a GPU, on an engine without one: vLLM takes every request of it."""

from __future__ import annotations

import pytest

from serve_app.warm_up.rounds import plan
from tests.engine.conftest import MAX_REQUESTS, config
from tests.resumptions import Harness

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="package"),
]


async def test_vllm_takes_every_request_of_the_plan(harness: Harness) -> None:
    from serve_app.vllm_adapter.warming import warm_up

    rounds = plan(config(num_gpus=1))
    assert len(rounds) > 60

    [report] = await harness.engine.llm.collective_rpc("report_graphs")
    assert await warm_up(harness.engine.llm, rounds) == []
    assert harness.engine.num_unfinished_requests == 0
    # The question about graphs reaches the worker, which has none here.
    assert report["max_requests"] == MAX_REQUESTS
    assert set(report["batches"]) == {"NONE"}
