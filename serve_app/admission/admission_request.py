"""A request as its ingress knows it: what the gate has said of it, and the slots of its sequences."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Mapping
from itertools import count
from typing import Protocol

from serve_app.admission.protocol import Ask, Loss, Message, Move, OpenRequest, RateLimits, Release
from serve_app.admission.slot_grants import SlotGrant
from serve_app.errors import DeadlyRequestError, ServiceError

# One engine may die of anything. A second one that dies with the same request alone on it has died of that.
MAX_DEATHS_ALONE = 2


class RequestState(enum.Enum):
    """How far a request is."""

    ASKING = enum.auto()
    """The gate has not answered."""
    WAITING = enum.auto()
    """The gate has admitted it, and has granted none of its sequences a slot."""
    RUNNING = enum.auto()
    """One of its sequences has been granted a slot, be it over now: it is not refused any more."""
    REFUSED = enum.auto()
    """The gate has said no, at once or after a wait in vain, and has forgotten it."""
    CLOSING = enum.auto()
    """Its response has ended, and some of its calls have not."""
    CLOSED = enum.auto()
    """It is over, and the gate does not know it or is told so."""


TRANSITIONS: Mapping[RequestState, frozenset[RequestState]] = {
    RequestState.ASKING: frozenset({RequestState.WAITING, RequestState.REFUSED, RequestState.CLOSED}),
    RequestState.WAITING: frozenset(
        {RequestState.RUNNING, RequestState.REFUSED, RequestState.CLOSING, RequestState.CLOSED}
    ),
    RequestState.RUNNING: frozenset({RequestState.CLOSING, RequestState.CLOSED}),
    RequestState.REFUSED: frozenset({RequestState.CLOSED}),
    RequestState.CLOSING: frozenset({RequestState.CLOSED}),
    RequestState.CLOSED: frozenset(),
}


class RequestStateError(RuntimeError):
    """What is said of a request, or asked of it, does not fit its state."""


class Client(Protocol):
    """What a request needs of its `GateClient`."""

    def send(self, message: Message) -> None:
        """Tells the gate, or whoever stands in for it."""

    def close_request(self, request: AdmissionRequest) -> None:
        """Forgets a request that is over, and tells the gate."""


class AdmissionRequest:
    """A request that has asked. `close` it when its response has ended, admitted or not.

    Its state changes with what the gate says (`admit`, `grant`, `refuse`) and with its own end (`close`, and
    `release` of the last slot). A change that is not in `TRANSITIONS` raises `RequestStateError`.
    """

    def __init__(self, client: Client, ask: Ask) -> None:
        self._client, self.ask = client, ask
        self.asked_at = time.monotonic()
        self.state = RequestState.ASKING
        self.limits: RateLimits | None = None
        self.refusal: ServiceError | None = None
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.grants = {number: SlotGrant(self, number) for number in range(ask.num_sequences)}
        self._unused = list(self.grants.values())
        self._numbers = count(ask.num_sequences)
        # Of sequences that have moved: the replica before. Then those that died with only this request there.
        self._lost_replicas: dict[int, str] = {}
        self._died_alone: set[str] = set()

    async def admitted(self) -> None:
        """Returns when the request may begin, or wait for its slots.

        Raises `OverloadedError`, `KeyLimitError` or `EngineUnavailableError`, with when to come back.
        """
        await self._answer

    def admit(self, granted: Mapping[int, str], limits: RateLimits | None) -> None:
        """The gate has said yes, and which sequences may begin at once, on which replicas."""
        self._enter(RequestState.WAITING)
        self.limits = limits
        for number, replica in granted.items():
            self.grant(number, replica)
        if not self._answer.done():
            self._answer.set_result(None)

    def grant(self, number: int, replica: str) -> None:
        """The gate has said where a sequence is to go."""
        if self.state not in (RequestState.RUNNING, RequestState.CLOSING):
            self._enter(RequestState.RUNNING)
        if grant := self.grants.get(number):
            grant.give(replica)

    def refuse(self, error: ServiceError, limits: RateLimits | None) -> None:
        """The gate has said no, now or after a wait in vain."""
        is_closing = self.state is RequestState.CLOSING
        self._enter(RequestState.CLOSED if is_closing else RequestState.REFUSED)
        self.limits, self.refusal = limits, error
        for grant in self.grants.values():
            grant.refuse(error)
        if not self._answer.done():
            self._answer.set_exception(error)

    def take_slot(self) -> SlotGrant:
        """Returns the slot of the next sequence.

        It is a refused one when the gate has refused the request since it was admitted.
        """
        if self.state not in (RequestState.WAITING, RequestState.RUNNING, RequestState.REFUSED):
            raise RequestStateError(
                f"request {self.ask.request} is {self.state.name} and has no slots: they are taken after "
                "`admitted` has returned and before `close`"
            )
        if not self._unused:
            raise RequestStateError(
                f"request {self.ask.request} has asked for {self.ask.num_sequences} slots and taken them"
            )
        return self._unused.pop(0)

    def move(self, number: int, loss: Loss) -> SlotGrant:
        """See `SlotGrant.move`. The slot must have been granted, and not have been released."""
        before = self.grants.get(number)
        if self.state is not RequestState.RUNNING or before is None or before.replica is None:
            raise RequestStateError(
                f"request {self.ask.request} is {self.state.name}, and sequence {number} of it cannot move"
            )
        del self.grants[number]
        grant = SlotGrant(self, next(self._numbers))
        self.grants[grant.number] = grant
        self._lost_replicas[grant.number] = before.replica
        self._client.send(Move(self.ask.request, number, grant.number, loss))
        return grant

    def moved(self, number: int, *, was_alone: bool) -> None:
        """The gate has heard of a move, and says whether the request was alone on the replica that died."""
        replica = self._lost_replicas.get(number)
        if replica is None or not was_alone:
            return
        self._died_alone.add(replica)
        if (num_deaths := len(self._died_alone)) >= MAX_DEATHS_ALONE:
            error = DeadlyRequestError(
                f"{num_deaths} engines have died while this request ran on them, alone; it is not tried on "
                "another"
            )
            for grant in self.grants.values():
                grant.refuse(error)  # of no effect where it has its slot

    def release(self, number: int, num_tokens: int) -> None:
        """See `SlotGrant.release`. Of effect once for each slot."""
        if self.grants.pop(number, None) is None:
            return
        self._lost_replicas.pop(number, None)
        if self.state in (RequestState.REFUSED, RequestState.CLOSED):
            return  # the gate has forgotten it
        self._client.send(Release(self.ask.request, number, num_tokens))
        if self.state is RequestState.CLOSING and not self.grants:
            self._end()

    def close(self) -> None:
        """The response has ended. The request is over when its calls, which may end later, are over too."""
        if self.state in (RequestState.CLOSING, RequestState.CLOSED):
            return
        unused, self._unused = self._unused, []
        for grant in unused:
            self.release(grant.number, 0)
        if self.state is RequestState.REFUSED:
            self._enter(RequestState.CLOSED)
        elif self.grants:
            self._enter(RequestState.CLOSING)
        else:
            self._end()

    def as_open(self, now: float) -> OpenRequest:
        """Returns what a gate has to know of it that does not; `now` is of `time.monotonic`."""
        # Nobody gains by the refusal of one that is about to end.
        has_begun = self.state in (RequestState.RUNNING, RequestState.CLOSING)
        sequences = {number: grant.replica for number, grant in self.grants.items()}
        ask = self.ask
        return OpenRequest(ask.request, ask.key, ask.tier, now - self.asked_at, has_begun, sequences)

    def _end(self) -> None:
        self._enter(RequestState.CLOSED)
        self._client.close_request(self)

    def _enter(self, state: RequestState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RequestStateError(
                f"request {self.ask.request} is {self.state.name} and cannot become {state.name}"
            )
        self.state = state
