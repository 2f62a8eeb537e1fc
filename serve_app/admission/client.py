"""The ingress's side: asks for each request, and knows what it has open."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import count

from serve_app.admission.admission_request import AdmissionRequest, RequestState, RequestStateError
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
    Moved,
    OpenRequest,
    Ping,
    Reason,
    Refused,
    Tier,
)
from serve_app.admission.rules import Rules
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

    @property
    def num_open(self) -> int:
        """Requests that have asked and are not over."""
        return len(self._requests)

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
        self._own = Admission(self._rules, sees_all=False)
        self._own.set_replicas(self._replicas, time.monotonic())
        self._say_all()

    def _say_all(self) -> None:
        """Says all that is open, and asks again where there was no answer."""
        now = time.monotonic()
        asking: list[AdmissionRequest] = []
        answered: list[OpenRequest] = []
        for request in self._requests.values():
            if request.state is RequestState.ASKING:
                asking.append(request)
            else:
                answered.append(request.as_open(now))
        self.send(Join(answered))
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
        if not isinstance(event, Admitted | Refused | Granted | Moved) or not (
            request := self._requests.get(event.request)
        ):
            return
        try:
            if isinstance(event, Granted):
                request.grant(event.sequence, event.replica)
            elif isinstance(event, Moved):
                request.moved(event.sequence, was_alone=event.was_alone)
            elif isinstance(event, Admitted):
                request.admit(event.granted, event.limits)
            else:
                request.refuse(refusal(event), event.limits)
                del self._requests[event.request]  # the gate has forgotten it already
        except RequestStateError as error:
            # As after an `Admitted` that was lost: soon the counts differ, and it is asked for anew.
            logger.error("an event of the gate was dropped: %s", error)

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
