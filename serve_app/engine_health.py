"""The health checks of an engine replica: a look at what has been seen, a ping, a canary. None of them waits.

Serve gives up a replica whose check does not return. So pings and canaries are tasks beside the checks, and
an engine that does not answer them is found by `stall.EngineWatch`, like one that does not answer requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Protocol

from serve_app.stall import EngineWatch, leave_if_stalled
from serve_app.watchdog import Watchdog

logger = logging.getLogger("ray.serve")


class CheckedEngine(Protocol):
    """What a check asks of an engine."""

    @property
    def watch(self) -> EngineWatch:
        """Knows of its requests."""

    async def ping(self) -> None:
        """Returns when the loop of the engine core has come round."""

    async def generate_token(self) -> None:
        """Generates one token, for nobody."""

    def kill(self) -> None:
        """Ends its processes, whatever they do."""


class EngineHealth:
    """Checks an engine. Must be made in a running event loop; `close` it at the end."""

    def __init__(
        self,
        engine: CheckedEngine,
        stall_timeout_s: float,
        leave: Callable[[int], object] = os._exit,
        watchdog: Watchdog | None = None,
    ) -> None:
        """`watchdog` is that of the event loop, and is closed with this."""
        self._engine, self._stall_timeout_s, self._leave = engine, stall_timeout_s, leave
        self._watchdog = watchdog
        self._ping: asyncio.Task[None] | None = None
        self._canary: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def check(self) -> None:
        """To be called regularly. Does not return if the engine hangs.

        Raises what the last canary failed with; Serve replaces a replica after three such checks.
        """
        watch = self._engine.watch
        leave_if_stalled(watch, self._stall_timeout_s, self._engine.kill, self._leave)
        if self._ping is None and watch.is_ping_due():
            self._ping = asyncio.create_task(self._engine.ping())
            self._ping.add_done_callback(self._pinged)
        failure, self._failure = self._failure, None
        if self._canary is None and not watch.num_running and (failure or watch.is_canary_due()):
            self._canary = asyncio.create_task(self._engine.generate_token())
            self._canary.add_done_callback(self._generated)
            watch.begin_canary(self._canary.cancel)
        if failure and not watch.num_running - watch.is_canary_running:
            raise failure

    def _pinged(self, ping: asyncio.Task[None]) -> None:
        self._ping = None
        if ping.cancelled():
            return
        if error := ping.exception():
            logger.warning("a ping of the engine core failed: %s", error)
        else:
            self._engine.watch.went_round()

    def _generated(self, canary: asyncio.Task[None]) -> None:
        self._canary = None
        self._engine.watch.end_canary()
        if canary.cancelled():
            return
        error = canary.exception()
        if isinstance(error, Exception):
            logger.error("an idle engine could not generate a token, and is tried again: %s", error)
            self._failure = error

    def close(self) -> None:
        """Ends what is under way."""
        for task in (self._ping, self._canary):
            if task:
                task.cancel()
        if self._watchdog:
            self._watchdog.close()
