"""Threads for the bodies of requests that take long to read: all streams would wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

# Reading and rendering what is shorter takes 20 ms at the most, and most often 5.
MAX_INLINE_BYTES = 64 * 1024
# Each that is busy has the event loop wait for the interpreter's lock for as long again; more of them read no
# faster.
MAX_THREADS = 2

_threads = ThreadPoolExecutor(MAX_THREADS, "long-body")


async def done(num_bytes: int, work: Callable[[], Result]) -> Result:
    """Returns what `work` does: at once, or for a body of more than `MAX_INLINE_BYTES` in a thread."""
    if num_bytes <= MAX_INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_threads, work)
