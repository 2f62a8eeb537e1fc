from __future__ import annotations

from typing import Any

import pytest

from serve_app.admission.policy import NO_ENGINE_RETRY_S, SILENCE_S, Addressed, Admission
from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Event,
    Granted,
    Join,
    Joined,
    Lost,
    Message,
    More,
    OpenRequest,
    Ping,
    Pong,
    RateLimits,
    Reason,
    Refused,
    Release,
    Tier,
    Unknown,
)
from serve_app.admission.rules import Rules
from serve_app.admission.service_time import MIN_RETRY_AFTER_S

HERE, THERE = b"here", b"there"
START = 1000.0


class Gate:
    """An `Admission` with a clock, and what it has said to each ingress since it was last looked at."""

    def __init__(self, *replicas: str, **rules: Any) -> None:
        defaults: dict[str, Any] = {"max_concurrent_requests": 2, "max_queued": 4, "max_wait_s": 30.0}
        self.admission = Admission(Rules(**defaults | rules))
        self.now = START
        self._said: list[Addressed] = []
        for ingress in (HERE, THERE):
            self.send(Join([]), ingress)
        self.set_replicas(*replicas)
        self._said.clear()

    def send(self, message: Message, ingress: bytes = HERE) -> None:
        self._said += self.admission.handle(ingress, message, self.now)

    def set_replicas(self, *replicas: str) -> None:
        self._said += self.admission.set_replicas(replicas, self.now)

    def after(self, seconds: float) -> None:
        """The ingresses have pinged in between."""
        self.now += seconds
        for known in self.admission._ingresses.values():
            known.heard_at = self.now
        self._said += self.admission.tick(self.now)

    def ask(
        self, request: int, n: int = 1, tier: Tier = Tier.DEFAULT, key: str = "", ingress: bytes = HERE
    ) -> list[Event]:
        """What is said to who asks, and to the others of the same ingress."""
        self.send(Ask(request, key, tier, n), ingress)
        return self.said(ingress)

    def said(self, ingress: bytes = HERE) -> list[Event]:
        said = [event for to, event in self._said if to == ingress]
        self._said = [addressed for addressed in self._said if addressed[0] != ingress]
        return said

    def fill(self) -> None:
        """Takes all slots, as request 1000 of `THERE`."""
        slots = self.admission._slots
        self.ask(1000, slots.num_free, Tier.PRIORITY, "filling", THERE)
        assert slots.num_free == 0

    def has_taken(self, seconds: float) -> None:
        """A sequence takes this long, as far as is known: one has, as request 2000 of `THERE`."""
        self.ask(2000, ingress=THERE)
        self.now += seconds
        self.send(Release(2000, 0, 10), THERE)
        self.send(Close(2000), THERE)
        self.said(THERE)
        assert self.admission._service.mean_s == pytest.approx(seconds)

    @property
    def counts(self) -> tuple[int, int]:
        return self.admission.num_running, self.admission.num_waiting


def granted(request: int, sequence: int = 0, replica: str = "a") -> Granted:
    return Granted(request, sequence, replica)


def refusal(events: list[Event]) -> Refused:
    [event] = events
    assert isinstance(event, Refused)
    return event


# --- admission -----------------------------------------------------------------------------------------


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


def test_more_goes_before_those_who_have_not_begun() -> None:
    gate = Gate("a")
    gate.ask(1, n=2)
    gate.ask(2)
    gate.send(More(1, 2))
    assert gate.said() == []
    gate.send(Release(1, 0, 10))
    assert gate.said() == [granted(1, 2)]
    gate.send(Release(1, 1, 10))
    assert gate.said() == [granted(2)]


def test_more_begins_at_once_where_there_is_room_and_is_never_refused() -> None:
    gate = Gate("a", max_queued=0)
    gate.ask(1)
    gate.send(More(1, 1))
    assert gate.said() == [granted(1, 1)]
    gate.send(More(1, 2))
    gate.after(3600)
    assert gate.said() == []
    gate.send(Release(1, 0, 10))
    assert gate.said() == [granted(1, 2)]


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
    for message in (Release(9, 0, 10), Release(1, 9, 10), More(9, 0), Close(9)):
        gate.send(message)
    assert gate.said() == []
    assert gate.counts == (1, 0)


# --- tiers ---------------------------------------------------------------------------------------------


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


# --- a full queue --------------------------------------------------------------------------------------


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


def test_who_has_begun_shields_nobody_else_from_giving_way() -> None:
    gate = Gate("a", max_queued=4)
    gate.ask(1, n=5, tier=Tier.FLEX, key="begun")  # three wait, which cannot be refused
    gate.ask(2, tier=Tier.FLEX, key="other")
    assert gate.ask(3) == [Refused(2, Reason.QUEUE_FULL, MIN_RETRY_AFTER_S, None), Admitted(3, {}, None)]
    assert gate.counts == (2, 4)


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


# --- deadlines -----------------------------------------------------------------------------------------


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


# --- engines -------------------------------------------------------------------------------------------


def test_without_an_engine_that_ever_was_requests_are_refused_at_once() -> None:
    gate = Gate()
    refused = refusal(gate.ask(1))
    assert (refused.reason, refused.retry_after_s) == (Reason.NO_ENGINE, NO_ENGINE_RETRY_S)


def test_while_the_only_engine_is_reslotd_requests_wait() -> None:
    gate = Gate("a")
    gate.set_replicas()
    assert gate.ask(1) == [Admitted(1, {}, None)]
    gate.after(10)
    gate.set_replicas("b")
    assert gate.said() == [granted(1, replica="b")]
    gate.set_replicas()
    gate.ask(2)
    gate.after(30)
    refused = refusal(gate.said())
    assert (refused.reason, refused.retry_after_s) == (Reason.NO_ENGINE, NO_ENGINE_RETRY_S)


def test_where_a_request_starts_an_engine_it_waits_for_it() -> None:
    gate = Gate(start_wait_s=600.0)
    assert gate.ask(1) == [Admitted(1, {}, None)]
    gate.after(599)
    assert gate.said() == []
    gate.set_replicas("a")
    assert gate.said() == [granted(1)]


def test_an_engine_that_does_not_start_is_not_waited_for_for_ever() -> None:
    gate = Gate(start_wait_s=600.0)
    gate.ask(1)
    gate.after(600)
    assert refusal(gate.said()).reason is Reason.NO_ENGINE


def test_who_waited_for_an_engine_then_waits_for_a_slot_no_longer_than_others() -> None:
    gate = Gate(start_wait_s=600.0)
    gate.ask(1, n=2)
    gate.ask(2)
    gate.after(100)
    gate.set_replicas("a")
    assert gate.said() == [granted(1, 0), granted(1, 1)]
    gate.after(29)
    assert gate.said() == []
    gate.after(1)
    refused = refusal(gate.said())
    assert (refused.request, refused.reason) == (2, Reason.WAITED_TOO_LONG)


def test_an_engine_that_comes_has_room_for_those_who_wait() -> None:
    gate = Gate("a")
    gate.fill()
    gate.ask(1, n=3)
    gate.set_replicas("a", "b")
    assert gate.said() == [granted(1, 0, "b"), granted(1, 1, "b")]


def test_an_engine_that_is_lost_gets_nobody_until_serve_has_taken_it_out() -> None:
    gate = Gate("a", "b")
    gate.send(Lost("a"))
    assert gate.ask(1, n=3) == [Admitted(1, {0: "b", 1: "b"}, None)]
    gate.set_replicas("a", "b")
    assert gate.said() == []
    gate.set_replicas("b", "c")
    assert gate.said() == [granted(1, 2, "c")]


# --- limits of a key -----------------------------------------------------------------------------------


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


# --- ingresses that come and go ------------------------------------------------------------------------


def test_an_ingress_that_is_not_known_is_to_join() -> None:
    gate = Gate("a")
    for message in (Ask(1, "", Tier.DEFAULT, 1), Ping(1), Close(1), Lost("a")):
        gate.send(message, b"stranger")
        assert gate.said(b"stranger") == [Unknown()]
    assert gate.ask(1) == [Admitted(1, {0: "a"}, None)]  # nor is it believed


def test_counts_of_messages_agree() -> None:
    gate = Gate("a")
    gate.send(Ping(1))
    assert gate.said() == [Pong(0)]
    gate.ask(1, n=2)
    gate.send(Lost("z"))
    gate.send(Ping(3))
    assert gate.said() == [Pong(1)]
    gate.send(Ping(3))
    assert gate.said() == [Pong(1)]  # neither ping nor pong counts


def test_an_ingress_of_which_messages_were_lost_is_to_join() -> None:
    gate = Gate("a")
    gate.ask(1)
    gate.send(Ping(3))
    assert gate.said() == [Unknown()]
    gate.send(Join([]))
    assert gate.said() == [Joined()]
    gate.send(Ping(1))
    assert gate.said() == [Pong(0)]


def test_what_an_ingress_has_open_is_what_it_says_at_last() -> None:
    gate = Gate("a")
    gate.ask(1)
    gate.ask(2)
    gate.send(Join([OpenRequest(2, "", Tier.DEFAULT, 0.0, True, {0: "a"})]))
    assert gate.said() == [Joined()]
    assert gate.counts == (1, 0)


def test_a_new_gate_learns_what_runs_and_what_waits() -> None:
    gate = Gate("a", max_requests_per_key=2)
    running = OpenRequest(1, "k", Tier.DEFAULT, 50.0, True, {0: "a", 3: "a"})
    waiting = OpenRequest(2, "k", Tier.DEFAULT, 5.0, False, {0: None, 1: None})
    gate.send(Join([running, waiting]))
    assert gate.said() == [Joined()]
    assert gate.counts == (2, 2)
    assert refusal(gate.ask(3, key="k")).reason is Reason.KEY_REQUESTS
    gate.send(Release(1, 3, 10))
    assert gate.said() == [granted(2, 0)]


def test_an_ingress_may_say_that_more_run_than_fit() -> None:
    gate = Gate("a")
    gate.send(Join([OpenRequest(1, "", Tier.DEFAULT, 0.0, True, dict.fromkeys(range(5), "a"))]))
    gate.said()
    gate.ask(2)
    for number in range(3):
        gate.send(Release(1, number, 1))
    assert gate.said() == []
    gate.send(Release(1, 3, 1))
    assert gate.said() == [granted(2)]


def test_sequences_on_a_replica_that_the_gate_does_not_know_take_no_slot_of_others() -> None:
    gate = Gate("a")
    gate.send(Join([OpenRequest(1, "", Tier.DEFAULT, 0.0, True, {0: "old"})]))
    gate.said()
    assert gate.ask(2, n=2) == [Admitted(2, {0: "a", 1: "a"}, None)]
    gate.set_replicas("a", "old")
    assert gate.ask(3, n=2) == [Admitted(3, {0: "old"}, None)]


def test_who_waited_before_a_new_gate_has_its_wait_counted() -> None:
    gate = Gate("a")
    gate.fill()
    gate.send(Join([OpenRequest(1, "", Tier.DEFAULT, 20.0, False, {0: None})]))
    gate.said()
    gate.after(9.9)
    assert gate.said() == []
    gate.after(0.2)
    assert refusal(gate.said()).reason is Reason.WAITED_TOO_LONG


def test_who_waited_before_a_new_gate_waits_no_longer_where_engines_start_on_demand() -> None:
    gate = Gate("a", start_wait_s=600.0)
    gate.fill()
    gate.send(Join([OpenRequest(1, "", Tier.DEFAULT, 20.0, False, {0: None})]))
    gate.said()
    gate.after(30)
    assert refusal(gate.said()).reason is Reason.WAITED_TOO_LONG


def test_what_had_begun_before_a_new_gate_is_refused_by_nobody() -> None:
    """One of its sequences is over, and the others wait."""
    gate = Gate("a", max_queued=1)
    gate.fill()
    gate.send(Join([OpenRequest(1, "", Tier.FLEX, 3600.0, True, {1: None, 2: None})]))
    gate.after(3600)
    assert gate.said() == [Joined()]
    assert gate.ask(2, tier=Tier.PRIORITY) == [Admitted(2, {}, None)]
    gate.send(Close(2))
    gate.send(Close(1000), THERE)
    assert gate.said() == [granted(1, 1), granted(1, 2)]


def test_joining_again_is_not_the_end_of_what_runs() -> None:
    """The time that a sequence takes is not that between two losses of a message."""
    gate = Gate("a", max_queued=0)
    gate.ask(1, n=2)
    gate.now += 20.0
    gate.send(Join([OpenRequest(1, "", Tier.DEFAULT, 20.0, True, {0: "a", 1: "a"})]))
    gate.said()
    assert refusal(gate.ask(2)).retry_after_s == MIN_RETRY_AFTER_S  # nothing has ended: nothing is known


def test_an_ingress_that_falls_silent_is_forgotten() -> None:
    gate = Gate("a")
    gate.ask(1, n=2)
    gate.ask(2, n=1)
    gate.ask(7, ingress=THERE)
    gate.now += SILENCE_S - 1
    gate.send(Ping(2), THERE)
    assert gate.said(THERE) == [Pong(1)]
    gate.now += 1
    assert gate.admission.tick(gate.now) == [(THERE, granted(7))]
    assert gate.counts == (1, 0)
    gate.send(Ping(3))
    assert gate.said() == [Unknown()]
