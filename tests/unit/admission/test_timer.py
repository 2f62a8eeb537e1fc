from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from types import SimpleNamespace

import pytest

from serve_app.admission import timer as timer_module
from serve_app.admission.timer import DeadlineTimer

START = 1000.0
# An event loop's clock need not be `time.monotonic`.
LOOP_IS_AHEAD_S = 5000.0


class Handle:
    """As `asyncio.TimerHandle`."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """An event loop, as far as a timer needs one, of which a test moves the time."""

    def __init__(self) -> None:
        self.now = START
        self.num_set = 0
        self._order = count()
        self._timers: list[tuple[float, int, Handle, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + LOOP_IS_AHEAD_S

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        self.num_set += 1
        timer = Handle()
        heappush(self._timers, (when - LOOP_IS_AHEAD_S, next(self._order), timer, callback))
        return timer

    @property
    def set_for(self) -> list[float]:
        """Times of those that will fire."""
        return sorted(when for when, _, timer, _ in self._timers if not timer.is_cancelled)

    def move_to(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            when, _, timer, callback = heappop(self._timers)
            if not timer.is_cancelled:
                self.now = max(self.now, when)
                callback()
                assert self.num_set < 100, "it fires for ever"
        self.now = now


class Deadlines:
    """What a timer fires for: the first of some times, which are over once it has fired."""

    def __init__(self, clock: Clock, *times: float) -> None:
        self.clock, self.times = clock, list(times)
        self.fired_at: list[float] = []
        self.timer = DeadlineTimer(lambda: min(self.times, default=None), self.fire)

    def fire(self) -> None:
        self.fired_at.append(self.clock.now)
        self.times = [each for each in self.times if each > self.clock.now]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timer_module, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    monkeypatch.setattr(timer_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_it_fires_when_it_is_due(clock: Clock) -> None:
    deadlines = Deadlines(clock, START + 5)
    assert clock.set_for == []  # not before `update`
    deadlines.timer.update()
    clock.move_to(START + 4.9)
    assert deadlines.fired_at == []
    clock.move_to(START + 9)
    assert deadlines.fired_at == [START + 5]
    assert clock.set_for == []


def test_it_fires_again_for_each_time(clock: Clock) -> None:
    deadlines = Deadlines(clock, START + 5, START + 7, START + 11)
    deadlines.timer.update()
    clock.move_to(START + 20)
    assert deadlines.fired_at == [START + 5, START + 7, START + 11]
    deadlines.times = [START + 30]
    deadlines.timer.update()
    clock.move_to(START + 30)
    assert deadlines.fired_at[3:] == [START + 30]


def test_it_moves_forward(clock: Clock) -> None:
    deadlines = Deadlines(clock, START + 50)
    deadlines.timer.update()
    deadlines.times.append(START + 5)
    deadlines.timer.update()
    assert clock.set_for == [START + 5]
    clock.move_to(START + 60)
    assert deadlines.fired_at == [START + 5, START + 50]


def test_one_that_is_put_off_fires_early_and_then_again(clock: Clock) -> None:
    deadlines = Deadlines(clock, START + 5)
    deadlines.timer.update()
    for later in range(1000):
        deadlines.times = [START + 6 + later]
        deadlines.timer.update()
    assert clock.num_set == 1  # cheap: heard from an ingress, its silence is a little later each time
    clock.move_to(START + 2000)
    assert deadlines.fired_at == [START + 5, START + 6 + 999]


def test_what_is_over_does_not_fire(clock: Clock) -> None:
    deadlines = Deadlines(clock, START + 5)
    deadlines.timer.update()
    deadlines.times.clear()
    deadlines.timer.update()
    assert clock.set_for == []
    clock.move_to(START + 10)
    assert deadlines.fired_at == []


def test_what_has_passed_fires_at_once(clock: Clock) -> None:
    deadlines = Deadlines(clock, START - 5)
    deadlines.timer.update()
    clock.move_to(START)
    assert deadlines.fired_at == [START]


def test_one_that_is_cancelled_is_silent_until_it_is_set_again(clock: Clock) -> None:
    deadlines = Deadlines(clock, START + 5)
    deadlines.timer.cancel()  # nothing is set
    deadlines.timer.update()
    deadlines.timer.cancel()
    deadlines.timer.cancel()
    clock.move_to(START + 10)
    assert (deadlines.fired_at, clock.set_for) == ([], [])
    deadlines.times = [START + 20]
    deadlines.timer.update()
    clock.move_to(START + 20)
    assert deadlines.fired_at == [START + 20]


def test_one_that_is_set_while_it_fires_rings_once_for_that(clock: Clock) -> None:
    deadlines = Deadlines(clock, START + 5)

    def fire_and_set() -> None:
        deadlines.fire()
        if len(deadlines.fired_at) == 1:
            deadlines.times = [START + 8]
        deadlines.timer.update()

    deadlines.timer = DeadlineTimer(lambda: min(deadlines.times, default=None), fire_and_set)
    deadlines.timer.update()
    clock.move_to(START + 5)
    assert clock.set_for == [START + 8]
    clock.move_to(START + 20)
    assert deadlines.fired_at == [START + 5, START + 8]


async def test_in_an_event_loop() -> None:
    num_left = 3
    has_fired = asyncio.Event()
    since = time.monotonic()

    def fire() -> None:
        nonlocal num_left
        num_left -= 1
        has_fired.set()

    def next_time() -> float | None:
        return since + 0.001 * (4 - num_left) if num_left else None

    timer = DeadlineTimer(next_time, fire)
    timer.update()
    while num_left:
        has_fired.clear()
        await has_fired.wait()
    assert timer._handle is None
