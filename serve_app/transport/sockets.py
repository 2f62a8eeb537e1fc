"""The sockets that step frames travel on: one PULL socket per ingress replica, PUSH sockets in the engines.

A connection needs the ingress's public key (`curve`), which leaves the ingress inside its requests to engines
only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar, cast

import msgspec
import zmq
import zmq.asyncio

from serve_app.errors import IngressBlockedError, IngressLostError
from serve_app.transport.connections import RECONNECT_S, ReconnectTimer
from serve_app.transport.curve import CurveAddress, CurveSockets
from serve_app.transport.frames import Frame, FrameHeader, Parts, decode_header, encode_header

logger = logging.getLogger("ray.serve")

Output = TypeVar("Output")

# Frames that a socket holds for a peer that does not read. What waits longer waits in a `Frame`, where the
# outputs of a sequence are merged: a busy ingress gets fewer and larger frames.
HIGH_WATER_MARK = 8
# Tokens that wait for one ingress before its requests are given up: a minute of a whole H100's output.
MAX_WAITING_TOKENS = 1_000_000
# Links without open sequences that an engine keeps: connecting again takes a handshake.
MAX_IDLE_LINKS = 64
# How many frames are taken at once, so that one busy engine cannot keep the event loop from its other work.
MAX_FRAMES_AT_ONCE = 64
# A frame has a few bytes for a token; prompt logprobs of a long prompt have most.
MAX_FRAME_BYTES = 1 << 30
# A peer whose machine has gone without a word is asked for one after this, in milliseconds.
HEARTBEAT_MS = 5_000
# It is disconnected when none has come for this long. An ingress that does not read gives none either: it
# comes back at once, but its frames are then out of order. The longest pause of an event loop seen is 8 s.
HEARTBEAT_TIMEOUT_MS = 15_000
# An ingress that lives takes a connection at once.
MAX_RECONNECT_MS = 500


class FrameReceiver:
    """The ingress's end. Must be made in a running event loop."""

    def __init__(self, host: str) -> None:
        """Binds a free port of `host`, an address of this machine inside the cluster."""
        self._sockets = CurveSockets()
        self._socket, self.address = self._sockets.bind(
            zmq.PULL,
            host,
            high_water_mark=HIGH_WATER_MARK,
            max_message_bytes=MAX_FRAME_BYTES,
            heartbeat_ms=HEARTBEAT_MS,
            heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
        )
        # The same socket without futures, for what is there already.
        self._waiting: zmq.Socket[bytes] = zmq.Socket.shadow(self._socket.underlying)

    async def receive(self) -> list[tuple[FrameHeader, Parts]]:
        """Returns the frames that are there, at least one: headers, and outputs as they were encoded."""
        frames: list[tuple[FrameHeader, Parts]] = []
        while not frames:
            self._take(await self._socket.recv_multipart(copy=False), frames)
            for _ in range(MAX_FRAMES_AT_ONCE):
                try:
                    self._take(self._waiting.recv_multipart(zmq.NOBLOCK, copy=False), frames)
                except zmq.Again:
                    break
        return frames

    @staticmethod
    def _take(parts: list[Any], frames: list[tuple[FrameHeader, Parts]]) -> None:
        try:
            header = decode_header(parts[0].buffer)
        except msgspec.MsgspecError as error:
            logger.error("a frame was dropped: %s; do all replicas run the same version?", error)
            return
        frames.append((header, [part.buffer for part in parts[1:]]))

    def close(self) -> None:
        """Closes the port."""
        self._sockets.close()


class FrameLink(Generic[Output]):
    """An engine's connection to one ingress. `on_lost` is called when the ingress has gone and stays away."""

    def __init__(
        self,
        sockets: CurveSockets,
        address: CurveAddress,
        encode: Callable[[list[Output]], Parts],
        merge: Callable[[Output, Output], Output | None],
        on_lost: Callable[[], None],
    ) -> None:
        self._encode, self._merge = encode, merge
        self._frame = Frame(merge)
        self._sending: asyncio.Future[Any] | None = None
        self._timer = ReconnectTimer(on_lost)
        self._socket = sockets.connect(
            zmq.PUSH,
            address,
            high_water_mark=HIGH_WATER_MARK,
            heartbeat_ms=HEARTBEAT_MS,
            heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
            max_reconnect_ms=MAX_RECONNECT_MS,
            # What is queued for a peer that is not there would be lost without a trace.
            is_queued_unconnected=False,
            on_event=self._timer.on_event,
        )
        self.num_sequences = 0
        self.cancelled_with: set[asyncio.Timeout] = set()
        """What is cancelled when the ingress is lost."""

    def add(self, sequence: int, position: int, output: Output, num_tokens: int) -> None:
        """Adds an output to the next frame. Raises `IngressBlockedError` when too much waits already."""
        if self._frame.num_tokens > MAX_WAITING_TOKENS:
            raise IngressBlockedError(
                f"the ingress has not read for so long that {self._frame.num_tokens} tokens wait for it"
            )
        self._frame.add(sequence, position, output, num_tokens)

    def flush(self) -> None:
        """Sends what was added, at once or as soon as the ingress has read enough of what was sent before."""
        if self._sending or not self._frame:
            return
        frame, self._frame = self._frame, Frame(self._merge)
        parts = [encode_header(frame.header), *self._encode(frame.outputs)]
        sending = cast("asyncio.Future[Any]", self._socket.send_multipart(parts))
        if not sending.done():
            self._sending = sending
            sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Future[Any]) -> None:
        self._sending = None
        if not sending.cancelled():
            self.flush()

    def close(self) -> None:
        """Forgets what has not been sent."""
        self._timer.cancel()
        self._socket.close()


class FrameSender(Generic[Output]):
    """An engine replica's links to the ingresses that it works for. Must be made in a running event loop.

    `encode` turns the outputs of a frame into the message's parts; `merge` is as for `Frame`.
    """

    def __init__(
        self,
        encode: Callable[[list[Output]], Parts],
        merge: Callable[[Output, Output], Output | None],
    ) -> None:
        self._encode, self._merge = encode, merge
        self._sockets = CurveSockets()
        self._links: OrderedDict[CurveAddress, FrameLink[Output]] = OrderedDict()

    @asynccontextmanager
    async def link(self, address: CurveAddress) -> AsyncIterator[FrameLink[Output]]:
        """Yields the link to the ingress at `address`, for one sequence.

        When that ingress has gone for good, the body is cancelled and `IngressLostError` raised in its place.
        """
        link = self.open(address)
        try:
            async with asyncio.timeout(None) as sequence:
                link.cancelled_with.add(sequence)
                try:
                    yield link
                finally:
                    link.cancelled_with.discard(sequence)
        except TimeoutError:
            if not sequence.expired():
                raise
            raise IngressLostError(
                f"the ingress at {address.endpoint} has been gone for {RECONNECT_S:g} s: its requests end"
            ) from None
        finally:
            self.release(link)

    def open(self, address: CurveAddress) -> FrameLink[Output]:
        """Returns the link to the ingress at `address`, for one sequence; `release` gives it back."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = FrameLink(
                self._sockets, address, self._encode, self._merge, lambda: self._lose(address)
            )
        self._links.move_to_end(address)
        link.num_sequences += 1
        return link

    def release(self, link: FrameLink[Output]) -> None:
        """Of the links without sequences, those used longest ago are closed."""
        link.num_sequences -= 1
        idle = [address for address, other in self._links.items() if not other.num_sequences]
        for address in idle[:-MAX_IDLE_LINKS]:
            self._links.pop(address).close()

    def _lose(self, address: CurveAddress) -> None:
        link = self._links.pop(address)
        link.close()
        if link.num_sequences:
            logger.warning(
                "the ingress at %s has been gone for %g s: its %d sequences end. Where it lives, look at the "
                "network between it and this engine",
                address.endpoint,
                RECONNECT_S,
                link.num_sequences,
            )
        now = asyncio.get_running_loop().time()
        for sequence in link.cancelled_with:
            sequence.reschedule(now)

    def flush(self) -> None:
        """Sends one frame to each ingress that something was added for."""
        for link in self._links.values():
            link.flush()

    def close(self) -> None:
        """Closes all links; what has not been sent is forgotten."""
        for link in self._links.values():
            link.close()
        self._sockets.close()
        self._links.clear()
