"""Thousands of random operations on `Admission`, and a model that says after each what must hold.

The model is what the ingresses know: it learns of slots from events only, and keeps no queue. So it cannot
say who is next, but it says of each grant and refusal whether it may be.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest

from serve_app.admission.policy import SILENCE_S, Addressed, Admission
from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Event,
    Granted,
    Join,
    Joined,
    Loss,
    Lost,
    Message,
    Move,
    Moved,
    OpenRequest,
    Ping,
    Pong,
    Reason,
    Refused,
    Release,
    Tier,
    Unknown,
)
from serve_app.admission.rules import Rules

NUM_OPERATIONS = 3000
INGRESSES = (b"one", b"two", b"three")
KEYS = ("", "a", "b", "c")
MAX_REPLICAS = 4


@dataclass(eq=False)
class ModelRequest:
    """A request as its ingress knows it."""

    ask: Ask
    asked_at: float
    sequences: dict[int, str | None] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)
    num_asked: int = 0
    has_begun: bool = False
    is_restored: bool = False
    has_deadline: bool = True

    def exempt(self, number: int) -> bool:
        """Whether this sequence may wait however many do."""
        return self.has_begun or self.is_restored or number in self.moved


@dataclass(eq=False)
class ModelIngress:
    """An ingress, and whether the gate knows of it."""

    name: bytes
    heard_at: float = 0.0
    is_known: bool = False
    num_sent: int = 0
    num_events: int = 0
    requests: dict[int, ModelRequest] = field(default_factory=dict)


class Model:
    """Ingresses that do random things with a gate, and check what it says."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.random = random.Random(seed)
        self.rules = rules
        self.gate = Admission(rules)
        self.now = 1000.0
        self.ingresses = {name: ModelIngress(name) for name in INGRESSES}
        self.numbers = count()
        self.replica_numbers = count()
        self.served: list[str] = []  # as Serve says
        self.lost: set[str] = set()
        # Of each tier and key that waits: grants to each other key since this one had its turn.
        self.passed_over: dict[tuple[Tier, str], Counter[str]] = {}
        self.seen: Counter[str] = Counter()

    # --- what the model knows ---

    @property
    def ready(self) -> list[str]:
        return [replica for replica in self.served if replica not in self.lost]

    def requests(self) -> list[ModelRequest]:
        """Those that the gate knows of."""
        return [t for i in self.ingresses.values() if i.is_known for t in i.requests.values()]

    def loads(self) -> Counter[str]:
        return Counter(
            replica for t in self.requests() for replica in t.sequences.values() if replica is not None
        )

    def waiting(self) -> list[tuple[ModelRequest, int]]:
        return [(t, n) for t in self.requests() for n, replica in t.sequences.items() if replica is None]

    def num_reserved(self) -> int:
        num_all = len(self.ready) * self.rules.max_concurrent_requests
        if not self.rules.reserved_share or num_all < 2:
            return 0
        return min(max(1, int(num_all * self.rules.reserved_share)), num_all - 1)

    def num_free(self, tier: Tier) -> int:
        loads = self.loads()
        free = sum(max(0, self.rules.max_concurrent_requests - loads[replica]) for replica in self.ready)
        return free - self.num_reserved() if tier is Tier.FLEX else free

    # --- operations ---

    def run(self) -> None:
        operations = {
            self.ask: 30,
            self.move: 6,
            self.release: 30,
            self.close: 14,
            self.ping: 12,
            self.join: 2,
            self.message_vanishes: 2,
            self.lose_replica: 1,
            self.change_replicas: 3,
            self.tick: 12,
            self.go: 1,
            self.look_for_signs_of_life: 2,
        }
        for _ in range(NUM_OPERATIONS):
            self.now += self.random.expovariate(4.0)
            ingress = self.ingresses[self.random.choices(INGRESSES, weights=(10, 10, 1))[0]]
            operation = self.random.choices(list(operations), list(operations.values()))[0]
            operation(ingress)
            self.check_state()
        self.close_everything()

    def ask(self, ingress: ModelIngress) -> None:
        if not self.make_known(ingress):
            return
        tier = self.random.choice(list(Tier))
        n = self.random.choice((1, 1, 1, 1, 2, 2, 3, 3, 5, 5, 2 * self.rules.max_queued + 1))
        ask = Ask(next(self.numbers), self.random.choice(KEYS), tier, n)
        request = ModelRequest(ask, self.now, num_asked=n)
        num_open = sum(t.ask.key == ask.key for t in self.requests())
        over_limit = (
            self.rules.max_requests_per_key is not None and num_open >= self.rules.max_requests_per_key
        )
        before = [(waiter, number) for waiter, number in self.waiting() if waiter.ask.tier <= tier]
        num_before = sum(not waiter.has_begun for waiter, _ in before)
        is_alone = not before
        fits = bool(self.ready) and is_alone and self.num_free(tier) >= n
        answers: list[Event] = []
        for to, event in self.send(ingress, ask):
            if to != ingress.name or getattr(event, "request", None) != ask.request:
                if isinstance(event, Refused):
                    assert event.reason is Reason.QUEUE_FULL
                    displaced = self.ingresses[to].requests[event.request]
                    assert displaced.ask.tier > tier, "one gives way to its own tier or a later one"
                    self.seen["displaced"] += 1
                self.take(to, event)
                continue
            answers.append(event)
            if isinstance(event, Admitted):
                ingress.requests[ask.request] = request
                request.sequences = dict.fromkeys(range(n))
                for number in range(n):
                    self.begins_to_wait(request, number)
            self.take(to, event)
        [answer] = answers
        if over_limit:
            assert isinstance(answer, Refused)
            assert answer.reason is Reason.KEY_REQUESTS
        elif isinstance(answer, Refused):
            assert answer.reason in (Reason.QUEUE_FULL, Reason.NO_ENGINE, Reason.KEY_TOKENS)
            assert not fits or answer.reason is Reason.KEY_TOKENS, "there was room"
            if answer.reason is Reason.QUEUE_FULL:
                assert before or not self.rules.max_queued, "an idle queue takes everyone"
            assert answer.retry_after_s >= 1
            self.seen[f"refused {answer.reason.name}"] += 1
        elif fits:
            assert None not in request.sequences.values(), "there was room to begin at once"
        elif num_before:
            assert num_before + n <= self.rules.max_queued, "the queue was full"
        else:
            assert self.rules.max_queued, "nobody may wait"
            self.seen["larger than the queue"] += n > self.rules.max_queued and not request.has_begun

    def move(self, ingress: ModelIngress) -> None:
        running = [(r, n) for r in ingress.requests.values() for n, replica in r.sequences.items() if replica]
        if running and self.make_known(ingress):
            request, before = self.random.choice(running)
            after, request.num_asked = request.num_asked, request.num_asked + 1
            replica = request.sequences.pop(before)
            loss = self.random.choice(list(Loss))
            others = {id(r) for r in self.requests() if replica in r.sequences.values()} - {id(request)}
            if loss is Loss.DIED and replica:
                self.lost.add(replica)
            request.sequences[after] = None
            request.moved.add(after)
            self.reset_turns(request.ask.tier)
            self.begins_to_wait(request, after)
            moved, *granted = self.send(ingress, Move(request.ask.request, before, after, loss))
            assert moved[0] == ingress.name
            assert isinstance(moved[1], Moved)
            assert not (moved[1].was_alone and others), "another request is there, too"
            self.seen["moves"] += 1
            ingress.num_events += 1
            for to, event in granted:
                assert isinstance(event, Granted), "nobody asked"
                self.take(to, event)

    def release(self, ingress: ModelIngress) -> None:
        if ingress.requests and self.make_known(ingress):
            request = self.random.choice(list(ingress.requests.values()))
            if request.sequences:
                number = self.random.choice(list(request.sequences))
                del request.sequences[number]
                self.exchange(ingress, Release(request.ask.request, number, self.random.randrange(200)))

    def close(self, ingress: ModelIngress) -> None:
        if ingress.requests and self.make_known(ingress):
            number = self.random.choice(list(ingress.requests))
            del ingress.requests[number]
            self.exchange(ingress, Close(number))

    def ping(self, ingress: ModelIngress) -> None:
        if self.make_known(ingress):
            events = self.send(ingress, Ping(ingress.num_sent))
            assert events == [(ingress.name, Pong(ingress.num_events))], "events and counts do not agree"

    def join(self, ingress: ModelIngress) -> None:
        open_requests = []
        for request in ingress.requests.values():
            request.is_restored = True
            request.has_deadline = bool(request.sequences)
            if request.has_begun:  # those of it that wait go first
                request.moved |= {number for number, replica in request.sequences.items() if replica is None}
            open_requests.append(
                OpenRequest(
                    request.ask.request,
                    request.ask.key,
                    request.ask.tier,
                    self.now - request.asked_at,
                    request.has_begun,
                    dict(request.sequences),
                )
            )
        for tier in Tier:
            self.reset_turns(tier)
        ingress.is_known, ingress.num_sent = True, 0
        [first, *events] = self.send(ingress, Join(open_requests))
        assert first == (ingress.name, Joined())
        ingress.num_events = 0
        for to, event in events:
            self.take(to, event)
        self.seen["joins"] += 1

    def message_vanishes(self, ingress: ModelIngress) -> None:
        if ingress.requests and self.make_known(ingress):
            number = self.random.choice(list(ingress.requests))
            del ingress.requests[number]
            ingress.num_sent += 1  # `Close`, on a connection that broke
            assert self.send(ingress, Ping(ingress.num_sent)) == [(ingress.name, Unknown())]
            self.join(ingress)

    def lose_replica(self, ingress: ModelIngress) -> None:
        if self.ready and self.make_known(ingress):
            replica = self.random.choice(self.ready)
            self.lost.add(replica)
            self.exchange(ingress, Lost(replica))

    def change_replicas(self, _: ModelIngress) -> None:
        if len(self.served) < MAX_REPLICAS and self.random.random() < 0.6:
            self.served.append(f"replica-{next(self.replica_numbers)}")
        elif self.served:
            self.served.remove(self.random.choice(self.served))
        for to, event in self.gate.set_replicas(list(self.served), self.now):
            self.take(to, event)

    def tick(self, _: ModelIngress) -> None:
        for ingress in self.ingresses.values():
            if ingress.is_known and self.now - ingress.heard_at >= SILENCE_S:
                ingress.is_known = False
                self.seen["silent"] += 1
        events = self.gate.tick(self.now)
        for to, event in events:
            if isinstance(event, Refused):
                request = self.ingresses[to].requests[event.request]
                assert event.reason in (Reason.WAITED_TOO_LONG, Reason.NO_ENGINE)
                assert self.now - request.asked_at >= self.rules.max_wait_s, "its time was not up"
                self.seen["waited too long"] += 1
            self.take(to, event)
        for request, _number in self.waiting():
            if request.has_deadline and not request.has_begun:
                assert self.now - request.asked_at < self.rules.max_wait_s, "its time is up"

    def go(self, ingress: ModelIngress) -> None:
        """Its connection has gone. When it comes back it is a stranger."""
        self.seen["gone"] += ingress.is_known
        ingress.is_known = False
        for to, event in self.gate.forget(ingress.name, self.now):
            assert isinstance(event, Granted), "nobody asked"
            self.take(to, event)

    def look_for_signs_of_life(self, _: ModelIngress) -> None:
        known = [i for i in self.ingresses.values() if i.is_known]
        signs = self.gate.signs_of_life()
        # What they would answer to a `Ping`: nobody joins anew for being looked for.
        assert sorted(signs) == sorted((i.name, Pong(i.num_events)) for i in known)

    def close_everything(self) -> None:
        for ingress in self.ingresses.values():
            self.make_known(ingress)
            while ingress.requests:
                number = next(iter(ingress.requests))
                del ingress.requests[number]
                self.exchange(ingress, Close(number))
                self.check_state()
        assert (self.gate.num_running, self.gate.num_waiting) == (0, 0)
        assert not self.gate._slots._loads
        assert not self.gate._waiting
        assert not any(self.gate._num_refusable)
        assert not self.gate._died_with
        assert not any(self.gate._queue._tiers)
        assert not any(known.requests for known in self.gate._ingresses.values())
        assert all(use.num_open == 0 for use in self.gate._keys._uses.values())

    # --- messages and events ---

    def make_known(self, ingress: ModelIngress) -> bool:
        """One that the gate does not know finds out, and joins, instead of what it would have done."""
        if ingress.is_known:
            return True
        assert self.send(ingress, Ping(ingress.num_sent)) == [(ingress.name, Unknown())]
        self.join(ingress)
        return False

    def send(self, ingress: ModelIngress, message: Message) -> list[Addressed]:
        if not isinstance(message, Ping):
            ingress.num_sent += 1
        ingress.heard_at = self.now
        return self.gate.handle(ingress.name, message, self.now)

    def exchange(self, ingress: ModelIngress, message: Message) -> None:
        for to, event in self.send(ingress, message):
            assert isinstance(event, Granted), "nobody asked"
            self.take(to, event)

    def take(self, to: bytes, event: Event) -> None:
        ingress = self.ingresses[to]
        assert ingress.is_known, "something is said to one who is forgotten"
        ingress.num_events += 1
        if isinstance(event, Refused):
            if request := ingress.requests.pop(event.request, None):
                assert not request.has_begun, "what has begun is refused"
        elif isinstance(event, Admitted):
            for number, replica in event.granted.items():
                self.begins(ingress.requests[event.request], number, replica)
        else:
            assert isinstance(event, Granted)
            self.begins(ingress.requests[event.request], event.sequence, event.replica)

    def begins(self, request: ModelRequest, number: int, replica: str) -> None:
        tier = request.ask.tier
        assert request.sequences[number] is None, "granted twice"
        assert replica in self.ready
        assert self.loads()[replica] < self.rules.max_concurrent_requests, "the replica is full"
        assert self.num_free(tier) > 0, "the slot is reserved"
        waiting = self.waiting()
        assert not [t for t, _ in waiting if t.ask.tier < tier], "an earlier tier waits"
        if number not in request.moved:
            assert not [t for t, n in waiting if t.ask.tier == tier and n in t.moved], "one that moved waits"
        request.sequences[number] = replica
        request.has_begun = True
        self.seen[f"granted {tier.name}"] += 1
        key = request.ask.key
        self.forget_turns()
        self.passed_over.pop((tier, key), None)
        for (other_tier, _), passed in self.passed_over.items():
            if other_tier == tier and number not in request.moved:  # which goes first
                passed[key] += 1
                assert passed[key] <= 1, "a key has two turns while another waits for its first"
        self.passed_over[tier, key] = Counter()
        self.forget_turns()

    def forget_turns(self) -> None:
        """A key that no longer waits, and may come again, has no turn coming."""
        waits = {(request.ask.tier, request.ask.key) for request, _ in self.waiting()}
        self.passed_over = {k: passed for k, passed in self.passed_over.items() if k in waits}

    def begins_to_wait(self, request: ModelRequest, number: int) -> None:
        assert request.sequences[number] is None
        self.passed_over.setdefault((request.ask.tier, request.ask.key), Counter())

    def reset_turns(self, tier: Tier) -> None:
        """Who goes first, or is put in the queue anew, upsets the turns of its tier."""
        self.passed_over = {k: Counter() if k[0] == tier else p for k, p in self.passed_over.items()}

    # --- invariants ---

    def check_state(self) -> None:
        waiting = self.waiting()
        assert self.gate.num_running == self.loads().total()
        assert self.gate.num_waiting == len(waiting)
        for tier in {request.ask.tier for request, _ in waiting}:
            assert self.num_free(tier) <= 0, "one waits although there is a slot"
        bound = [request for request, number in waiting if not request.exempt(number)]
        num_bound = len(bound)
        if num_bound > self.rules.max_queued:
            assert self.rules.max_queued, "one waits although nobody may"
            [only] = set(bound)  # which found nobody before it
            assert only.ask.num_sequences > self.rules.max_queued, "more wait than may"
        self.seen["most waiting"] = max(self.seen["most waiting"], num_bound)
        self.forget_turns()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(Rules(max_concurrent_requests=3, max_queued=8, max_wait_s=5.0), id="plain"),
        pytest.param(
            Rules(
                max_concurrent_requests=4,
                max_queued=12,
                max_wait_s=20.0,
                reserved_share=0.1,
                max_requests_per_key=6,
                max_tokens_per_minute_per_key=20_000,
            ),
            id="limits",
        ),
    ],
)
def test_whatever_happens_admission_keeps_its_rules(seed: int, rules: Rules) -> None:
    model = Model(seed, rules)
    model.run()
    # It was no idle run.
    for seen in (
        "joins",
        "silent",
        "gone",
        "displaced",
        "waited too long",
        "refused QUEUE_FULL",
        "larger than the queue",
        "moves",
    ):
        assert model.seen[seen] > 0, seen
    for tier in Tier:
        assert model.seen[f"granted {tier.name}"] > 5
    assert model.seen["most waiting"] > rules.max_queued / 2


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_nobody_waits_where_there_is_no_queue(seed: int) -> None:
    model = Model(seed, Rules(max_concurrent_requests=3, max_queued=0, max_wait_s=5.0))
    model.run()
    assert model.seen["most waiting"] == 0
    assert model.seen["refused QUEUE_FULL"] > 0
    assert model.seen["granted DEFAULT"] > 5
