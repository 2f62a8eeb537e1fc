"""What is no hang of an engine, and what is one, with vLLM's engine on a CPU."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from itertools import count

import msgspec
import psutil
import pytest
import pytest_asyncio

from serve_app.config import AppConfig
from serve_app.demo import CACHE, MODEL_NAME
from serve_app.demo.unfolding import unfold
from serve_app.engine_arguments import engine_arguments
from serve_app.engine_health import EngineHealth
from serve_app.errors import BadRequestError
from serve_app.harmony.grammar import ContentFormat, structural_tag
from serve_app.stall import MAX_GRAMMAR_WAIT_S
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="module"),
]

# Minutes with all tokens. `GrammarChecker` would refuse it.
SLOW_REGEX = "".join(f".{{0,{number}}}" for number in range(1, 200))
CHECK_S = 0.5


class Harness:
    """An engine, and the checks of its replica."""

    def __init__(self) -> None:
        from serve_app.vllm_adapter import TokenEngine

        config = AppConfig.model_validate(
            {
                "model": {"id": MODEL_NAME, "source": f"file:{CACHE / MODEL_NAME}"},
                "engine": {
                    "max_concurrent_requests": 8,
                    "max_model_len": 1024,
                    "num_gpus": 0,
                    "gpu_memory_utilization": 0.1,
                    "kv_cache_memory_bytes": 1 << 27,
                },
            }
        )
        self.engine = TokenEngine(engine_arguments(config, str(CACHE / MODEL_NAME), None))
        self.core = psutil.Process(self.engine.llm.engine_core.resources.engine_manager.processes[0].pid)
        self._receiver = FrameReceiver("127.0.0.1")
        self._numbers = count()

    async def generate(self, regex: str | None = None, tag: str | None = None) -> int:
        """Returns the number of tokens of a short answer."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        if regex is not None:
            tag = structural_tag([], "auto", ContentFormat("regex", regex))
        params = SamplingParams(max_tokens=8, temperature=0)
        if tag is not None:
            params.structured_outputs = StructuredOutputsParams(structural_tag=tag)
        number = next(self._numbers)
        return await self.engine.generate(
            GenerateRequest(
                request_id=f"request-{number}",
                prompt_token_ids=[1, 2, 3],
                sampling_params=msgspec.msgpack.encode(params),
                reply_to=self._receiver.address,
                sequence=number,
            )
        )

    def close(self) -> None:
        self.engine.kill()
        self.engine.shutdown()
        self._receiver.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness() -> AsyncIterator[Harness]:
    unfold(CACHE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        environment.setenv("OMP_NUM_THREADS", "1")
        one = Harness()
    try:
        yield one
    finally:
        one.close()
        gc.collect()  # ZeroMQ warns of its context, here and not at the end of all tests


async def test_a_canary_is_answered_and_is_nobodys_request(harness: Harness) -> None:
    await harness.engine.ping()
    canary = asyncio.create_task(harness.engine.generate_token())
    harness.engine.watch.begin_canary(canary.cancel)
    await canary
    harness.engine.watch.end_canary()
    assert harness.engine.num_unfinished_requests == 0


async def test_a_canary_makes_way(harness: Harness) -> None:
    canary = asyncio.create_task(harness.engine.generate_token())
    harness.engine.watch.begin_canary(canary.cancel)
    assert await harness.generate() == 8
    with pytest.raises(asyncio.CancelledError):
        await canary
    harness.engine.watch.end_canary()
    assert harness.engine.num_unfinished_requests == 0


async def test_a_grammar_that_the_engine_core_refuses_ends_its_request_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.structured_output import backend_xgrammar

    # The replica looks at it first; here it lets it pass.
    monkeypatch.setattr(backend_xgrammar, "validate_xgrammar_grammar", lambda params: None)
    bad = '{"type": "structural_tag", "format": {"type": "nothing"}}'
    other = asyncio.create_task(harness.generate())
    with pytest.raises(BadRequestError, match="could not be compiled"):
        await harness.generate(tag=bad)
    assert await other == 8
    assert harness.engine.num_unfinished_requests == 0


async def test_a_grammar_that_takes_minutes_is_no_hang_and_ends_its_request_alone(harness: Harness) -> None:
    left: list[int] = []
    # Less than the grammar may take: a silence is no hang as long as the engine core goes round.
    health = EngineHealth(harness.engine, MAX_GRAMMAR_WAIT_S / 4, left.append)
    silences = []
    slow = [asyncio.create_task(harness.generate(SLOW_REGEX)) for _ in range(2)]
    while not all(request.done() for request in slow):
        health.check()
        silences.append(harness.engine.watch.silent_s())
        await asyncio.sleep(CHECK_S)
        if len(silences) == 2:
            # Others are served meanwhile, with a grammar and without.
            assert await harness.generate() == 8
            assert await harness.generate("[a-z]{3}") > 0
    assert max(silences) > MAX_GRAMMAR_WAIT_S / 2
    assert not left
    for request in slow:
        with pytest.raises(BadRequestError, match="could not be compiled within 60 s"):
            await request
    assert await harness.generate() == 8
    health.close()


async def test_a_core_that_stands_still_is_a_hang_though_nobody_asks(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_app import stall

    monkeypatch.setattr(stall, "CANARY_AFTER_S", 1.0)
    left = asyncio.Event()
    health = EngineHealth(harness.engine, 3.0, lambda status: left.set())
    os.kill(harness.core.pid, signal.SIGSTOP)
    while not left.is_set():
        health.check()
        await asyncio.sleep(CHECK_S)
    health.close()
    harness.core.wait(60)
    assert not harness.core.is_running()
