"""A request that kills every engine it runs on, and those that run beside it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.admission.admission_request import MAX_DEATHS, AdmissionRequest
from serve_app.admission.policy import Admission
from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Event,
    Granted,
    Join,
    Loss,
    Lost,
    Message,
    Move,
    Moved,
    OpenRequest,
    Place,
    Release,
    Tier,
)
from serve_app.admission.rules import Rules
from serve_app.admission.slot_grants import SlotGrant
from serve_app.errors import DeadlyRequestError, EngineLostError, ServiceError
from tests.examples import examples
from tests.unit.admission.policy_gate import THERE, Gate, granted

# The default of the config.
MAX_ENGINES = 3
# Rounds in which an engine starts. An answer takes fewer.
START = 8
MAX_ROUNDS = 3000


@dataclass(eq=False)
class Answer:
    """A sequence in its ingress, as `RemoteEngine` has it."""

    request: Asking
    grant: SlotGrant
    num_left: int
    num_lost: int = 0


@dataclass(eq=False)
class Asking:
    """A request, and what became of it."""

    request: AdmissionRequest
    kills_after: int | None = None
    answers: list[Answer] = field(default_factory=list)
    error: ServiceError | None = None


class Client:
    """An ingress of the fleet."""

    def __init__(self, fleet: Fleet, name: bytes) -> None:
        self.fleet, self.name = fleet, name
        self.requests: dict[int, AdmissionRequest] = {}

    def send(self, message: Message) -> None:
        self.fleet.take(self.fleet.gate.handle(self.name, message, self.fleet.now))

    def close_request(self, request: AdmissionRequest) -> None:
        del self.requests[request.ask.request]
        self.send(Close(request.ask.request))


class Fleet:
    """A gate, engines that start again when they have died, and requests, some of which kill engines."""

    def __init__(self, seed: int, num_engines: int, num_slots: int) -> None:
        self.random = random.Random(seed)
        self.gate = Admission(Rules(max_concurrent_requests=num_slots, max_queued=1000, max_wait_s=1e9))
        self.now = 0.0
        self.clients = {name: Client(self, name) for name in (b"one", b"two")}
        for client in self.clients.values():
            client.send(Join([]))
        self.num_slots, self.num_started, self.num_deaths = num_slots, 0, 0
        self.engines: dict[str, float] = {}  # with when they are ready
        for _ in range(num_engines):
            self.start(0.0)
        self.asking: list[Asking] = []
        self.set_replicas()

    def start(self, after: float) -> None:
        self.num_started += 1
        self.engines[f"engine-{self.num_started}"] = self.now + after

    def set_replicas(self) -> None:
        self.take(
            self.gate.set_replicas([one for one, at in self.engines.items() if at <= self.now], self.now)
        )

    def take(self, events: list[tuple[bytes, Event]]) -> None:
        for name, event in events:
            if isinstance(event, Admitted | Granted | Moved):
                request = self.clients[name].requests.get(event.request)
                if request is None:
                    continue
                if isinstance(event, Admitted):
                    request.admit(event.granted, event.limits)
                elif isinstance(event, Granted):
                    request.grant(event.sequence, event.replica)
                else:
                    request.moved(event.sequence, event.num_suspects)

    def ask(self, num_sequences: int, kills_after: int | None = None) -> Asking:
        client = self.random.choice(list(self.clients.values()))
        request = AdmissionRequest(client, Ask(len(self.asking), "", Tier.DEFAULT, num_sequences))
        client.requests[request.ask.request] = request
        client.send(request.ask)
        one = Asking(request, kills_after)
        one.answers = [
            Answer(one, request.take_slot(), self.random.randint(1, 6)) for _ in range(num_sequences)
        ]
        self.asking.append(one)
        return one

    def answers(self) -> list[Answer]:
        return [answer for one in self.asking for answer in one.answers]

    def round(self) -> None:
        self.now += 1
        self.set_replicas()
        loads = Counter(answer.grant.replica for answer in self.answers() if answer.grant.replica)
        assert max(loads.values(), default=0) <= self.num_slots
        answers = self.answers()
        self.random.shuffle(answers)
        for answer in answers:
            if answer in answer.request.answers:
                self.step(answer)

    def step(self, answer: Answer) -> None:
        if refused := answer.grant._replica.done() and answer.grant._replica.exception():
            assert isinstance(refused, ServiceError)
            self.end(answer.request, refused)
        elif answer.grant.replica is None:
            return
        elif answer.request.kills_after is None:
            answer.num_left -= 1
            if not answer.num_left:
                answer.request.answers.remove(answer)
                answer.grant.release(10)
                if not answer.request.answers:
                    answer.request.request.close()
        elif self.random.randrange(answer.request.kills_after + 1) == 0:
            self.kill(answer.grant.replica)

    def kill(self, replica: str) -> None:
        self.num_deaths += 1
        del self.engines[replica]
        self.start(START)
        aboard = [answer for answer in self.answers() if answer.grant.replica == replica]
        self.random.shuffle(aboard)
        if self.random.random() < 0.5:
            self.random.choice(list(self.clients.values())).send(Lost(replica))
        for answer in aboard:
            if answer not in answer.request.answers:
                continue  # its request has ended
            if answer.num_lost + 1 >= MAX_ENGINES:
                self.end(answer.request, answer.grant.has_killed() or EngineLostError("it has died"))
            else:
                answer.num_lost += 1
                answer.grant = answer.grant.move(Loss.DIED)

    def end(self, one: Asking, error: ServiceError) -> None:
        one.error = error
        answers, one.answers = one.answers, []
        for answer in answers:
            answer.grant.release(10)
        one.request.close()


@examples(150)
@given(
    seed=st.integers(0, 1 << 32),
    num_engines=st.integers(1, 5),
    num_slots=st.integers(1, 5),
    num_requests=st.integers(0, 25),
    num_choices=st.integers(1, 3),
    kills_after=st.integers(0, 5),
)
async def test_a_request_that_kills_engines_costs_nobody_else_an_answer(
    seed: int, num_engines: int, num_slots: int, num_requests: int, num_choices: int, kills_after: int
) -> None:
    """And few engines. Others come all the time, and engines that have died start again."""
    fleet = Fleet(seed, num_engines, num_slots)
    others = [fleet.ask(fleet.random.randint(1, 2)) for _ in range(num_requests // 2)]
    poison = fleet.ask(num_choices, kills_after)
    for _ in range(MAX_ROUNDS):
        if len(others) < num_requests and fleet.random.random() < 0.3:
            others.append(fleet.ask(fleet.random.randint(1, 2)))
        if len(others) == num_requests and not fleet.answers():
            break
        fleet.round()
    assert not fleet.answers(), "some wait for ever"
    assert isinstance(poison.error, DeadlyRequestError)
    # Its choices may be on several engines.
    assert fleet.num_deaths < MAX_DEATHS + num_choices
    if num_choices == 1:
        assert [one.error for one in others] == [None] * num_requests
    assert (fleet.gate.num_running, fleet.gate.num_waiting, len(fleet.gate._suspects)) == (0, 0, 0)


# --- who goes where ------------------------------------------------------------------------------------


def open_on(gate: Gate, requests: dict[int, str | None], deaths: list[str]) -> None:
    """These requests run where they say, and these engines have died with all of them."""
    gate.send(
        Join(
            [
                OpenRequest(number, "", Tier.DEFAULT, 0.0, True, {0: where}, deaths)
                for number, where in requests.items()
            ]
        )
    )
    gate.said()


def test_those_who_were_together_at_a_death_go_apart() -> None:
    gate = Gate("a", "b", "c", max_concurrent_requests=8)
    open_on(gate, {1: "a", 2: "a", 3: "a", 4: "b"}, [])
    gate.send(Lost("a"))
    for number in (1, 2, 3):
        gate.send(Move(number, 0, 1, Loss.DIED))
    where = [gate.sequences(number)[0].replica for number in (1, 2, 3)]
    # Two engines for three: the one with nobody first.
    assert where[:2] == ["c", "b"]
    assert where[2] in ("b", "c")


def test_those_who_were_together_at_two_deaths_do_not_share_a_third_engine() -> None:
    gate = Gate("c", max_concurrent_requests=4)
    open_on(gate, {1: None, 2: None, 3: None}, ["a", "b"])
    assert gate.counts == (1, 2)
    assert gate.ask(4) == [Admitted(4, {0: "c"}, None)], "others pass them"
    gate.send(Release(1, 0, 10))
    assert gate.said() == [granted(2, 0, "c")]
    gate.set_replicas("c", "d")
    assert gate.said() == [granted(3, 0, "d")]


def test_those_who_are_kept_apart_keep_nobody_out_of_a_queue_that_is_none() -> None:
    gate = Gate("c", max_concurrent_requests=4, max_queued=0)
    open_on(gate, {1: None, 2: None}, ["a", "b"])
    assert gate.ask(4) == [Admitted(4, {0: "c"}, None)]


def test_all_sequences_of_a_request_may_be_together() -> None:
    gate = Gate("c", max_concurrent_requests=4)
    gate.send(Join([OpenRequest(1, "", Tier.DEFAULT, 0.0, True, {0: None, 1: None}, ["a", "b"])]))
    assert gate.counts == (2, 0)


def test_who_was_together_at_one_death_may_share_where_there_is_no_other() -> None:
    gate = Gate("c", max_concurrent_requests=4)
    open_on(gate, {1: None, 2: None}, ["a"])
    assert gate.counts == (2, 0)


def test_who_had_not_been_taken_by_its_engine_is_no_suspect() -> None:
    gate = Gate("a", "b", max_concurrent_requests=4)
    open_on(gate, {1: "a", 2: "a"}, [])
    gate.send(Lost("a"))
    gate.send(Move(1, 0, 1, Loss.NOT_TAKEN))
    assert gate.said()[0] == Moved(1, 1, num_suspects=0)
    assert len(gate.admission._suspects) == 1


# --- where a sequence really is ------------------------------------------------------------------------


def test_a_sequence_that_went_elsewhere_is_counted_there() -> None:
    gate = Gate("a", "b")
    gate.ask(1)
    gate.send(Place(1, 0, "b"))
    assert [gate.admission._slots.num_taken_on(one) for one in "ab"] == [0, 1]
    gate.send(Place(1, 0, "b"))
    gate.send(Place(1, 7, "b"))  # of a sequence that is over
    assert gate.counts == (1, 0)
    gate.send(Move(1, 0, 1, Loss.DIED))
    assert gate.said()[-1] == granted(1, 1, "a"), "it is the other one that has died"
    gate.send(Close(1))
    assert gate.counts == (0, 0)


def test_a_sequence_that_went_elsewhere_has_not_killed_the_engine_of_its_slot() -> None:
    gate = Gate("a", "b")
    gate.ask(1)
    gate.send(Lost("a"))
    gate.send(Place(1, 0, "b"))
    assert len(gate.admission._suspects) == 0
    assert not gate.admission._suspects._num_aboard


@pytest.mark.parametrize("is_first", [False, True])
def test_nobody_is_to_blame_where_an_ingress_was_forgotten(is_first: bool) -> None:
    gate = Gate("a", "b", max_concurrent_requests=4)
    gate.set_replicas("a")
    gate.ask(1)
    gate.ask(1, ingress=THERE)
    for step in (lambda: gate.admission.forget(THERE, gate.now), lambda: gate.send(Lost("a")))[
        :: 1 if is_first else -1
    ]:
        step()
    gate.send(Move(1, 0, 1, Loss.DIED))
    assert gate.said()[-1] == Moved(1, 1, num_suspects=0)
    assert len(gate.admission._suspects) == 0
