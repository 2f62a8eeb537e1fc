"""CurveZMQ sockets: the one place that sets them up, for step frames and for the gate.

One end binds a free port and has an address: endpoint and public key. The other connects to it. Messages are
encrypted, and libzmq refuses in its own thread who does not know the key, before a byte of theirs reaches
Python. Keys are made anew at each start and are written down nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import zmq
import zmq.asyncio

from serve_app.transport import connections


class CurveAddress(msgspec.Struct, frozen=True):
    """Where a socket takes messages. It travels inside the cluster only, to those who may connect."""

    endpoint: str
    """`tcp://HOST:PORT`."""
    key: bytes
    """The socket's public key: nobody can connect without it."""


class CurveSockets:
    """The sockets of one owner: a ZeroMQ context and a key pair. Must be made in a running event loop.

    What is left out of the options of `bind` and `connect` is as ZeroMQ has it. Nothing lingers: what a
    socket has not sent when it is closed is forgotten.
    """

    def __init__(self) -> None:
        """Raises `RuntimeError` where pyzmq cannot encrypt."""
        if not zmq.has("curve"):
            raise RuntimeError("this pyzmq cannot encrypt (no CURVE); install pyzmq from its wheels")
        self._context = zmq.asyncio.Context()
        self._public, self._secret = zmq.curve_keypair()
        # A socket that nobody refers to any more would be closed with a warning.
        self._open: list[zmq.asyncio.Socket] = []
        self._watches: set[asyncio.Task[None]] = set()

    def bind(
        self,
        kind: int,
        host: str,
        *,
        high_water_mark: int,
        max_message_bytes: int,
        heartbeat_ms: int,
        heartbeat_timeout_ms: int | None = None,
        is_handed_over: bool = False,
        on_event: Callable[[int], None] | None = None,
    ) -> tuple[zmq.asyncio.Socket, CurveAddress]:
        """Returns a socket of `kind` on a free port of `host`, an address of this machine, and its address.

        `high_water_mark` is how many messages wait for each peer, in each direction; 0: any number. A peer
        that sends a message over `max_message_bytes` is disconnected. `heartbeat_ms`: a peer whose machine
        has gone without a word is asked for one after this, and is disconnected when none has come for as
        long again, or for `heartbeat_timeout_ms`. `is_handed_over` is for ROUTER sockets: a peer that comes
        again under the same name takes the place of its earlier connection, and sending to one that is not
        there raises. `on_event` is told when a connection stands (`connections.UP`) or has gone (`DOWN`).
        """
        socket = self._new(
            kind,
            {
                zmq.RCVHWM: high_water_mark,
                zmq.SNDHWM: high_water_mark,
                zmq.MAXMSGSIZE: max_message_bytes,
                zmq.HEARTBEAT_IVL: heartbeat_ms,
                zmq.HEARTBEAT_TIMEOUT: heartbeat_timeout_ms,
                zmq.ROUTER_HANDOVER: 1 if is_handed_over else None,
                zmq.ROUTER_MANDATORY: 1 if is_handed_over else None,
                zmq.IPV6: int(":" in host),
                zmq.CURVE_SERVER: 1,
                zmq.CURVE_SECRETKEY: self._secret,
            },
            on_event,
        )
        netloc = f"[{host}]" if ":" in host else host
        try:
            port = socket.bind_to_random_port(f"tcp://{netloc}")
        except zmq.ZMQError:
            socket.close()
            raise
        return socket, CurveAddress(f"tcp://{netloc}:{port}", self._public)

    def connect(
        self,
        kind: int,
        address: CurveAddress,
        *,
        high_water_mark: int,
        heartbeat_ms: int | None = None,
        heartbeat_timeout_ms: int | None = None,
        max_reconnect_ms: int | None = None,
        routing_id: bytes | None = None,
        is_queued_unconnected: bool = True,
        on_event: Callable[[int], None] | None = None,
    ) -> zmq.asyncio.Socket:
        """Returns a socket of `kind` that connects to `address`, again and again until it is closed.

        `max_reconnect_ms`: pauses between attempts grow up to this. `routing_id` is the name that a ROUTER
        knows the socket by. With `is_queued_unconnected=False`, sending waits until a connection stands.
        The others are as for `bind`.
        """
        socket = self._new(
            kind,
            {
                zmq.RCVHWM: high_water_mark,
                zmq.SNDHWM: high_water_mark,
                zmq.HEARTBEAT_IVL: heartbeat_ms,
                zmq.HEARTBEAT_TIMEOUT: heartbeat_timeout_ms,
                zmq.RECONNECT_IVL_MAX: max_reconnect_ms,
                zmq.ROUTING_ID: routing_id,
                zmq.IMMEDIATE: int(not is_queued_unconnected),
                zmq.IPV6: int("[" in address.endpoint),
                zmq.CURVE_SERVERKEY: address.key,
                zmq.CURVE_PUBLICKEY: self._public,
                zmq.CURVE_SECRETKEY: self._secret,
            },
            on_event,
        )
        socket.connect(address.endpoint)
        return socket

    def _new(
        self,
        kind: int,
        options: Mapping[int, int | bytes | None],
        on_event: Callable[[int], None] | None,
    ) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        for option, value in options.items():
            if value is not None:
                socket.setsockopt(option, value)
        self._open = [*(other for other in self._open if not other.closed), socket]
        if on_event:
            # Before the socket connects or listens: so no event is missed.
            monitor = socket.get_monitor_socket(connections.UP | connections.DOWN | zmq.EVENT_MONITOR_STOPPED)
            self._open.append(monitor)
            watch = asyncio.create_task(connections.watch(monitor, on_event))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
        return socket

    def close(self) -> None:
        """Closes all sockets that are still open, and ends the context."""
        for watch in self._watches:
            watch.cancel()
        for socket in self._open:
            socket.close()
        self._open.clear()
        self._context.term()
