"""Sequences that have lost their engine, and where they go on."""

from __future__ import annotations

import pytest

from serve_app.admission.protocol import Close, Loss, Lost, Move, Moved, Release
from tests.unit.admission.policy_gate import HERE, THERE, Gate, granted


def test_what_moves_goes_before_those_who_have_not_begun() -> None:
    gate = Gate("a", "b")
    gate.ask(1, n=4)
    gate.ask(2)
    gate.send(Move(1, 0, 4, Loss.DIED))
    assert gate.said() == [Moved(1, 4, was_alone=True)]
    assert gate.counts == (3, 2)
    gate.send(Release(1, 1, 10))
    assert gate.said() == [granted(1, 4, "b")]
    gate.send(Release(1, 3, 10))
    assert gate.said() == [granted(2, replica="b")]


def test_what_moves_is_never_refused() -> None:
    gate = Gate("a", max_queued=0)
    gate.ask(1)
    gate.send(Move(1, 0, 1, Loss.DIED))
    gate.after(3600)
    assert gate.said() == [Moved(1, 1, was_alone=True)]
    assert gate.counts == (0, 1)
    gate.set_replicas("a", "b")
    assert gate.said() == [granted(1, 1, "b")]
    gate.send(Close(1))
    assert gate.counts == (0, 0)


def test_the_replica_that_holds_the_prefix_comes_first() -> None:
    gate = Gate("a", "b", "c", max_concurrent_requests=4)
    gate.ask(9, n=2, ingress=THERE)
    gate.ask(1, n=2)
    assert [s.replica for s in gate.sequences(1)] == ["c", "a"]
    gate.send(Release(9, 0, 10), THERE)
    gate.send(Close(9), THERE)
    # "b" is idle, and "a" has the prompt.
    gate.send(Move(1, 0, 2, Loss.DIED))
    assert gate.said()[-1] == granted(1, 2, "a")


@pytest.mark.parametrize(("loss", "replica"), [(Loss.GAP, "a"), (Loss.CUT_OFF, "b"), (Loss.DIED, "b")])
def test_where_a_sequence_goes_by_how_it_was_lost(loss: Loss, replica: str) -> None:
    gate = Gate("a", "b")
    gate.ask(1)
    gate.send(Move(1, 0, 1, loss))
    assert gate.said() == [Moved(1, 1, was_alone=loss is Loss.DIED), granted(1, 1, replica)]
    assert gate.counts == (1, 0)


def test_a_replica_that_is_avoided_is_better_than_none() -> None:
    gate = Gate("a")
    gate.ask(1)
    gate.send(Move(1, 0, 1, Loss.CUT_OFF))
    assert gate.said() == [Moved(1, 1, was_alone=False), granted(1, 1, "a")]


def test_a_replica_that_died_is_not_chosen_though_serve_has_not_noticed() -> None:
    gate = Gate("a", "b", max_concurrent_requests=1)
    gate.ask(1)
    gate.send(Move(1, 0, 1, Loss.DIED))
    gate.said()
    gate.ask(2)
    assert gate.counts == (1, 1)


def test_a_move_says_nothing_of_how_long_a_sequence_takes_and_is_not_charged() -> None:
    gate = Gate("a", "b", max_tokens_per_minute_per_key=1000)
    gate.ask(1, key="k")
    gate.now += 100
    gate.send(Move(1, 0, 1, Loss.DIED))
    assert gate.admission._service.mean_s is None
    gate.send(Release(1, 1, 300))
    assert round(1000 - gate.admission._keys._uses["k"].balance) == 300


# --- who was alone on an engine that died --------------------------------------------------------------


def was_alone(gate: Gate, move: Move, ingress: bytes = HERE) -> bool:
    gate.said(ingress)
    gate.send(move, ingress)
    event = gate.said(ingress)[0]
    assert isinstance(event, Moved)
    return event.was_alone


def test_alone_are_all_sequences_of_one_request() -> None:
    gate = Gate("a", "b", max_concurrent_requests=4)
    gate.set_replicas("a")
    gate.ask(1, n=3)
    assert [was_alone(gate, Move(1, number, 3 + number, Loss.DIED)) for number in range(3)] == [True] * 3


@pytest.mark.parametrize("is_told_before", [False, True])
def test_not_alone_are_those_of_two_ingresses_whoever_moves_first(is_told_before: bool) -> None:
    gate = Gate("a", max_concurrent_requests=4)
    gate.ask(1)
    gate.ask(1, ingress=THERE)
    if is_told_before:
        gate.send(Lost("a"))
    assert not was_alone(gate, Move(1, 0, 1, Loss.DIED))
    assert not was_alone(gate, Move(1, 0, 1, Loss.DIED), THERE)
    assert not gate.admission._died_with, "nobody is left there"


def test_who_outlives_a_drain_has_not_killed_its_engine() -> None:
    gate = Gate("a")
    gate.ask(1)
    gate.set_replicas("b")
    assert not was_alone(gate, Move(1, 0, 1, Loss.DIED))


def test_nobody_is_to_blame_where_an_ingress_went_before() -> None:
    """A node goes with an ingress and an engine, and the gate hears of the ingress first."""
    gate = Gate("a", max_concurrent_requests=4)
    gate.ask(1)
    gate.ask(1, ingress=THERE)
    gate.admission.forget(THERE, gate.now)
    assert not was_alone(gate, Move(1, 0, 1, Loss.DIED))
    assert not gate.admission._died_with, "nobody is left there"


@pytest.mark.parametrize("loss", [Loss.GAP, Loss.CUT_OFF])
def test_only_a_death_is_one(loss: Loss) -> None:
    gate = Gate("a")
    gate.ask(1)
    gate.send(Lost("a"))
    assert not was_alone(gate, Move(1, 0, 1, loss))
