"""Threads for the bodies of requests that take long to read: all streams would wait for them.

There are two, in which one body after the other is read: one for those of agents, one for what is longer.
Nobody whose body is short waits for megabytes of another's.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic as now_s
from typing import Any, TypeVar

from serve_app.errors import BodiesBusyError

Result = TypeVar("Result")

# Reading and rendering what is shorter takes 5 ms at the most, and most often 1.
MAX_INLINE_BYTES = 16 * 1024
# A conversation of 128k tokens.
MAX_MEDIUM_BYTES = 512 * 1024
# From when the body is here: whoever is behind others, or has sent what takes longer, is told to come back.
MAX_S = 30.0
RETRY_AFTER_S = 5.0
# Of bodies that wait for one thread.
MAX_WAITING_BYTES = 64 * 1024 * 1024
# Who has waited this long for each MiB that its body is longer than another's comes first.
_S_PER_BYTE = 10.0 / (1024 * 1024)


class Reader:
    """A thread that reads one body after the other: the shorter one first, until the longer has waited."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: list[tuple[float, int, int, Future[Any], Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._has_work = threading.Condition()
        self._num_bytes = 0
        self._thread: threading.Thread | None = None

    def submit(self, num_bytes: int, work: Callable[[], Result]) -> Future[Result]:
        """Returns what becomes of `work`. Raises `BodiesBusyError` where too much waits already."""
        future: Future[Result] = Future()
        with self._has_work:
            # One alone may be larger: `ingress.max_body_bytes` allows it.
            if self._num_bytes and self._num_bytes + num_bytes > MAX_WAITING_BYTES:
                raise BodiesBusyError("too many long requests are being read", retry_after_s=RETRY_AFTER_S)
            due = now_s() + num_bytes * _S_PER_BYTE
            heapq.heappush(self._waiting, (due, next(self._numbers), num_bytes, future, work))
            self._num_bytes += num_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._has_work.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._has_work:
                self._has_work.wait_for(lambda: self._waiting)
                _, _, num_bytes, future, work = heapq.heappop(self._waiting)
                self._num_bytes -= num_bytes
            # Of one whose client has left, nothing is read.
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # raised where the result is waited for
                    future.set_exception(error)
            # Or they would stay until the next one comes.
            del future, work


_medium, _long = Reader("medium-body"), Reader("long-body")


async def done(num_bytes: int, work: Callable[[], Result]) -> Result:
    """Returns what `work` does: at once, or for a body of more than `MAX_INLINE_BYTES` in a thread.

    Raises `BodiesBusyError` where that takes longer than `MAX_S`, or too many bodies wait.
    """
    if num_bytes <= MAX_INLINE_BYTES:
        return work()
    future = (_medium if num_bytes <= MAX_MEDIUM_BYTES else _long).submit(num_bytes, work)
    try:
        # Not `wait_for`, which in Python 3.11 loses a cancellation that comes together with the result.
        async with asyncio.timeout(MAX_S):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        raise BodiesBusyError(
            f"the request could not be read within {MAX_S:g} s", retry_after_s=RETRY_AFTER_S
        ) from None
