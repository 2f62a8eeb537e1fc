"""The gate's socket: CurveZMQ, ROUTER here and one DEALER in each ingress.

As with step frames, a connection needs the gate's public key, which only Serve's handle gives out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection
from typing import Any, cast

import msgspec
import zmq

from serve_app.admission.policy import Addressed, Admission
from serve_app.admission.protocol import Event, Message, Reason, Refused
from serve_app.admission.timer import DeadlineTimer
from serve_app.transport.connections import DOWN, RECONNECT_S
from serve_app.transport.curve import CurveSockets

logger = logging.getLogger("ray.serve")

# A peer whose machine has gone without a word is noticed after this, in milliseconds.
HEARTBEAT_MS = 2_000
# A list of all requests of an ingress, with thousands of them, is below a megabyte.
MAX_MESSAGE_BYTES = 1 << 24
# How often the log says that requests are refused.
REPORT_S = 10.0


class GateServer:
    """Runs an `Admission` for those who connect. Must be made in a running event loop."""

    def __init__(self, host: str, admission: Admission) -> None:
        """Binds a free port of `host`, an address of this machine inside the cluster."""
        self._admission = admission
        self._sockets = CurveSockets()
        self._socket, self.address = self._sockets.bind(
            zmq.ROUTER,
            host,
            # A ROUTER drops what is over the mark. Ingresses that do not read fall silent and are forgotten.
            high_water_mark=0,
            max_message_bytes=MAX_MESSAGE_BYTES,
            heartbeat_ms=HEARTBEAT_MS,
            is_handed_over=True,
            on_event=self._on_event,
        )
        self._look_for_gone: asyncio.Handle | None = None
        self._looks_again = False
        self._refused: Counter[Reason] = Counter()
        self._say_refused_at = 0.0
        self._decoder: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(list[Message])
        self._timer = DeadlineTimer(admission.next_tick, lambda: self._send(admission.tick(time.monotonic())))
        self.task = asyncio.create_task(self._run())

    def set_replicas(self, replicas: Collection[str]) -> None:
        """Takes note of the engine replicas that are ready."""
        self._send(self._admission.set_replicas(replicas, time.monotonic()))
        self._timer.update()

    async def _run(self) -> None:
        while True:
            ingress, *parts = await self._socket.recv_multipart()
            try:
                messages = self._decoder.decode(b"".join(parts))
            except msgspec.MsgspecError as error:
                logger.error("a message was dropped: %s; do all replicas run the same version?", error)
                continue
            for message in messages:
                self._send(self._admission.handle(ingress, message, time.monotonic()))
            self._timer.update()

    def _send(self, events: list[Addressed]) -> None:
        for ingress, event in events:
            if isinstance(event, Refused):
                self._note(event)
            self._reaches(ingress, event)

    def _reaches(self, ingress: bytes, event: Event) -> bool:
        """Sends an event. Returns whether there is a connection to the ingress."""
        # Without a high-water mark it is sent at once, or never.
        sending = self._socket.send_multipart([ingress, msgspec.msgpack.encode(event)])
        return cast("asyncio.Future[Any]", sending).exception() is None

    def _on_event(self, event: int) -> None:
        """A connection stands, or has gone. It is not said whose."""
        # Not put off by those that follow: others may connect and go again and again.
        if event == DOWN and not self._look_for_gone:
            loop = asyncio.get_running_loop()
            self._look_for_gone = loop.call_later(RECONNECT_S, self._forget_gone)
        elif event == DOWN:
            self._looks_again = True

    def _forget_gone(self) -> None:
        """Forgets the ingresses that there is no connection to. One that lives joins when it comes back."""
        self._look_for_gone = None
        if self._looks_again:
            self._looks_again = False
            self._on_event(DOWN)
        for ingress, event in self._admission.signs_of_life():
            if not self._reaches(ingress, event):
                self._send(self._admission.forget(ingress, time.monotonic()))
        self._timer.update()

    def _stop_looking(self) -> None:
        if self._look_for_gone:
            self._look_for_gone.cancel()

    def _note(self, event: Refused) -> None:
        """One line for all refusals of a while."""
        self._refused[event.reason] += 1
        now = time.monotonic()
        if now < self._say_refused_at:
            return
        self._say_refused_at = now + REPORT_S
        counts = ", ".join(f"{reason.name} {number}" for reason, number in self._refused.items())
        self._refused.clear()
        logger.warning(
            "requests were refused since the last such line: %s (%d run, %d wait). More engines "
            "(engine.max_replicas) help where the queue is full, and `serve status` where there is no engine",
            counts,
            self._admission.num_running,
            self._admission.num_waiting,
        )

    def close(self) -> None:
        """Closes the port. Ingresses notice, and decide for themselves until there is another gate."""
        self.task.cancel()
        self._timer.cancel()
        self._stop_looking()
        self._sockets.close()
