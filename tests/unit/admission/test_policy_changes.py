"""Engines and ingresses that come and go."""

from __future__ import annotations

from serve_app.admission.policy import NO_ENGINE_RETRY_S, SILENCE_S
from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Join,
    Joined,
    Lost,
    OpenRequest,
    Ping,
    Pong,
    Reason,
    Release,
    Tier,
    Unknown,
)
from serve_app.admission.service_time import MIN_RETRY_AFTER_S
from tests.unit.admission.policy_gate import THERE, Gate, granted, refusal

# --- engines ------------------------------------------------------------------------------------------


def test_without_an_engine_that_ever_was_requests_are_refused_at_once() -> None:
    gate = Gate()
    refused = refusal(gate.ask(1))
    assert (refused.reason, refused.retry_after_s) == (Reason.NO_ENGINE, NO_ENGINE_RETRY_S)


def test_while_the_only_engine_is_replaced_requests_wait() -> None:
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


# --- ingresses that come and go -----------------------------------------------------------------------


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
