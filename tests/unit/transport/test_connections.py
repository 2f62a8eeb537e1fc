"""When a connection counts as gone for good, on a loop whose time the test sets."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.transport.connections import DOWN, RECONNECT_S, UP, ReconnectTimer
from tests.examples import examples


class ManualLoop:
    """Calls what is due when the test lets time pass, and what is soon after what the test says first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None], asyncio.Event]] = []
        self._order = count()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualHandle:
        handle = ManualHandle()
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), callback, handle.is_cancelled))
        return handle

    def call_soon(self, callback: Callable[[], None]) -> ManualHandle:
        return self.call_later(0.0, callback)

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, callback, is_cancelled = heapq.heappop(self._due)
            if not is_cancelled.is_set():
                callback()
        self.now = end

    def block(self, seconds: float, heard: list[int], timer: ReconnectTimer) -> None:
        """Nothing runs for so long; then timers and what was heard meanwhile are due in the same round."""
        self.now += seconds
        this_round = []
        while self._due and self._due[0][0] <= self.now:
            this_round.append(heapq.heappop(self._due))
        for _, _, callback, is_cancelled in this_round:
            if not is_cancelled.is_set():
                callback()
        for event in heard:
            timer.on_event(event)
        self.sleep(0)


class ManualHandle:
    def __init__(self) -> None:
        self.is_cancelled = asyncio.Event()

    def cancel(self) -> None:
        self.is_cancelled.set()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ManualLoop:
    loop = ManualLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def new_timer(loop: ManualLoop) -> tuple[ReconnectTimer, list[float]]:
    """A timer, and when it called."""
    lost: list[float] = []
    return ReconnectTimer(lambda: lost.append(loop.now)), lost


def test_one_that_never_came_about_is_lost(loop: ManualLoop) -> None:
    timer, lost = new_timer(loop)
    timer.on_event(DOWN)  # a handshake that failed
    loop.sleep(RECONNECT_S - 0.1)
    timer.on_event(DOWN)
    assert not lost
    loop.sleep(0.1)
    assert lost == [RECONNECT_S]


def test_one_that_stands_is_not_lost(loop: ManualLoop) -> None:
    timer, lost = new_timer(loop)
    timer.on_event(UP)
    loop.sleep(1000 * RECONNECT_S)
    assert not lost


def test_a_loop_that_was_busy_hears_of_the_reconnection_first(loop: ManualLoop) -> None:
    timer, lost = new_timer(loop)
    timer.on_event(UP)
    timer.on_event(DOWN)
    loop.block(2 * RECONNECT_S, [UP], timer)
    loop.sleep(10 * RECONNECT_S)
    assert not lost
    loop.block(2 * RECONNECT_S, [DOWN], timer)
    assert not lost, "when it went is not known: it has its time from now on"
    loop.sleep(RECONNECT_S)
    assert lost


def test_nothing_is_called_after_the_end(loop: ManualLoop) -> None:
    timer, lost = new_timer(loop)
    timer.on_event(UP)
    timer.cancel()
    timer.on_event(DOWN)  # which had happened before, and is told now
    loop.sleep(10 * RECONNECT_S)
    assert not lost


# Quarters of a second, which floats add up without an error.
PAUSES = st.integers(1, 4 * 2 * round(RECONNECT_S)).map(lambda quarters: quarters / 4)


@given(history=st.lists(st.tuples(st.sampled_from([UP, DOWN]), PAUSES), max_size=12), first_s=PAUSES)
@examples(300)
def test_it_is_lost_when_it_was_gone_for_so_long(history: list[tuple[int, float]], first_s: float) -> None:
    """Whatever the order of the events: a second `UP` or `DOWN` says nothing new."""
    with pytest.MonkeyPatch.context() as patch:
        loop = ManualLoop()
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        timer, lost = new_timer(loop)
        gone_at: float | None = 0.0
        loop.sleep(first_s)
        for event, pause_s in history:
            if lost:
                break  # nobody tells it of more
            if event == UP:
                gone_at = None
            elif gone_at is None:
                gone_at = loop.now
            timer.on_event(event)
            loop.sleep(pause_s)
        is_lost = gone_at is not None and loop.now - gone_at >= RECONNECT_S
        assert lost == ([gone_at + RECONNECT_S] if is_lost and gone_at is not None else [])
