"""Whether a socket's connections stand, as libzmq's own thread knows: however busy the event loops are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

# Which events are told: a connection stands, or has gone.
UP, DOWN = zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED
# Who has gone has this long to come back: one that lives does so within a second of the network's return.
RECONNECT_S = 3.0


async def watch(monitor: zmq.asyncio.Socket, on_event: Callable[[int], None]) -> None:
    """Calls `on_event` with each event that `monitor` has, until the socket that it monitors is closed."""
    try:
        while (event := (await recv_monitor_message(monitor))["event"]) != zmq.EVENT_MONITOR_STOPPED:
            on_event(event)
    finally:
        monitor.close()


class ReconnectTimer:
    """Calls `on_lost` when a connection has been gone for `RECONNECT_S`, or has not come about for so long.

    To be told of the connection's events. Must be made in a running event loop.
    """

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._is_up = self._is_cancelled = False
        self._timer: asyncio.Handle = self._loop.call_later(RECONNECT_S, self._fire)

    def on_event(self, event: int) -> None:
        """Takes note of an event. Attempts to connect that fail are none."""
        if self._is_cancelled:
            return  # what had happened before, and is told now
        if event == UP:
            self._timer.cancel()
        elif self._is_up:
            self._timer = self._loop.call_later(RECONNECT_S, self._fire)
        self._is_up = event == UP

    def _fire(self) -> None:
        # An event loop that was busy hears of the reconnection in the same round: that comes first.
        self._timer = self._loop.call_soon(self._on_lost)

    def cancel(self) -> None:
        """Does not call any more."""
        self._is_cancelled = True
        self._timer.cancel()
