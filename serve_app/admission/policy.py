"""`Admission`: decides for each request whether and when it begins, and on which engine replica."""

from __future__ import annotations

import logging
from collections.abc import Collection
from heapq import heappop, heappush
from itertools import count

from serve_app.admission.engine_slots import EngineSlots
from serve_app.admission.fair_queue import FairQueue
from serve_app.admission.key_limits import KeyLimits
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
from serve_app.admission.requests import IngressPeer, Request, Sequence
from serve_app.admission.rules import Rules
from serve_app.admission.service_time import MIN_RETRY_AFTER_S, RetrySchedule, ServiceTime

logger = logging.getLogger("ray.serve")

# An ingress that has said nothing for this long is taken for dead. It pings ten times in between.
SILENCE_S = 10.0
# With no engine there is no rate to compute from. A warm engine start takes 85 s; balancers ask again sooner.
NO_ENGINE_RETRY_S = 30.0

Addressed = tuple[bytes, Event]


class Admission:
    """Messages in, events out. `now` is seconds on any clock that does not go back.

    A request whose first sequence has begun is admitted for good: it is never refused, and a sequence of it
    that has lost its engine goes before all others of its tier.
    """

    def __init__(self, rules: Rules, *, sees_all: bool = True) -> None:
        """`sees_all`: every ingress asks here. Else nobody is told that it was alone on a replica."""
        self._rules, self._sees_all = rules, sees_all
        self._slots = EngineSlots(rules.max_concurrent_requests, rules.reserved_share)
        self._queue: FairQueue[Sequence] = FairQueue(len(Tier))
        self._keys = KeyLimits(rules.max_requests_per_key, rules.max_tokens_per_minute_per_key)
        self._service = ServiceTime()
        self._retry_schedule = RetrySchedule()
        self._ingresses: dict[bytes, IngressPeer] = {}
        self._waiting: set[Request] = set()  # those of which nothing has begun
        self._num_refusable = [0] * len(Tier)  # their sequences, by tier
        self._deadlines: list[tuple[float, int, Request]] = []  # a heap; some are over, or have changed
        self._order = count()
        self._has_had_engines = False
        # Of replicas that have died with sequences: how many requests these were of. 0 where nobody is to
        # blame: Serve had taken the replica out before (it had drained for as long as it may), or an ingress
        # was forgotten whose sequences may have been there, too.
        self._died_with: dict[str, int] = {}
        self._events: list[Addressed] = []

    @property
    def num_waiting(self) -> int:
        """Sequences that wait."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Sequences that have their slot."""
        return self._slots.num_taken

    def set_replicas(self, replicas: Collection[str], now: float) -> list[Addressed]:
        """Takes note of the engine replicas that are ready."""
        if not self._slots.replicas and replicas:
            # Whoever waited for an engine to start now waits for a slot on it.
            for request in self._waiting:
                self._set_deadline(request, min(request.deadline, now + self._rules.max_wait_s))
        self._slots.replicas = replicas
        self._has_had_engines |= bool(replicas)
        self._grant(now)
        return self._take_events()

    def handle(self, ingress: bytes, message: Message, now: float) -> list[Addressed]:
        """Takes a message of an ingress, and returns what is to be said to whom."""
        known = self._ingresses.get(ingress)
        if isinstance(message, Join):
            self._forget(ingress, now)
            self._ingresses[ingress] = IngressPeer(now)
            self._events.append((ingress, Joined()))
            for request in message.open:
                self._restore(ingress, request, now)
        elif known is None:
            return [(ingress, Unknown())]
        else:
            known.heard_at = now
            if isinstance(message, Ping):
                is_complete = message.num_sent == known.num_received
                return [(ingress, Pong(known.num_sent) if is_complete else Unknown())]
            known.num_received += 1
            self._handle(ingress, known, message, now)
        self._grant(now)
        return self._take_events()

    def _handle(self, ingress: bytes, known: IngressPeer, message: Message, now: float) -> None:
        if isinstance(message, Ask):
            self._ask(ingress, message, now)
            return
        if isinstance(message, Lost):
            self._lose(message.replica)
            return
        assert isinstance(message, Move | Release | Close)
        request = known.requests.get(message.request)
        if request is None:
            return  # refused in the meantime
        if isinstance(message, Move):
            self._move(request, message, now)
        elif isinstance(message, Release):
            if sequence := request.sequences.pop(message.sequence, None):
                if request in self._waiting:
                    self._num_refusable[request.tier] -= 1
                if sequence.replica is None or not message.num_tokens:
                    sequence.began_at = None  # it has not been in an engine: how long it took says nothing
                if message.num_tokens:  # also where it waited for another engine
                    self._keys.charge(request.key, message.num_tokens, now)
                self._end(sequence, now)
        else:
            self._close(request, now)

    def _lose(self, replica: str) -> None:
        """This replica is dead."""
        if replica not in self._died_with and self._slots.num_taken_on(replica):
            requests = (request for known in self._ingresses.values() for request in known.requests.values())
            is_on_it = [any(s.replica == replica for s in request.sequences.values()) for request in requests]
            self._died_with[replica] = sum(is_on_it) if replica in self._slots.replicas else 0
        self._slots.lose(replica)

    def _move(self, request: Request, move: Move, now: float) -> None:
        before = request.sequences.get(move.sequence)
        replica = before.replica if before else None
        if replica is not None and move.loss is Loss.DIED:
            self._lose(replica)
        was_alone = move.loss is Loss.DIED and self._sees_all and self._died_with.get(replica or "") == 1
        self._say(request, Moved(request.number, move.to, was_alone))
        after = self._wait(request, move.to, first=True)
        after.loss, after.lost = move.loss, replica
        if before:
            del request.sequences[move.sequence]
            before.began_at = None  # how long it took says nothing
            self._end(before, now)

    def tick(self, now: float) -> list[Addressed]:
        """Refuses those whose time is up, and forgets ingresses that have fallen silent."""
        for ingress, known in list(self._ingresses.items()):
            if now - known.heard_at >= SILENCE_S:
                logger.warning(
                    "an ingress has been silent for %g s: its %d requests are taken for lost, and their "
                    "slots given to others; if it lives, look at its CPU and at the network to it",
                    SILENCE_S,
                    len(known.requests),
                )
                self._forget(ingress, now)
        while (request := self._next_to_go()) and now >= request.deadline:
            reason = Reason.WAITED_TOO_LONG if self._slots.replicas else Reason.NO_ENGINE
            self._refuse(request, reason, now)
        self._grant(now)
        return self._take_events()

    def signs_of_life(self) -> list[Addressed]:
        """Returns what can be said to each ingress at any time."""
        return [(ingress, Pong(known.num_sent)) for ingress, known in self._ingresses.items()]

    def forget(self, ingress: bytes, now: float) -> list[Addressed]:
        """An ingress has gone: its slots go to others, and its requests wait no longer."""
        if (known := self._ingresses.get(ingress)) and known.requests:
            logger.warning(
                "an ingress has gone, and its %d requests with it; if it lives, look at the network to it",
                len(known.requests),
            )
        self._forget(ingress, now)
        self._grant(now)
        return self._take_events()

    def next_tick(self) -> float | None:
        """When `tick` has something to do; None for never."""
        times = [known.heard_at + SILENCE_S for known in self._ingresses.values()]
        if request := self._next_to_go():
            times.append(request.deadline)
        return min(times, default=None)

    def _next_to_go(self) -> Request | None:
        """The one of those that wait whose time is up first."""
        while self._deadlines:
            deadline, _, request = self._deadlines[0]
            if request in self._waiting and request.deadline == deadline:
                return request
            heappop(self._deadlines)
        return None

    def _set_deadline(self, request: Request, deadline: float) -> None:
        request.deadline = deadline
        heappush(self._deadlines, (deadline, next(self._order), request))

    def _max_wait_s(self) -> float:
        rules = self._rules
        if self._slots.replicas or rules.start_wait_s is None:
            return rules.max_wait_s
        return rules.start_wait_s

    def _ask(self, ingress: bytes, ask: Ask, now: float) -> None:
        rules = self._rules
        request = Request(ingress, ask.request, ask.key, ask.tier)
        reason = self._keys.refuses(ask.key, now)
        may_come = rules.start_wait_s is not None or self._has_had_engines
        if reason is None and not self._slots.replicas and not may_come:
            reason = Reason.NO_ENGINE
        if reason is None and not self._has_room(request, ask.num_sequences, now):
            reason = Reason.QUEUE_FULL
        if reason is not None:
            self._say(request, self._refused(request, ask.num_sequences, reason, now))
            return
        self._open(request, now)
        for number in range(ask.num_sequences):
            self._wait(request, number)
        self._may_refuse(request)
        self._set_deadline(request, now + self._max_wait_s())
        self._grant(now, asking=request)
        granted = {s.number: s.replica for s in request.sequences.values() if s.replica is not None}
        limits = self._keys.limits(request.key, now, self._service.mean_s or 0.0)
        self._say(request, Admitted(request.number, granted, limits))

    def _has_room(self, request: Request, num_sequences: int, now: float) -> bool:
        """Whether so many more may wait, if they have to; others, of later tiers, give way."""
        num_all_before = self._queue.num_before(request.tier)
        num_free = self._num_free(request.tier) if not num_all_before else 0
        num_to_wait = max(0, num_sequences - num_free)
        if not num_to_wait:
            return True
        if not self._rules.max_queued:
            return False
        # Those of requests that have begun have their own bound: a request has at most 128.
        num_before = sum(self._num_refusable[: request.tier + 1])
        # One that is larger than the queue must have it alone: it would be refused for ever.
        if num_before and num_before + num_to_wait > self._rules.max_queued:
            return False
        num_turns = self._queue.num_before_of(request.tier, request.key)
        expected_s = self._service.wait_s(num_turns, self._slots.num_all)
        if expected_s is not None and expected_s > self._rules.max_wait_s:
            return False
        while sum(self._num_refusable) + num_to_wait > self._rules.max_queued:
            giving_way = self._queue.last(request.tier, lambda one: one.request in self._waiting)
            if giving_way is None:
                break
            self._refuse(giving_way.request, Reason.QUEUE_FULL, now)
        return True

    def _num_free(self, tier: int) -> int:
        reserved = self._slots.num_reserved if tier == Tier.FLEX else 0
        return max(0, self._slots.num_free - reserved)

    def _grant(self, now: float, asking: Request | None = None) -> None:
        """Gives free slots to those whose turn it is. `asking` is told with the answer to its question."""
        while (tier := self._queue.first_tier()) is not None and self._num_free(tier):
            sequence = self._queue.pop(tier)
            sequence.replica, sequence.began_at = self._take_slot(sequence), now
            self._no_longer_refuse(sequence.request)
            if sequence.request is not asking:
                request = sequence.request
                self._say(request, Granted(request.number, sequence.number, sequence.replica))

    def _may_refuse(self, request: Request) -> None:
        """A request waits, and nothing of it has begun."""
        self._waiting.add(request)
        self._num_refusable[request.tier] += len(request.sequences)

    def _no_longer_refuse(self, request: Request) -> None:
        """The opposite; before anything is taken out of its sequences."""
        if request in self._waiting:
            self._waiting.remove(request)
            self._num_refusable[request.tier] -= len(request.sequences)

    def _take_slot(self, sequence: Sequence) -> str:
        if sequence.loss is None:
            return self._slots.take()
        # Where its prompt, at least, is in the prefix cache.
        holders = {one.replica for one in sequence.request.sequences.values() if one.replica is not None}
        if sequence.loss is Loss.GAP and sequence.lost is not None:
            holders.add(sequence.lost)
        avoids = sequence.lost if sequence.loss is Loss.CUT_OFF else None
        return self._slots.take(prefers=holders, avoids=avoids)

    def _open(self, request: Request, now: float) -> None:
        self._ingresses[request.ingress].requests[request.number] = request
        if self._keys.is_needed:
            self._keys.open(request.key, now)

    def _wait(self, request: Request, number: int, *, first: bool = False) -> Sequence:
        sequence = request.sequences[number] = Sequence(request, number)
        self._queue.add(sequence, request.tier, request.key, first=first)
        return sequence

    def _end(self, sequence: Sequence, now: float) -> None:
        if sequence.replica is None:
            self._queue.remove(sequence, sequence.request.tier, sequence.request.key)
            return
        self._slots.give_back(sequence.replica)
        if not self._slots.num_taken_on(sequence.replica):
            self._died_with.pop(sequence.replica, None)
        if sequence.began_at is not None:
            self._service.add(now - sequence.began_at)

    def _close(self, request: Request, now: float) -> None:
        self._no_longer_refuse(request)
        for sequence in request.sequences.values():
            sequence.began_at = None  # nobody has said that it ended: it was not used, or its ingress is gone
            self._end(sequence, now)
        request.sequences.clear()
        del self._ingresses[request.ingress].requests[request.number]
        if self._keys.is_needed:
            self._keys.close(request.key, now)

    def _refuse(self, request: Request, reason: Reason, now: float) -> None:
        refused = self._refused(request, len(request.sequences), reason, now)
        self._close(request, now)
        self._say(request, refused)

    def _refused(self, request: Request, num_sequences: int, reason: Reason, now: float) -> Refused:
        request_s = self._service.mean_s or 0.0
        if reason is Reason.NO_ENGINE:
            retry_after_s = NO_ENGINE_RETRY_S
        elif reason in (Reason.KEY_REQUESTS, Reason.KEY_TOKENS):
            retry_after_s = self._keys.retry_after_s(request.key, reason, now, request_s)
        else:
            num_slots = self._slots.num_all
            wait_s = self._service.wait_s(self._queue.num_before(request.tier), num_slots)
            per_sequence_s = request_s / num_slots if num_slots else 0.0
            retry_after_s = self._retry_schedule.next(now, wait_s, num_sequences, per_sequence_s)
        limits = self._keys.limits(request.key, now, request_s)
        return Refused(request.number, reason, max(MIN_RETRY_AFTER_S, retry_after_s), limits)

    def _restore(self, ingress: bytes, known: OpenRequest, now: float) -> None:
        """A request that was admitted before this gate started, or before the ingress was out of reach."""
        request = Request(ingress, known.request, known.key, known.tier)
        self._open(request, now)
        for number, replica in known.sequences.items():
            if replica is None:
                self._wait(request, number, first=known.has_begun)
            else:
                # When it began is not known: it will not count for the mean.
                request.sequences[number] = Sequence(request, number, self._slots.take(replica))
        if not known.has_begun and request.sequences:
            self._may_refuse(request)
            self._set_deadline(request, now - known.waited_s + self._max_wait_s())

    def _forget(self, ingress: bytes, now: float) -> None:
        if known := self._ingresses.get(ingress):
            left = {s.replica for request in known.requests.values() for s in request.sequences.values()}
            for request in list(known.requests.values()):
                self._close(request, now)
            del self._ingresses[ingress]
            for replica in left:
                if replica is not None and self._slots.num_taken_on(replica):
                    self._died_with[replica] = 0

    def _say(self, request: Request, event: Event) -> None:
        self._ingresses[request.ingress].num_sent += 1
        self._events.append((request.ingress, event))

    def _take_events(self) -> list[Addressed]:
        events, self._events = self._events, []
        return events
