"""Waiting for what tells nobody that it has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimeUpError(AssertionError):
    """What was waited for has not come in its time."""


def wait_until(
    condition: Callable[[], T], timeout_s: float, state: Callable[[], object], *, interval_s: float = 0.1
) -> T:
    """Returns what `condition` returns, once that is true. Fails with `state()` when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise TimeUpError(f"not within {timeout_s:g} s: {state()}")
        time.sleep(interval_s)
    return value


async def pass_until(condition: Callable[[], bool]) -> None:
    """Lets the event loop run until `condition` holds: for what is done by tasks that nobody can wait for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)
