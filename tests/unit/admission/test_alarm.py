from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from types import SimpleNamespace

import pytest

from serve_app.admission import alarm as alarm_module
from serve_app.admission.alarm import Alarm
from tests.unit.admission.gates import run

START = 1000.0
# An event loop's clock need not be `time.monotonic`.
LOOP_IS_AHEAD_S = 5000.0


class Timer:
    """As `asyncio.TimerHandle`."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """An event loop, as far as an alarm needs one, of which a test moves the time."""

    def __init__(self) -> None:
        self.now = START
        self.num_set = 0
        self._order = count()
        self._timers: list[tuple[float, int, Timer, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + LOOP_IS_AHEAD_S

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.num_set += 1
        timer = Timer()
        heappush(self._timers, (when - LOOP_IS_AHEAD_S, next(self._order), timer, callback))
        return timer

    @property
    def set_for(self) -> list[float]:
        """Times of those that will ring."""
        return sorted(when for when, _, timer, _ in self._timers if not timer.is_cancelled)

    def move_to(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            when, _, timer, callback = heappop(self._timers)
            if not timer.is_cancelled:
                self.now = max(self.now, when)
                callback()
                assert self.num_set < 100, "it rings for ever"
        self.now = now


class Bell:
    """What an alarm rings for: the first of some times, which are over once it has rung."""

    def __init__(self, clock: Clock, *times: float) -> None:
        self.clock, self.times = clock, list(times)
        self.rung_at: list[float] = []
        self.alarm = Alarm(lambda: min(self.times, default=None), self.ring)

    def ring(self) -> None:
        self.rung_at.append(self.clock.now)
        self.times = [each for each in self.times if each > self.clock.now]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(alarm_module, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    monkeypatch.setattr(alarm_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_it_rings_when_it_is_due(clock: Clock) -> None:
    bell = Bell(clock, START + 5)
    assert clock.set_for == []  # not before `update`
    bell.alarm.update()
    clock.move_to(START + 4.9)
    assert bell.rung_at == []
    clock.move_to(START + 9)
    assert bell.rung_at == [START + 5]
    assert clock.set_for == []


def test_it_rings_again_for_each_time(clock: Clock) -> None:
    bell = Bell(clock, START + 5, START + 7, START + 11)
    bell.alarm.update()
    clock.move_to(START + 20)
    assert bell.rung_at == [START + 5, START + 7, START + 11]
    bell.times = [START + 30]
    bell.alarm.update()
    clock.move_to(START + 30)
    assert bell.rung_at[3:] == [START + 30]


def test_it_moves_forward(clock: Clock) -> None:
    bell = Bell(clock, START + 50)
    bell.alarm.update()
    bell.times.append(START + 5)
    bell.alarm.update()
    assert clock.set_for == [START + 5]
    clock.move_to(START + 60)
    assert bell.rung_at == [START + 5, START + 50]


def test_one_that_is_put_off_rings_early_and_then_again(clock: Clock) -> None:
    bell = Bell(clock, START + 5)
    bell.alarm.update()
    for later in range(1000):
        bell.times = [START + 6 + later]
        bell.alarm.update()
    assert clock.num_set == 1  # cheap: heard from an ingress, its silence is a little later each time
    clock.move_to(START + 2000)
    assert bell.rung_at == [START + 5, START + 6 + 999]


def test_what_is_over_does_not_ring(clock: Clock) -> None:
    bell = Bell(clock, START + 5)
    bell.alarm.update()
    bell.times.clear()
    bell.alarm.update()
    assert clock.set_for == []
    clock.move_to(START + 10)
    assert bell.rung_at == []


def test_what_has_passed_rings_at_once(clock: Clock) -> None:
    bell = Bell(clock, START - 5)
    bell.alarm.update()
    clock.move_to(START)
    assert bell.rung_at == [START]


def test_one_that_is_cancelled_is_silent_until_it_is_set_again(clock: Clock) -> None:
    bell = Bell(clock, START + 5)
    bell.alarm.cancel()  # nothing is set
    bell.alarm.update()
    bell.alarm.cancel()
    bell.alarm.cancel()
    clock.move_to(START + 10)
    assert (bell.rung_at, clock.set_for) == ([], [])
    bell.times = [START + 20]
    bell.alarm.update()
    clock.move_to(START + 20)
    assert bell.rung_at == [START + 20]


def test_one_that_is_set_while_it_rings_rings_once_for_that(clock: Clock) -> None:
    bell = Bell(clock, START + 5)

    def ring_and_set() -> None:
        bell.ring()
        if len(bell.rung_at) == 1:
            bell.times = [START + 8]
        bell.alarm.update()

    bell.alarm = Alarm(lambda: min(bell.times, default=None), ring_and_set)
    bell.alarm.update()
    clock.move_to(START + 5)
    assert clock.set_for == [START + 8]
    clock.move_to(START + 20)
    assert bell.rung_at == [START + 5, START + 8]


def test_in_an_event_loop() -> None:
    async def work() -> None:
        num_left = 3
        has_rung = asyncio.Event()
        since = time.monotonic()

        def ring() -> None:
            nonlocal num_left
            num_left -= 1
            has_rung.set()

        def next_time() -> float | None:
            return since + 0.001 * (4 - num_left) if num_left else None

        alarm = Alarm(next_time, ring)
        alarm.update()
        while num_left:
            has_rung.clear()
            await has_rung.wait()
        assert alarm._timer is None

    run(work())
