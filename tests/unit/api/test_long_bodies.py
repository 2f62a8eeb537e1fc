"""Long bodies are read by few threads, however many come at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve_app.api import long_bodies
from serve_app.api.long_bodies import MAX_INLINE_BYTES, MAX_THREADS


async def test_short_ones_are_done_at_once_and_long_ones_by_few_threads() -> None:
    gate = threading.Barrier(MAX_THREADS)
    names: set[str] = set()

    def work() -> None:
        gate.wait(timeout=300)  # fewer threads would never be through
        names.add(threading.current_thread().name)

    main = threading.current_thread().name
    assert (await long_bodies.done(MAX_INLINE_BYTES, threading.current_thread)).name == main
    await asyncio.gather(*(long_bodies.done(MAX_INLINE_BYTES + 1, work) for _ in range(20)))
    assert main not in names
    assert len(names) == MAX_THREADS


async def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    def work() -> None:
        raise RecursionError("too deep")

    with pytest.raises(RecursionError, match="too deep"):
        await long_bodies.done(MAX_INLINE_BYTES + 1, work)
