"""The states of a request, in whatever order gate and ingress speak of it."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.admission.admission_request import (
    TRANSITIONS,
    AdmissionRequest,
    RequestState,
    RequestStateError,
)
from serve_app.admission.client import GateClient
from serve_app.admission.protocol import Ask, Close, Loss, Message, Move, RateLimits, Release, Tier
from serve_app.admission.slot_grants import SlotGrant
from serve_app.errors import DeadlyRequestError, OverloadedError
from tests.unit.admission.gates import client_of

ASKING, WAITING, RUNNING, REFUSED, CLOSING, CLOSED = RequestState
FULL = OverloadedError("the queue is full", 3.0)
LIMITS = RateLimits(5, 4, 1.0, None, 0, 0.0)


class Client:
    """A client that notes what it is to send."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def close_request(self, request: AdmissionRequest) -> None:
        self.sent.append(Close(request.ask.request))


class Watched(AdmissionRequest):
    """A request that notes its states."""

    def __init__(self, client: Client, num_sequences: int) -> None:
        super().__init__(client, Ask(7, "key", Tier.DEFAULT, num_sequences))
        self.states = [self.state]
        self.sent = client.sent

    def _enter(self, state: RequestState) -> None:
        super()._enter(state)
        self.states.append(state)


class Errors(logging.Handler):
    """What is logged as an error meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> Errors:
        logging.getLogger("ray.serve").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("ray.serve").removeHandler(self)


def new_request(state: RequestState = ASKING, num_sequences: int = 2) -> Watched:
    """A request that has come to this state by a shortest way."""
    request = Watched(Client(), num_sequences)
    if state in (WAITING, RUNNING, CLOSING):
        request.admit({}, LIMITS)
    if state in (RUNNING, CLOSING):
        request.grant(0, "a")
    if state is REFUSED:
        request.refuse(FULL, LIMITS)
    if state is CLOSING:
        request.take_slot()
    if state in (CLOSING, CLOSED):
        request.close()
    assert request.state is state
    return request


# --- the table -----------------------------------------------------------------------------------------


def test_every_state_has_its_transitions_and_leads_to_the_end() -> None:
    assert set(TRANSITIONS) == set(RequestState)
    assert TRANSITIONS[CLOSED] == frozenset()
    ends = {CLOSED}
    for _ in RequestState:
        ends |= {state for state, following in TRANSITIONS.items() if following & ends}
    assert ends == set(RequestState)


def test_no_state_is_entered_twice() -> None:
    """The table has no circle, so a request ends after a few changes."""
    order = list(RequestState)
    for state, following in TRANSITIONS.items():
        assert all(order.index(later) > order.index(state) for later in following)


SPOKEN: dict[str, Callable[[AdmissionRequest], None]] = {
    "admit": lambda request: request.admit({}, None),
    "grant": lambda request: request.grant(0, "a"),
    "refuse": lambda request: request.refuse(FULL, None),
    "close": lambda request: request.close(),
}
EXPECTED = {
    (ASKING, "admit"): WAITING,
    (ASKING, "refuse"): REFUSED,
    (ASKING, "close"): CLOSED,
    (WAITING, "grant"): RUNNING,
    (WAITING, "refuse"): REFUSED,
    (WAITING, "close"): CLOSED,
    (RUNNING, "grant"): RUNNING,
    (RUNNING, "close"): CLOSED,
    (REFUSED, "close"): CLOSED,
    (CLOSING, "grant"): CLOSING,
    (CLOSING, "refuse"): CLOSED,
    (CLOSING, "close"): CLOSING,
    (CLOSED, "close"): CLOSED,
}


@pytest.mark.parametrize("word", SPOKEN)
@pytest.mark.parametrize("state", RequestState)
async def test_each_word_in_each_state(state: RequestState, word: str) -> None:
    request = new_request(state)
    if (state, word) in EXPECTED:
        SPOKEN[word](request)
        assert request.state is EXPECTED[state, word]
    else:
        with pytest.raises(RequestStateError, match=f"request 7 is {state.name} and cannot become"):
            SPOKEN[word](request)
        assert request.state is state


@pytest.mark.parametrize("state", [ASKING, CLOSING, CLOSED])
async def test_there_are_no_slots_before_the_answer_and_after_the_end(state: RequestState) -> None:
    with pytest.raises(RequestStateError, match=f"request 7 is {state.name} and has no slots"):
        new_request(state).take_slot()


async def test_there_are_no_more_slots_than_were_asked_for() -> None:
    request = new_request(RUNNING, num_sequences=2)
    numbers = [request.take_slot().number for _ in range(2)]
    assert numbers == [0, 1]
    with pytest.raises(RequestStateError, match="request 7 has asked for 2 slots"):
        request.take_slot()


@pytest.mark.parametrize("state", [WAITING, CLOSING])
async def test_what_has_no_slot_or_is_over_does_not_move(state: RequestState) -> None:
    request = new_request(state)
    grant = request.take_slot() if state is WAITING else request.grants[0]
    with pytest.raises(RequestStateError, match=f"request 7 is {state.name}, and sequence 0 of it"):
        grant.move(Loss.DIED)
    assert not any(isinstance(message, Move) for message in request.sent)


async def test_a_slot_that_has_moved() -> None:
    request = new_request(RUNNING)
    first = request.take_slot()
    second = first.move(Loss.GAP)
    assert request.sent == [Move(7, 0, 2, Loss.GAP)]
    first.release(10)  # of no effect
    assert request.as_open(request.asked_at).sequences == {1: None, 2: None}
    request.grant(2, "b")
    assert await second.granted() == "b"
    second.release(20)
    assert request.sent[1:] == [Release(7, 2, 20)]


def moved(request: AdmissionRequest, grant: SlotGrant, replica: str, *, was_alone: bool) -> SlotGrant:
    """Has it go on after the death of its replica, on another one if it may."""
    after = grant.move(Loss.DIED)
    request.moved(after.number, was_alone=was_alone)
    request.grant(after.number, replica)
    return after


async def test_a_request_of_which_two_engines_died_is_not_tried_on_a_third() -> None:
    request = new_request(RUNNING)
    grants = [request.take_slot() for _ in range(2)]
    request.grant(1, "a")
    # Of one engine, all sequences of the request are alone: that is one death.
    grants = [moved(request, grant, "b", was_alone=True) for grant in grants]
    assert [grant.replica for grant in grants] == ["b", "b"]
    for grant in grants:
        after = moved(request, grant, "c", was_alone=True)
        with pytest.raises(DeadlyRequestError, match="2 engines have died while this request ran on them"):
            await after.granted()
        after.release(0)
    assert not request.grants


async def test_a_request_that_was_in_company_goes_on() -> None:
    request = new_request(RUNNING)
    grant = request.take_slot()
    for replica, alone in zip("bcdef", [True, False, False, False, False], strict=True):
        grant = moved(request, grant, replica, was_alone=alone)
        assert await grant.granted() == replica


async def test_the_slots_of_a_request_that_was_refused_are_refused() -> None:
    request = new_request(REFUSED)
    for _ in range(request.ask.num_sequences):
        with pytest.raises(OverloadedError):
            await request.take_slot().granted()
    with pytest.raises(OverloadedError):
        await request.admitted()
    assert request.sent == []  # the gate has forgotten it
    assert request.limits is LIMITS


async def test_a_request_that_closes_is_said_to_have_begun() -> None:
    """A gate that learns of it need not refuse it."""
    request = new_request(WAITING)
    assert not request.as_open(0.0).has_begun
    grant = request.take_slot()
    request.close()
    known = request.as_open(request.asked_at + 5.0)
    assert (known.has_begun, known.sequences, known.waited_s) == (True, {0: None}, 5.0)
    grant.release(0)
    assert request.sent == [Release(7, 1, 0), Release(7, 0, 0), Close(7)]


async def test_what_is_refused_while_it_closes_is_over_for_the_gate() -> None:
    request = new_request(WAITING)
    grant = request.take_slot()
    request.close()
    request.sent.clear()
    request.refuse(FULL, None)
    with pytest.raises(OverloadedError):
        await grant.granted()
    grant.release(0)
    assert request.sent == []


# --- whatever the order --------------------------------------------------------------------------------

WORDS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.sets(st.integers(0, 3))),
        st.tuples(st.just("grant"), st.integers(0, 5)),
        st.tuples(st.just("refuse"), st.none()),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("move"), st.integers(0, 5)),
        st.tuples(st.just("moved"), st.integers(0, 5)),
        st.tuples(st.just("close"), st.none()),
    ),
    max_size=25,
)


def say(request: Watched, taken: list[SlotGrant], word: str, value: object) -> None:
    if word == "admit":
        assert isinstance(value, set)
        request.admit(dict.fromkeys(sorted(value), "a"), None)
    elif word == "take":
        taken.append(request.take_slot())
    elif word == "grant":
        assert isinstance(value, int)
        request.grant(value, "a")
    elif word == "release":
        assert isinstance(value, int)
        if value < len(taken):
            taken[value].release(5)
    elif word == "move":
        assert isinstance(value, int)
        if value < len(taken):
            taken.append(taken[value].move(Loss.DIED))
    elif word == "moved":
        assert isinstance(value, int)
        request.moved(value, was_alone=True)
    else:
        SPOKEN[word](request)


def check_what_was_sent(request: Watched) -> None:
    """Each slot is released once at the most, and `Close` is the last word, unless the gate said no."""
    released = [message.sequence for message in request.sent if isinstance(message, Release)]
    moves = [message for message in request.sent if isinstance(message, Move)]
    before, after = [move.sequence for move in moves], [move.to for move in moves]
    # A slot that was moved is the gate's to free.
    assert len(released + before) == len(set(released + before))
    assert len(after) == len(set(after))
    assert request.sent.count(Close(7)) == (0 if request.refusal else 1)
    if request.refusal is None:
        assert request.sent[-1] == Close(7)
        # All that were asked for, and all that they became.
        assert set(released) | set(before) == set(range(request.ask.num_sequences)) | set(after)


@settings(deadline=None, max_examples=300)
@given(num_sequences=st.integers(1, 3), words=WORDS)
async def test_in_any_order_only_legal_transitions_happen_and_the_end_is_reached(
    num_sequences: int, words: list[tuple[str, object]]
) -> None:
    request = Watched(Client(), num_sequences)
    taken: list[SlotGrant] = []
    for word, value in words:
        before, num_sent = request.state, len(request.sent)
        try:
            say(request, taken, word, value)
        except RequestStateError:
            is_unchanged = (request.state, len(request.sent)) == (before, num_sent)
            assert is_unchanged, "an error has changed something"
    # The response ends, and then all calls do.
    request.close()
    for grant in taken:
        grant.release(5)
    assert request.states[-1] is request.state is CLOSED
    assert not request.grants
    for state, following in itertools.pairwise(request.states):
        assert following in TRANSITIONS[state]
    check_what_was_sent(request)


def speak(client: GateClient, words: list[tuple[str, int]]) -> None:
    """Has requests come and go, and ends them all."""
    requests: list[AdmissionRequest] = []
    taken: list[SlotGrant] = []
    for word, number in words:
        if word == "ask":
            requests.append(client.ask("", Tier(number % 3), 1 + number % 4))
        elif word == "fall back":
            client._decide_alone()
        elif word == "release" and taken:
            taken[number % len(taken)].release(number)
        elif word in ("take", "close") and requests:
            request = requests[number % len(requests)]
            if word == "close":
                request.close()
            elif request.state in (WAITING, RUNNING, REFUSED) and request._unused:
                taken.append(request.take_slot())
        elif word == "move" and taken:
            grant = taken[number % len(taken)]
            with contextlib.suppress(RequestStateError):
                taken.append(grant.move(Loss(number % 3)))
    for request in requests:
        request.close()
    for grant in taken:
        grant.release(1)
    assert [request.state for request in requests] == [CLOSED] * len(requests)
    assert not client._requests
    assert (client._own.num_running, client._own.num_waiting) == (0, 0)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "take", "release", "move", "close", "fall back"]), st.integers(0, 9)
        ),
        max_size=60,
    )
)
async def test_with_an_admission_that_keeps_its_rules_no_event_is_illegal(
    words: list[tuple[str, int]],
) -> None:
    """And nothing is left in it when all requests are over."""
    with Errors() as errors:
        async with client_of(None, "a", "b", max_concurrent_requests=2, max_queued=4) as (client, _):
            speak(client, words)
    assert errors.messages == []
