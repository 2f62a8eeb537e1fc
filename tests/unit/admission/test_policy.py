"""Who begins, who waits and for how long."""

from __future__ import annotations

from serve_app.admission.policy import SILENCE_S, Admission
from serve_app.admission.protocol import (
    Admitted,
    Close,
    Join,
    Loss,
    Move,
    OpenRequest,
    RateLimits,
    Reason,
    Refused,
    Release,
    Tier,
)
from serve_app.admission.rules import Rules
from serve_app.admission.service_time import MIN_RETRY_AFTER_S
from tests.unit.admission.policy_gate import START, THERE, Gate, granted, refusal

# --- admission ----------------------------------------------------------------------------------------


def test_who_asks_while_there_is_room_begins_at_once() -> None:
    gate = Gate("a", "b")
    assert gate.ask(1) == [Admitted(1, {0: "a"}, None)]
    assert gate.ask(2, n=3) == [Admitted(2, {0: "b", 1: "a", 2: "b"}, None)]
    assert gate.counts == (4, 0)


def test_who_asks_while_there_is_none_waits_for_a_release() -> None:
    gate = Gate("a")
    gate.ask(1, n=2)
    assert gate.ask(2) == [Admitted(2, {}, None)]
    assert gate.counts == (2, 1)
    gate.send(Release(1, 1, 10))
    assert gate.said() == [granted(2)]
    assert gate.counts == (2, 0)


def test_a_request_may_begin_with_some_of_its_sequences() -> None:
    gate = Gate("a")
    assert gate.ask(1, n=3) == [Admitted(1, {0: "a", 1: "a"}, None)]
    gate.send(Release(1, 0, 10))
    assert gate.said() == [granted(1, 2)]


def test_a_closed_request_gives_back_all_that_it_has_and_waits_for() -> None:
    gate = Gate("a")
    gate.ask(1, n=4)
    gate.ask(2, n=2)
    gate.send(Close(1))
    assert gate.said() == [granted(2, 0), granted(2, 1)]
    gate.send(Close(2))
    assert gate.counts == (0, 0)


def test_who_waits_at_one_ingress_is_granted_what_another_releases() -> None:
    gate = Gate("a")
    gate.ask(1, n=2)
    gate.ask(1, ingress=THERE)  # the numbers are each ingress's own
    gate.send(Close(1))
    assert gate.said() == []
    assert gate.said(THERE) == [granted(1)]


def test_a_sequence_that_does_not_begin_leaves_the_queue() -> None:
    gate = Gate("a")
    gate.ask(1, n=2)
    gate.ask(2, n=2)
    gate.send(Release(2, 0, 0))
    gate.send(Release(1, 0, 10))
    assert gate.said() == [granted(2, 1)]


def test_what_is_said_of_a_request_that_is_not_known_changes_nothing() -> None:
    gate = Gate("a")
    gate.ask(1)
    for message in (Release(9, 0, 10), Release(1, 9, 10), Move(9, 0, 1, Loss.DIED), Close(9)):
        gate.send(message)
    assert gate.said() == []
    assert gate.counts == (1, 0)


# --- tiers --------------------------------------------------------------------------------------------


def test_priority_comes_first_and_flex_last() -> None:
    gate = Gate("a")
    gate.fill()
    for request, tier in ((1, Tier.FLEX), (2, Tier.DEFAULT), (3, Tier.PRIORITY)):
        gate.ask(request, tier=tier)
    gate.send(Close(1000), THERE)
    assert gate.said() == [granted(3), granted(2)]


def test_flex_leaves_the_reserve_to_others() -> None:
    gate = Gate("a", max_concurrent_requests=10, reserved_share=0.2, max_queued=100)
    [event] = gate.ask(1, n=10, tier=Tier.FLEX)
    assert isinstance(event, Admitted)
    assert len(event.granted) == 8
    [event] = gate.ask(2, n=2)
    assert isinstance(event, Admitted)
    assert len(event.granted) == 2
    gate.send(Release(1, 0, 10))
    assert gate.said() == []  # the reserve comes first
    gate.send(Close(2))
    assert gate.said() == [granted(1, 8)]


def test_a_single_slot_is_not_reserved() -> None:
    gate = Gate("a", max_concurrent_requests=1, reserved_share=0.5)
    assert gate.ask(1, tier=Tier.FLEX) == [Admitted(1, {0: "a"}, None)]


def test_who_waits_of_a_later_tier_holds_nobody_up() -> None:
    gate = Gate("a", max_concurrent_requests=4, reserved_share=0.25)
    gate.ask(1, n=3, tier=Tier.FLEX)
    assert gate.ask(2, tier=Tier.FLEX) == [Admitted(2, {}, None)]
    assert gate.ask(3) == [Admitted(3, {0: "a"}, None)]


def test_keys_take_turns_over_all_ingresses() -> None:
    gate = Gate("a", max_queued=10)
    gate.fill()
    for request in range(1, 4):
        gate.ask(request, key="greedy")
    gate.ask(4, key="modest", ingress=THERE)
    gate.send(Release(1000, 0, 1), THERE)
    gate.send(Release(1000, 1, 1), THERE)
    assert gate.said() == [granted(1)]
    assert gate.said(THERE) == [granted(4)]


# --- deadlines ----------------------------------------------------------------------------------------


def test_who_has_waited_too_long_is_refused() -> None:
    gate = Gate("a")
    gate.fill()
    gate.ask(1, n=2)
    gate.after(29.9)
    assert gate.said() == []
    assert gate.admission.next_tick() is not None
    gate.after(0.1)
    assert refusal(gate.said()).reason is Reason.WAITED_TOO_LONG
    assert gate.counts == (2, 0)
    gate.send(Close(1000), THERE)
    assert gate.said() == []


def test_who_has_begun_waits_for_the_rest_as_long_as_it_takes() -> None:
    gate = Gate("a")
    gate.ask(1, n=3)
    gate.after(3600)
    assert gate.said() == []
    gate.send(Release(1, 0, 1))
    assert gate.said() == [granted(1, 2)]
    gate.after(3600)
    assert gate.said() == []


def test_the_next_tick_is_the_first_deadline_or_silence() -> None:
    gate = Gate("a", max_wait_s=5.0)
    assert gate.admission.next_tick() == START + SILENCE_S
    gate.fill()
    gate.ask(1)
    gate.now += 1
    gate.ask(2)
    assert gate.admission.next_tick() == START + 5.0
    assert Admission(Rules(max_concurrent_requests=1, max_queued=1, max_wait_s=1)).next_tick() is None


def test_who_came_later_may_have_to_go_first() -> None:
    """As one does that has waited before its ingress joined."""
    gate = Gate("a")
    gate.fill()
    gate.ask(1)
    gate.now += 1.0
    gate.send(Join([OpenRequest(2, "", Tier.DEFAULT, 20.0, False, {0: None})]), b"third")
    assert gate.admission.next_tick() == START + SILENCE_S
    gate.after(10.0)
    assert [event for event in gate.said(b"third") if isinstance(event, Refused)] == [
        Refused(2, Reason.WAITED_TOO_LONG, MIN_RETRY_AFTER_S, None)
    ]
    assert gate.said() == []
    gate.after(19.0)
    assert refusal(gate.said()).request == 1


def test_deadlines_of_those_who_are_gone_are_nobodys() -> None:
    gate = Gate("a", max_wait_s=5.0)
    gate.fill()
    gate.ask(1)
    gate.now += 1.0
    gate.ask(2)
    gate.ask(3)
    gate.send(Close(1))
    assert gate.admission.next_tick() == START + 1.0 + 5.0
    gate.send(Release(1000, 0, 10), THERE)
    assert gate.said() == [granted(2)]
    gate.after(5.0)
    assert refusal(gate.said()).request == 3
    assert gate.admission.next_tick() == gate.now + SILENCE_S
    assert not gate.admission._deadlines


# --- limits of a key ----------------------------------------------------------------------------------


def test_requests_of_a_key_at_a_time() -> None:
    gate = Gate("a", max_requests_per_key=1)
    assert gate.ask(1, key="k") == [Admitted(1, {0: "a"}, RateLimits(1, 0, 0.0, None, 0, 0.0))]
    refused = refusal(gate.ask(2, key="k"))
    assert refused.reason is Reason.KEY_REQUESTS
    assert refused.limits == RateLimits(1, 0, 0.0, None, 0, 0.0)
    assert gate.counts == (1, 0)
    gate.send(Close(1))
    assert gate.ask(3, key="k") == [Admitted(3, {0: "a"}, RateLimits(1, 0, 0.0, None, 0, 0.0))]


def test_a_key_is_limited_over_all_ingresses() -> None:
    gate = Gate("a", max_requests_per_key=1)
    gate.ask(1, key="k")
    assert refusal(gate.ask(1, key="k", ingress=THERE)).reason is Reason.KEY_REQUESTS


def test_tokens_of_a_key() -> None:
    gate = Gate("a", max_tokens_per_minute_per_key=600)
    gate.ask(1, n=2, key="k")
    gate.send(Release(1, 0, 300))
    gate.send(Release(1, 1, 300))
    refused = refusal(gate.ask(2, key="k"))
    assert refused.reason is Reason.KEY_TOKENS
    assert refused.limits is not None
    assert (refused.limits.max_tokens, refused.limits.remaining_tokens) == (600, 0)
    gate.now += refused.retry_after_s
    assert isinstance(gate.ask(3, key="k")[0], Admitted)


def test_a_key_that_is_refused_is_not_told_less_than_a_second() -> None:
    gate = Gate("a", max_tokens_per_minute_per_key=600_000)
    gate.ask(1, key="k")
    gate.send(Release(1, 0, 600_000))
    assert refusal(gate.ask(2, key="k")).retry_after_s == MIN_RETRY_AFTER_S


def test_a_request_that_is_refused_later_no_longer_counts_for_its_key() -> None:
    gate = Gate("a", max_requests_per_key=1)
    gate.fill()
    gate.ask(1, key="k")
    gate.after(30)
    assert refusal(gate.said()).reason is Reason.WAITED_TOO_LONG
    assert isinstance(gate.ask(2, key="k")[0], Admitted)
