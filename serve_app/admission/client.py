"""The ingress's side: asks for each request, and knows what it has open."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import count

from serve_app.admission.link import GateLink
from serve_app.admission.policy import Admission
from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Event,
    Granted,
    Join,
    Lost,
    Message,
    More,
    OpenRequest,
    Ping,
    RateLimits,
    Reason,
    Refused,
    Release,
    Tier,
)
from serve_app.admission.rules import Rules
from serve_app.admission.slot_grants import SlotGrant
from serve_app.admission.timer import DeadlineTimer
from serve_app.errors import EngineUnavailableError, KeyLimitError, OverloadedError, ServiceError
from serve_app.transport.curve import CurveAddress

logger = logging.getLogger("ray.serve")

MESSAGES = {
    Reason.QUEUE_FULL: "all engines are busy and the queue is full",
    Reason.WAITED_TOO_LONG: "all engines have been busy for as long as a request may wait",
    Reason.NO_ENGINE: "no engine replica is ready: they are starting, which takes minutes on a cold machine, "
    "or have failed, which `serve status` explains",
    Reason.KEY_REQUESTS: "this API key has as many requests open as it may have",
    Reason.KEY_TOKENS: "this API key has used its tokens for this minute",
}


class AdmissionRequest:
    """A request that has asked. `close` it when it is over, admitted or not."""

    def __init__(self, client: GateClient, ask: Ask) -> None:
        self._client, self.ask = client, ask
        self.asked_at = time.monotonic()
        self.limits: RateLimits | None = None
        self.refusal: ServiceError | None = None
        self.has_begun = False
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_closing = False
        self.grants = {number: SlotGrant(self, number) for number in range(ask.num_sequences)}
        self._unused = list(self.grants.values())
        self._numbers = count(ask.num_sequences)

    @property
    def is_answered(self) -> bool:
        """Whether the gate has said yes or no."""
        return self._answer.done()

    @property
    def is_waiting(self) -> bool:
        """Whether it has been admitted, and none of its sequences has had its turn yet."""
        return self.is_answered and not self.has_begun and self.refusal is None

    async def admitted(self) -> None:
        """Returns when the request may begin, or wait for its slots.

        Raises `OverloadedError`, `KeyLimitError` or `EngineUnavailableError`, with when to come back.
        """
        await self._answer

    def admit(self) -> None:
        """The gate has said yes."""
        if not self._answer.done():
            self._answer.set_result(None)

    def grant(self, number: int, replica: str) -> None:
        """The gate has said where a sequence is to go."""
        self.has_begun = True
        if grant := self.grants.get(number):
            grant.give(replica)

    def refuse(self, error: ServiceError) -> None:
        """The gate has said no, now or after a wait in vain."""
        self.refusal = error
        for grant in self.grants.values():
            grant.refuse(error)
        if not self._answer.done():
            self._answer.set_exception(error)

    def take_slot(self) -> SlotGrant:
        """Returns the slot of the next sequence; beyond those asked for, one more."""
        if self._unused:
            return self._unused.pop(0)
        grant = SlotGrant(self, next(self._numbers))
        if self.refusal:
            grant.refuse(self.refusal)
            return grant
        self.grants[grant.number] = grant
        self._client.send(More(self.ask.request, grant.number))
        return grant

    def release(self, number: int, num_tokens: int) -> None:
        """See `SlotGrant.release`."""
        if self.grants.pop(number, None):
            self._client.send(Release(self.ask.request, number, num_tokens))
            self._close_if_over()

    def close(self) -> None:
        """The response has ended. The request is over when its calls, which may end later, are over too."""
        self._is_closing = True
        unused, self._unused = self._unused, []
        for grant in unused:
            self.release(grant.number, 0)
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self._is_closing and not self.grants:
            self._client.close_request(self)


class GateClient:
    """Asks the gate. While none can be reached, an `Admission` of its own: no request is lost for that.

    Its own sees only what goes through this ingress. Serve keeps each engine's limit in any case.
    """

    def __init__(self, rules: Rules, get_address: Callable[[], Awaitable[CurveAddress]]) -> None:
        """`get_address` returns the gate's address, and may take as long as the gate needs to start."""
        self._rules = rules
        self._get_address = get_address
        # Does not begin with a zero byte: those names are ZeroMQ's.
        self._name = uuid.uuid4().hex.encode()
        self._replicas: Collection[str] = ()
        self._numbers = count()
        self._requests: dict[int, AdmissionRequest] = {}
        self._link: GateLink | None = None
        self._timer = DeadlineTimer(lambda: self._own.next_tick(), self._tick)
        self._decide_alone()
        self.task = asyncio.create_task(self._keep_connected())

    @property
    def is_connected(self) -> bool:
        """Whether the gate decides."""
        return self._link is not None

    def set_replicas(self, replicas: Collection[str]) -> None:
        """Takes note of the engine replicas that are ready, for when there is no gate."""
        self._replicas = replicas
        if self._link is None:
            self._take(self._own.set_replicas(replicas, time.monotonic()))

    def ask(self, key: str, tier: Tier, num_sequences: int) -> AdmissionRequest:
        """Asks for a request. `AdmissionRequest.admitted` has the answer."""
        request = AdmissionRequest(self, Ask(next(self._numbers), key, tier, num_sequences))
        self._requests[request.ask.request] = request
        self.send(request.ask)
        return request

    def lose(self, replica: str) -> None:
        """A call has found this engine replica dead: nobody else is to be sent there."""
        self.send(Lost(replica))

    def close_request(self, request: AdmissionRequest) -> None:
        """Forgets a request, and tells the gate."""
        if self._requests.pop(request.ask.request, None):
            self.send(Close(request.ask.request))

    def send(self, message: Message) -> None:
        """To the gate, or to the `Admission` that stands in for it."""
        if self._link:
            self._link.send(message)
        else:
            self._take(self._own.handle(b"", message, time.monotonic()))

    async def _keep_connected(self) -> None:
        while True:
            link = GateLink(await self._get_address(), self._name, self._on_event)
            try:
                await link.run(partial(self._join, link))
            finally:
                link.close()
            if self._link:
                logger.warning("the gate does not answer; until it does, this ingress admits on its own")
                self._decide_alone()

    def _join(self, link: GateLink) -> None:
        self._link = link
        self._timer.cancel()
        self._say_all()

    def _decide_alone(self) -> None:
        self._link = None
        self._own = Admission(self._rules)
        self._own.set_replicas(self._replicas, time.monotonic())
        self._say_all()

    def _say_all(self) -> None:
        """Says all that is open, and asks again where there was no answer."""
        now = time.monotonic()
        answered = [request for request in self._requests.values() if request.is_answered]
        asking = [request for request in self._requests.values() if not request.is_answered]
        open_requests = [
            OpenRequest(
                request.ask.request,
                request.ask.key,
                request.ask.tier,
                now - request.asked_at,
                request.has_begun,
                {grant.number: grant.replica for grant in request.grants.values()},
            )
            for request in answered
        ]
        self.send(Join(open_requests))
        for request in asking:
            self.send(request.ask)

    def _tick(self) -> None:
        now = time.monotonic()
        self._own.handle(b"", Ping(0), now)  # it would take us for dead
        self._take(self._own.tick(now))

    def _take(self, events: list[tuple[bytes, Event]]) -> None:
        for _, event in events:
            self._on_event(event)
        self._timer.update()

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, Admitted | Refused | Granted) or not (
            request := self._requests.get(event.request)
        ):
            return
        if isinstance(event, Granted):
            request.grant(event.sequence, event.replica)
            return
        request.limits = event.limits
        if isinstance(event, Refused):
            del self._requests[event.request]  # the gate has forgotten it already
            request.refuse(refusal(event))
            return
        for number, replica in event.granted.items():
            request.grant(number, replica)
        request.admit()

    def close(self) -> None:
        """Closes the connection."""
        self.task.cancel()
        self._timer.cancel()


def refusal(event: Refused) -> ServiceError:
    """Returns the error that says to the client why, and when to come back."""
    message = MESSAGES[event.reason]
    if event.reason is Reason.NO_ENGINE:
        return EngineUnavailableError(message, event.retry_after_s)
    if event.reason in (Reason.KEY_REQUESTS, Reason.KEY_TOKENS):
        return KeyLimitError(message, event.retry_after_s)
    return OverloadedError(message, event.retry_after_s)
