"""Who is refused, gives way, and when a refused request is to come back."""

from __future__ import annotations

import pytest

from serve_app.admission.policy import SILENCE_S
from serve_app.admission.protocol import (
    Admitted,
    Close,
    Join,
    OpenRequest,
    Ping,
    Reason,
    Refused,
    Release,
    Tier,
)
from serve_app.admission.service_time import MIN_RETRY_AFTER_S
from tests.unit.admission.policy_gate import THERE, Gate, granted, refusal

# --- a full queue -------------------------------------------------------------------------------------


def test_more_than_may_wait_are_refused() -> None:
    gate = Gate("a", max_queued=2)
    gate.fill()
    for request in (1, 2):
        assert gate.ask(request) == [Admitted(request, {}, None)]
    assert refusal(gate.ask(3)).reason is Reason.QUEUE_FULL
    assert gate.counts == (2, 2)


def test_without_a_queue_who_finds_no_slot_is_refused() -> None:
    gate = Gate("a", max_queued=0)
    assert gate.ask(1, n=2) == [Admitted(1, {0: "a", 1: "a"}, None)]
    assert refusal(gate.ask(2)).reason is Reason.QUEUE_FULL


def test_a_request_that_would_wait_too_long_is_refused_at_once() -> None:
    gate = Gate("a", max_queued=100, max_wait_s=30)
    gate.has_taken(20.0)
    gate.ask(2, n=2)
    for request in range(3, 7):  # 40 s for four in two slots
        assert gate.ask(request) == [Admitted(request, {}, None)]
    refused = refusal(gate.ask(7))
    assert refused.reason is Reason.QUEUE_FULL
    assert refused.retry_after_s == pytest.approx(50.0)  # after the four, and its own turn


def test_who_waits_gives_way_to_an_earlier_tier() -> None:
    gate = Gate("a", max_queued=2)
    gate.fill()
    gate.ask(1, tier=Tier.FLEX)
    gate.ask(2, tier=Tier.FLEX, ingress=THERE)
    assert gate.ask(3) == [Admitted(3, {}, None)]
    assert gate.said(THERE) == [Refused(2, Reason.QUEUE_FULL, MIN_RETRY_AFTER_S, None)]
    assert gate.ask(4, tier=Tier.PRIORITY) == [
        Refused(1, Reason.QUEUE_FULL, MIN_RETRY_AFTER_S, None),
        Admitted(4, {}, None),
    ]
    assert refusal(gate.ask(5)).reason is Reason.QUEUE_FULL  # its own tier does not give way
    assert gate.counts == (2, 2)


def test_the_key_with_most_gives_way() -> None:
    gate = Gate("a", max_queued=4)
    gate.fill()
    gate.ask(1, tier=Tier.FLEX, key="modest")
    for request in (2, 3, 4):
        gate.ask(request, tier=Tier.FLEX, key="greedy")
    assert gate.ask(5)[0] == Refused(4, Reason.QUEUE_FULL, MIN_RETRY_AFTER_S, None)


def test_what_has_begun_gives_way_to_nobody() -> None:
    gate = Gate("a", max_queued=2)
    gate.ask(1, n=4, tier=Tier.FLEX)  # two run, two wait
    assert gate.ask(2) == [Admitted(2, {}, None)]
    gate.send(Close(2))
    gate.send(Release(1, 0, 1))
    assert gate.said() == [granted(1, 2)]


@pytest.mark.parametrize("tier", list(Tier))
def test_what_has_begun_takes_no_room_of_the_queue(tier: Tier) -> None:
    """However many sequences of it wait, as many others may wait as without it."""
    gate = Gate("a", max_queued=4)
    gate.ask(1, n=128, tier=tier)
    for number in range(2, 6):
        assert gate.ask(number, tier=Tier.FLEX) == [Admitted(number, {}, None)]
    assert refusal(gate.ask(6, tier=Tier.FLEX)).reason is Reason.QUEUE_FULL
    assert gate.ask(7) == [Refused(5, Reason.QUEUE_FULL, MIN_RETRY_AFTER_S, None), Admitted(7, {}, None)]
    assert gate.counts == (2, 126 + 4)


def test_a_large_request_of_another_key_is_waited_for_by_turns() -> None:
    """The queue is long, and a new key's turn is next."""
    gate = Gate("a", max_queued=4, max_wait_s=30.0)
    gate.has_taken(20.0)
    gate.ask(1, n=128, key="large")
    assert gate.ask(2, key="small") == [Admitted(2, {}, None)]
    gate.send(Release(1, 0, 1))
    gate.send(Release(1, 1, 1))
    assert granted(2) in gate.said()
    # One of the same key waits for all of them.
    assert refusal(gate.ask(3, key="large")).reason is Reason.QUEUE_FULL


def test_an_idle_service_refuses_no_request_for_its_size() -> None:
    """No time to come back would help."""
    gate = Gate("a", max_queued=4)
    assert gate.ask(1, n=7) == [Admitted(1, {0: "a", 1: "a"}, None)]


@pytest.mark.parametrize("tier", list(Tier))
def test_a_request_larger_than_the_queue_is_taken_when_nobody_waits_before_it(tier: Tier) -> None:
    gate = Gate("a", max_queued=4)
    gate.fill()
    assert gate.ask(1, n=7, tier=tier) == [Admitted(1, {}, None)]
    assert gate.counts == (2, 7)
    assert refusal(gate.ask(2, tier=tier)).reason is Reason.QUEUE_FULL


def test_a_request_larger_than_the_queue_is_refused_while_another_waits_before_it() -> None:
    gate = Gate("a", max_queued=4)
    gate.fill()
    gate.ask(1)
    assert refusal(gate.ask(2, n=5)).reason is Reason.QUEUE_FULL
    assert gate.ask(3, n=3) == [Admitted(3, {}, None)]


def test_to_a_request_larger_than_the_queue_all_of_later_tiers_give_way() -> None:
    gate = Gate("a", max_queued=4)
    gate.fill()
    gate.ask(1, tier=Tier.FLEX)
    gate.ask(2, n=2, tier=Tier.FLEX, ingress=THERE)
    assert gate.ask(3, n=5)[-1] == Admitted(3, {}, None)
    assert refusal(gate.said(THERE)).request == 2
    assert gate.counts == (2, 5)
    # It gives way itself.
    assert gate.ask(4, tier=Tier.PRIORITY) == [
        Refused(3, Reason.QUEUE_FULL, MIN_RETRY_AFTER_S, None),
        Admitted(4, {}, None),
    ]


def test_without_a_queue_a_request_larger_than_the_service_is_refused() -> None:
    gate = Gate("a", max_queued=0)
    assert refusal(gate.ask(1, n=3)).reason is Reason.QUEUE_FULL
    assert gate.counts == (0, 0)
    assert gate.ask(2, n=2) == [Admitted(2, {0: "a", 1: "a"}, None)]


def test_those_who_are_refused_are_told_different_times() -> None:
    gate = Gate("a", max_queued=0)
    gate.has_taken(10.0)
    gate.ask(2, n=2)
    told = [refusal(gate.ask(request)).retry_after_s for request in range(3, 6)]
    assert told == pytest.approx([5.0, 10.0, 15.0])


# --- how long a sequence takes ------------------------------------------------------------------------


def mean_s(gate: Gate) -> float | None:
    return gate.admission._service.mean_s


def test_a_call_that_was_not_in_an_engine_says_nothing_of_the_time_that_one_takes() -> None:
    """Many clients that leave before their call would make the service look fast."""
    gate = Gate("a", max_tokens_per_minute_per_key=600)
    gate.has_taken(20.0)
    gate.ask(1, key="k")
    gate.now += 1.0
    gate.send(Release(1, 0, 0))
    assert gate.counts == (0, 0)
    assert mean_s(gate) == 20.0
    [admitted] = gate.ask(2, key="k")
    assert isinstance(admitted, Admitted)
    assert admitted.limits is not None
    assert admitted.limits.remaining_tokens == 600


def test_a_slot_that_was_never_used_says_nothing_of_the_time_that_one_takes() -> None:
    """vLLM finds fault with the request, after it was admitted: it is closed, and nothing was called."""
    gate = Gate("a")
    gate.has_taken(20.0)
    gate.ask(1, n=2)
    gate.now += 0.01
    gate.send(Close(1))
    assert gate.counts == (0, 0)
    assert mean_s(gate) == 20.0


def test_an_ingress_that_is_forgotten_says_nothing_of_the_time_that_a_sequence_takes() -> None:
    gate = Gate("a")
    gate.has_taken(20.0)
    gate.ask(1)
    gate.now += SILENCE_S
    gate.send(Ping(2), THERE)
    gate.admission.tick(gate.now)
    assert gate.counts == (0, 0)
    assert mean_s(gate) == 20.0


def test_a_sequence_that_began_before_its_ingress_joined_says_nothing_of_the_time_that_one_takes() -> None:
    gate = Gate("a")
    gate.has_taken(20.0)
    gate.send(Join([OpenRequest(1, "", Tier.DEFAULT, 99.0, True, {0: "a"})]))
    gate.now += 1.0
    gate.send(Release(1, 0, 10))
    assert gate.counts == (0, 0)
    assert mean_s(gate) == 20.0
