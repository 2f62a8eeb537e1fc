"""An ingress's connection to the gate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec
import zmq

from serve_app.admission.protocol import Event, Join, Joined, Message, Ping, Pong, Unknown
from serve_app.transport.curve import CurveAddress, CurveSockets

logger = logging.getLogger("ray.serve")

PING_S = 1.0
# Without a word from the gate for this long, the ingress decides for itself.
SILENCE_S = 3.0


class GateLink:
    """One connection, from a gate's address to its end. Must be made in a running event loop.

    Messages are counted at both ends, so that a loss (ZeroMQ loses what is under way when TCP breaks) is
    noticed at the next ping: then the ingress says anew all that it has open.
    """

    def __init__(self, address: CurveAddress, name: bytes, on_event: Callable[[Event], None]) -> None:
        """`name` is the ingress's, the same for all its connections: who comes again is not counted twice."""
        self._on_event = on_event
        self._sockets = CurveSockets()
        # Without a high-water mark: what is sent is handed to ZeroMQ at once. Pings are the messages' own.
        self._socket = self._sockets.connect(zmq.DEALER, address, high_water_mark=0, routing_id=name)
        self._decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
        self._num_sent = self._num_received = 0
        self._unsent: list[Message] = []
        self._is_joined = False
        self._join_by = 0.0

    def send(self, message: Message) -> None:
        """Sends a message in this round of the event loop; it may be lost with the connection.

        What is said in one round travels together: waking ZeroMQ's thread costs more than all the rest.
        """
        if isinstance(message, Join):
            self._num_sent = 0
            self._is_joined = False
            self._join_by = time.monotonic() + SILENCE_S
        if not isinstance(message, Ping):
            self._num_sent += 1
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(message)

    def _flush(self) -> None:
        messages, self._unsent = self._unsent, []
        if not self._socket.closed:
            self._socket.send(msgspec.msgpack.encode(messages))

    async def run(self, join: Callable[[], None]) -> None:
        """Passes events on until the gate falls silent. `join` sends all that is open; again when needed."""
        pings = asyncio.create_task(self._ping())
        try:
            await self._receive()
            join()
            while True:
                event = await self._receive()
                if isinstance(event, Joined):
                    self._is_joined, self._num_received = True, 0
                elif not self._is_joined:
                    # The gate has not read our `Join` yet, and speaks of what was before; or it was lost.
                    if time.monotonic() >= self._join_by:
                        return
                elif isinstance(event, Unknown):
                    join()
                elif not isinstance(event, Pong):
                    self._num_received += 1
                    self._on_event(event)
                elif event.num_sent != self._num_received:
                    logger.warning("events of the gate were lost; asking for everything anew")
                    join()
        except TimeoutError:
            return
        finally:
            pings.cancel()

    async def _receive(self) -> Event:
        async with asyncio.timeout(SILENCE_S):
            while True:
                content = await self._socket.recv()
                try:
                    return self._decoder.decode(content)
                except msgspec.MsgspecError as error:
                    logger.error("an event was dropped: %s; do all replicas run the same version?", error)

    async def _ping(self) -> None:
        while True:
            self.send(Ping(self._num_sent))
            await asyncio.sleep(PING_S)

    def close(self) -> None:
        """Closes the connection."""
        self._sockets.close()
