"""Pings and canaries beside the checks, on an engine that does what a test says and a clock of the test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from serve_app.engine_health import EngineHealth
from serve_app.stall import CANARY_AFTER_S, MAX_GRAMMAR_WAIT_S, EngineWatch
from tests.clocks import ManualClock

TIMEOUT_S = 20.0


class Left(BaseException):
    pass


class Engine:
    """Pings and tokens come as long as the test says so."""

    def __init__(self, clock: ManualClock) -> None:
        self.watch = EngineWatch(clock.perf_counter)
        self.goes_round, self.generates = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None
        self.num_pings = self.num_tokens = self.num_cancelled = 0
        self.is_killed = False

    async def ping(self) -> None:
        self.num_pings += 1
        if self.error:
            raise self.error
        await self.goes_round.wait()

    async def generate_token(self) -> None:
        self.num_tokens += 1
        if self.error:
            raise self.error
        try:
            await self.generates.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    def kill(self) -> None:
        self.is_killed = True


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.engine = Engine(self.clock)
        self.health = EngineHealth(self.engine, TIMEOUT_S, self.leave)

    def leave(self, status: int) -> None:
        raise Left(status)

    async def passes(self, seconds: float) -> None:
        """With checks, as Serve makes them, and what they begin runs beside them."""
        for _ in range(round(seconds / 2)):
            self.clock.sleep(2)
            self.health.check()
            await settle()


async def settle() -> None:
    """Lets all tasks run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.health.close()
    await settle()


async def test_a_core_that_answers_pings_may_be_silent_for_longer(bench: Bench) -> None:
    bench.engine.goes_round.set()
    bench.engine.watch.begin()
    await bench.passes(TIMEOUT_S + MAX_GRAMMAR_WAIT_S - 2)
    assert bench.engine.num_pings > 10
    with pytest.raises(Left):
        await bench.passes(4)
    assert bench.engine.is_killed


async def test_one_ping_at_a_time_and_none_that_is_answered_is_a_hang(bench: Bench) -> None:
    bench.engine.watch.begin()
    await bench.passes(TIMEOUT_S - 2)
    assert bench.engine.num_pings == 1
    assert not bench.engine.is_killed
    with pytest.raises(Left):
        await bench.passes(2)
    assert bench.engine.is_killed


async def test_a_ping_that_fails_is_no_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.engine.error = RuntimeError("broken")
    bench.engine.watch.begin()
    with caplog.at_level(logging.WARNING), pytest.raises(Left):
        await bench.passes(TIMEOUT_S + 2)
    assert "a ping of the engine core failed: broken" in caplog.text


async def test_an_engine_in_use_is_asked_for_nothing(bench: Bench) -> None:
    bench.engine.watch.begin()
    for _ in range(100):
        bench.clock.sleep(1.9)
        bench.engine.watch.progress()
        bench.clock.sleep(0.1)
        bench.health.check()
        await settle()
    assert (bench.engine.num_pings, bench.engine.num_tokens) == (0, 0)


async def test_an_idle_engine_generates_a_token_now_and_then(bench: Bench) -> None:
    bench.engine.generates.set()
    await bench.passes(10 * CANARY_AFTER_S)
    assert 8 <= bench.engine.num_tokens <= 10
    assert bench.engine.watch.num_running == 0


async def test_an_idle_engine_that_hangs_is_found(bench: Bench) -> None:
    await bench.passes(CANARY_AFTER_S)
    assert bench.engine.num_tokens == 1
    await bench.passes(TIMEOUT_S - 2)
    with pytest.raises(Left):
        await bench.passes(2)
    assert bench.engine.is_killed
    assert bench.engine.num_tokens == 1


async def test_a_canary_makes_way_for_a_request(bench: Bench) -> None:
    await bench.passes(CANARY_AFTER_S)
    bench.engine.watch.begin()
    await settle()
    assert bench.engine.num_cancelled == 1
    assert bench.engine.watch.num_running == 1
    bench.engine.watch.end()
    await bench.passes(CANARY_AFTER_S)
    assert bench.engine.num_tokens == 2


async def test_canaries_that_fail_are_repeated_and_each_fails_a_check(bench: Bench) -> None:
    await bench.passes(CANARY_AFTER_S - 2)
    bench.engine.error = RuntimeError("broken")
    await bench.passes(2)
    for number in (2, 3, 4):
        with pytest.raises(RuntimeError, match="broken"):
            await bench.passes(2)
        await settle()
        assert bench.engine.num_tokens == number
    # It is well again.
    bench.engine.error = None
    bench.engine.generates.set()
    with pytest.raises(RuntimeError, match="broken"):
        await bench.passes(2)
    await settle()
    await bench.passes(CANARY_AFTER_S - 2)
    assert bench.engine.num_tokens == 5


async def test_a_request_says_more_than_a_canary_that_has_failed(bench: Bench) -> None:
    await bench.passes(CANARY_AFTER_S - 2)
    bench.engine.error = RuntimeError("broken")
    await bench.passes(2)
    bench.engine.watch.begin()
    await bench.passes(4)
    bench.engine.watch.end()
    await bench.passes(4)
    assert bench.engine.num_tokens == 1


async def test_closing_ends_what_is_under_way(bench: Bench) -> None:
    await bench.passes(CANARY_AFTER_S + 4)
    assert bench.engine.num_pings == 1
    bench.health.close()
    await settle()
    assert bench.engine.num_cancelled == 1
    assert bench.engine.watch.num_running == 0
