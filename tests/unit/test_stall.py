"""When an engine hangs, and when it has been idle for too long, on a clock of the test."""

import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.stall import (
    CANARY_AFTER_S,
    MAX_GAP_S,
    MAX_GRAMMAR_WAIT_S,
    PING_AFTER_S,
    EngineWatch,
    leave_if_stalled,
)
from tests.clocks import ManualClock

TIMEOUT_S = 60.0
CHECK_S = 2.0  # as Serve checks


class Left(BaseException):
    pass


class Watched:
    """A watch, and the time that passes over it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.watch = EngineWatch(self.clock.perf_counter)

    def passes(self, seconds: float, *, each: Callable[[], object] = lambda: None) -> float:
        """With checks, and `each` before each of them. Returns the silence in the end."""
        while seconds > 0:
            self.clock.sleep(min(CHECK_S, seconds))
            seconds -= CHECK_S
            each()
            self.watch.silent_s()
        return self.watch.silent_s()

    def hang(self) -> str | None:
        return self.watch.hang(TIMEOUT_S)


@pytest.fixture
def one() -> Watched:
    return Watched()


def test_quiet_when_idle(one: Watched) -> None:
    assert one.passes(1000) == 0
    one.watch.begin()
    one.watch.end()
    assert one.passes(1000) == 0
    assert one.hang() is None
    assert not one.watch.is_ping_due()


def test_counts_from_the_first_request(one: Watched) -> None:
    one.passes(1000)
    one.watch.begin()
    assert one.passes(30) == 30
    # Another one is no sign of life.
    one.watch.begin()
    assert one.passes(30) == 60
    one.watch.end()
    assert one.passes(2) == 62


def test_progress_begins_anew(one: Watched) -> None:
    one.watch.begin()
    one.passes(50)
    one.watch.progress()
    assert one.passes(10) == 10


def test_what_was_before_an_idle_time_is_forgotten(one: Watched) -> None:
    one.watch.begin()
    one.passes(50)
    one.watch.end()
    one.passes(10)
    one.watch.begin()
    assert one.passes(4) == 4


def test_time_that_nobody_looked_at_hardly_counts(one: Watched) -> None:
    """The node slept, or the loop was busy: tokens may be there that nobody has read."""
    one.watch.begin()
    one.clock.sleep(3600)
    assert one.watch.silent_s() == MAX_GAP_S
    one.clock.sleep(2)
    assert one.watch.silent_s() == MAX_GAP_S + 2


def test_a_core_that_does_not_answer_hangs(one: Watched) -> None:
    one.watch.begin()
    one.passes(TIMEOUT_S - 1)
    assert one.hang() is None
    one.passes(1)
    assert one.hang() == "does not answer"


def test_a_core_that_goes_round_does_not_hang_while_a_grammar_may_be_compiled(one: Watched) -> None:
    one.watch.begin()
    one.passes(TIMEOUT_S + MAX_GRAMMAR_WAIT_S - 2, each=one.watch.went_round)
    assert one.hang() is None
    # No grammar is compiled for longer: something else holds all requests up.
    one.passes(2, each=one.watch.went_round)
    assert one.hang() == "goes round and makes none"


def test_the_last_sign_counts_when_a_core_goes_round_no_more(one: Watched) -> None:
    one.watch.begin()
    one.passes(40, each=one.watch.went_round)
    one.passes(TIMEOUT_S - 1)
    assert one.hang() is None
    one.passes(1)
    assert one.hang() == "does not answer"


def test_a_ping_is_due_where_no_token_says_the_same(one: Watched) -> None:
    one.watch.begin()
    assert not one.watch.is_ping_due()
    one.passes(PING_AFTER_S)
    assert one.watch.is_ping_due()
    one.watch.progress()
    assert not one.watch.is_ping_due()


def test_a_canary_is_due_after_an_idle_time(one: Watched) -> None:
    one.passes(CANARY_AFTER_S - 1)
    assert not one.watch.is_canary_due()
    one.watch.progress()  # of the warm-up, whose requests do not count
    one.passes(CANARY_AFTER_S - 1)
    assert not one.watch.is_canary_due()
    one.passes(1)
    assert one.watch.is_canary_due()
    one.watch.begin()
    one.passes(1000)
    assert not one.watch.is_canary_due()
    one.watch.end()
    one.passes(CANARY_AFTER_S)
    assert one.watch.is_canary_due()


def test_a_canary_that_hangs_is_a_hang(one: Watched) -> None:
    one.watch.begin_canary(lambda: None)
    assert not one.watch.is_canary_due()
    one.passes(TIMEOUT_S)
    assert one.hang() == "does not answer"
    one.watch.end_canary()
    assert one.hang() is None
    one.passes(CANARY_AFTER_S)
    assert one.watch.is_canary_due()


def test_a_canary_makes_way_for_a_request_and_the_silence_goes_on(one: Watched) -> None:
    cancelled: list[str] = []

    def cancel() -> None:
        cancelled.append("cancelled")

    one.watch.begin_canary(cancel)
    seen = [one.watch.is_canary_running]
    one.passes(20)
    one.watch.begin()
    assert cancelled == ["cancelled"]
    seen.append(one.watch.is_canary_running)
    assert seen == [True, False]
    one.watch.begin()
    one.watch.end_canary()  # its task has ended
    assert cancelled == ["cancelled"]
    assert one.watch.num_running == 2
    one.passes(TIMEOUT_S - 20)
    assert one.hang() == "does not answer"


EVENTS = st.sampled_from(["begin", "end", "canary", "canary ends", "progress", "round"])


@settings(max_examples=200, deadline=None)
@given(events=st.lists(st.tuples(st.floats(0, 100), EVENTS), max_size=60))
def test_a_hang_and_a_canary_exclude_each_other_whatever_happens(events: list[tuple[float, str]]) -> None:
    one, num_requests, has_canary = Watched(), 0, False
    since_progress = since_round = 0.0
    for pause_s, event in events:
        one.passes(pause_s)
        since_progress, since_round = since_progress + pause_s, since_round + pause_s
        if event == "begin":
            one.watch.begin()
            num_requests += 1
        elif event == "end" and num_requests:
            one.watch.end()
            num_requests -= 1
        elif event == "canary" and one.watch.is_canary_due():
            one.watch.begin_canary(lambda: None)
            has_canary = True
        elif event == "canary ends" and has_canary:
            one.watch.end_canary()
            has_canary = False
        elif event == "progress":
            one.watch.progress()
            since_progress = since_round = 0
        elif event == "round":
            one.watch.went_round()
            since_round = 0
        assert one.watch.num_running == num_requests + has_canary
        if one.watch.is_canary_due():
            assert one.watch.num_running == 0
        if problem := one.hang():
            assert one.watch.num_running
            assert since_progress >= TIMEOUT_S - 1e-6
            assert since_round >= TIMEOUT_S - 1e-6 or problem != "does not answer"
        # Whoever runs is found within the two limits, if nothing comes.
        if one.watch.num_running and one.watch.silent_s() >= TIMEOUT_S + MAX_GRAMMAR_WAIT_S:
            assert one.hang()


@pytest.mark.parametrize("of", ["2 requests", "only a canary"])
def test_a_hang_kills_and_leaves(of: str, one: Watched, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def leave(status: int) -> None:
        done.append(f"left with {status}")
        raise Left

    if of == "only a canary":
        one.watch.begin_canary(lambda: None)
    else:
        one.watch.begin()
        one.watch.begin()
    one.passes(TIMEOUT_S - 2)
    leave_if_stalled(one.watch, TIMEOUT_S, lambda: done.append("killed"), leave)
    assert not done
    one.passes(2)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Left):
        leave_if_stalled(one.watch, TIMEOUT_S, lambda: done.append("killed"), leave)
    assert done == ["killed", "left with 1"]
    [record] = caplog.records
    expected = f"no token for 60 s with {of} running, and its core does not answer"
    assert f"{expected} (engine.stall_timeout_s is 60)" in record.getMessage()

    def fail() -> None:
        raise OSError("cannot be killed")

    with pytest.raises(Left):
        leave_if_stalled(one.watch, TIMEOUT_S, fail, leave)
