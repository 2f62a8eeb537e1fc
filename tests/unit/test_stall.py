import logging
from collections.abc import Callable

import pytest

from serve_app.stall import MAX_GAP_S, TokenWatch, leave_if_stalled


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Left(BaseException):
    pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> TokenWatch:
    return TokenWatch(clock)


@pytest.fixture
def pass_time(clock: Clock, watch: TokenWatch) -> Callable[[float], float]:
    """With a check every two seconds, as Serve makes them. Returns what the last one finds."""

    def run(seconds: float) -> float:
        found = watch.silent_s()
        while seconds > 0:
            clock.now += min(2.0, seconds)
            seconds -= 2.0
            found = watch.silent_s()
        return found

    return run


def test_quiet_when_idle(watch: TokenWatch, pass_time: Callable[[float], float]) -> None:
    assert pass_time(1000) == 0
    watch.begin()
    watch.end()
    assert pass_time(1000) == 0


def test_counts_from_the_first_request(watch: TokenWatch, pass_time: Callable[[float], float]) -> None:
    pass_time(1000)
    watch.begin()
    assert pass_time(30) == 30
    # Another one is no sign of life.
    watch.begin()
    assert pass_time(30) == 60
    watch.end()
    assert pass_time(2) == 62


def test_a_token_begins_anew(watch: TokenWatch, pass_time: Callable[[float], float]) -> None:
    watch.begin()
    pass_time(50)
    watch.token()
    assert pass_time(10) == 10


def test_what_was_before_an_idle_time_is_forgotten(
    watch: TokenWatch, pass_time: Callable[[float], float]
) -> None:
    watch.begin()
    pass_time(50)
    watch.end()
    pass_time(10)
    watch.begin()
    assert pass_time(4) == 4


def test_time_that_nobody_looked_at_hardly_counts(watch: TokenWatch, clock: Clock) -> None:
    """The node slept, or the loop was busy: tokens may be there that nobody has read."""
    watch.begin()
    clock.now += 3600
    assert watch.silent_s() == MAX_GAP_S
    clock.now += 2
    assert watch.silent_s() == MAX_GAP_S + 2


def test_a_stall_kills_and_leaves(
    watch: TokenWatch,
    pass_time: Callable[[float], float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    def leave(status: int) -> None:
        done.append(f"left with {status}")
        raise Left

    watch.begin()
    watch.begin()
    pass_time(58)
    leave_if_stalled(watch, 60, lambda: done.append("killed"), leave)
    assert not done
    pass_time(2)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Left):
        leave_if_stalled(watch, 60, lambda: done.append("killed"), leave)
    assert done == ["killed", "left with 1"]
    [record] = caplog.records
    assert "no token for 60 s with 2 requests running (engine.stall_timeout_s is 60)" in record.getMessage()

    def fail() -> None:
        raise OSError("cannot be killed")

    with pytest.raises(Left):
        leave_if_stalled(watch, 60, fail, leave)
