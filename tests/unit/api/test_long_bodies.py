"""Long bodies are read by two threads, however many come at once; the short ones of others first."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api import long_bodies
from serve_app.api.long_bodies import MAX_INLINE_BYTES, MAX_MEDIUM_BYTES, MAX_WAITING_BYTES, Reader
from serve_app.errors import BodiesBusyError
from tests.examples import examples

LONG = MAX_MEDIUM_BYTES + 1
TIMEOUT_S = 300


@contextmanager
def busy(reader: Reader) -> Iterator[None]:
    """While its thread is at a body."""
    began, enough = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        enough.wait(TIMEOUT_S)

    future = reader.submit(1, work)
    assert began.wait(TIMEOUT_S)
    try:
        yield
    finally:
        enough.set()
        future.result(TIMEOUT_S)


async def name_of_thread(num_bytes: int) -> str:
    return (await long_bodies.done(num_bytes, threading.current_thread)).name


async def test_which_thread_reads() -> None:
    assert await name_of_thread(MAX_INLINE_BYTES) == threading.current_thread().name
    for sizes, name in (((MAX_INLINE_BYTES + 1, MAX_MEDIUM_BYTES), "medium-body"), ((LONG,), "long-body")):
        assert {await name_of_thread(size) for size in sizes} == {name}
    assert len(set(await asyncio.gather(*(name_of_thread(LONG) for _ in range(20))))) == 1


async def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    def work() -> None:
        raise RecursionError("too deep")

    with pytest.raises(RecursionError, match="too deep"):
        await long_bodies.done(MAX_INLINE_BYTES + 1, work)


async def test_nobody_waits_for_megabytes_of_others() -> None:
    with busy(long_bodies._long):
        assert await name_of_thread(MAX_MEDIUM_BYTES) == "medium-body"


@examples(50)
@given(st.lists(st.integers(MAX_INLINE_BYTES, MAX_MEDIUM_BYTES), min_size=1, max_size=8), st.randoms())
def test_the_shorter_come_first(sizes: list[int], drawn: random.Random) -> None:
    # What is nearly as long may have come earlier.
    sizes = sorted({size - size % (64 * 1024) for size in sizes})
    reader, read = Reader("test-body"), list[int]()

    def reading(size: int) -> Callable[[], None]:
        return lambda: read.append(size)

    with busy(reader):
        futures = [reader.submit(size, reading(size)) for size in drawn.sample(sizes, len(sizes))]
    for future in futures:
        future.result(TIMEOUT_S)
    assert read == sizes


def test_a_long_one_that_has_waited_is_not_passed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now, read = [1000.0], list[str]()
    monkeypatch.setattr("serve_app.api.long_bodies.now_s", lambda: now[0])
    reader = Reader("test-body")
    with busy(reader):
        old = reader.submit(4 << 20, lambda: read.append("old and long"))
        now[0] += 39.0
        new = reader.submit(1, lambda: read.append("new"))
        now[0] += 2.0
        newer = reader.submit(1, lambda: read.append("newer"))
    for future in (old, new, newer):
        future.result(TIMEOUT_S)
    assert read == ["new", "old and long", "newer"]


async def test_of_a_client_that_has_left_nothing_is_read() -> None:
    read: list[str] = []
    with busy(long_bodies._long):
        left = asyncio.create_task(long_bodies.done(LONG, lambda: read.append("left")))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
    await long_bodies.done(LONG, lambda: read.append("stayed"))
    assert read == ["stayed"]
    assert long_bodies._long._num_bytes == 0


async def test_who_waits_too_long_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_bodies, "MAX_S", 0.01)
    with busy(long_bodies._long), pytest.raises(BodiesBusyError) as raised:
        await long_bodies.done(LONG, str)
    assert raised.value.retry_after_s


async def test_no_more_bytes_wait_than_have_room() -> None:
    reader = Reader("test-body")
    with busy(reader):
        futures = [reader.submit(LONG, str) for _ in range(MAX_WAITING_BYTES // LONG)]
        with pytest.raises(BodiesBusyError):
            reader.submit(LONG, str)
        reader.submit(MAX_WAITING_BYTES - LONG * len(futures), str)
    for future in futures:
        future.result(TIMEOUT_S)
    reader.submit(MAX_WAITING_BYTES + 1, str).result(TIMEOUT_S)
