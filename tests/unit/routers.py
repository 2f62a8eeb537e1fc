"""Serve's router, as far as readiness reads it."""

from __future__ import annotations

import asyncio
from typing import Any


class Replicas:
    """The replicas that requests may go to, and those that are known to be dead."""

    def __init__(self) -> None:
        self.curr_replicas: dict[Any, None] = {}
        self.dead: set[str] = set()

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop:
        """That of the test."""
        return asyncio.get_running_loop()

    async def has_died(self, replica: str) -> bool:
        """Whether it is among the dead."""
        return replica in self.dead
