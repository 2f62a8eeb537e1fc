"""Cycles are collected by what they hold, also after Serve has frozen what a replica has imported."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.garbage import CALL_BYTES, TOKEN_BYTES, CallGarbage


class Call:
    """One that its own callback holds."""

    def __init__(self) -> None:
        self.callbacks = [lambda _: self]


@pytest.fixture
def _no_automatic_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_automatic_collection")
def test_no_more_is_kept_than_the_limit_allows() -> None:
    number = 20
    garbage = CallGarbage(limit_bytes=number * CALL_BYTES)
    calls: list[weakref.ref[Call]] = []
    for _ in range(10 * number):
        calls.append(weakref.ref(Call()))
        assert sum(call() is not None for call in calls) <= number + 1
        garbage.add(0)


@given(sizes=st.lists(st.integers(0, 200_000), max_size=60), limit=st.integers(0, 4_000_000))
def test_it_collects_as_often_as_the_bytes_say(sizes: list[int], limit: int) -> None:
    collections, held = 0, 0
    garbage = CallGarbage(limit)
    with pytest.MonkeyPatch.context() as patch:
        collected: list[None] = []
        patch.setattr(gc, "collect", lambda: collected.append(None))
        for size in sizes:
            garbage.add(size)
            held += CALL_BYTES + TOKEN_BYTES * size
            if held > limit:
                collections, held = collections + 1, 0
            assert len(collected) == collections


# As a replica: a million objects of its imports are frozen, and then 300 requests at a time are open.
REPLICA = """
import collections, gc, weakref
from serve_app.garbage import CallGarbage
from tests.unit.test_garbage import Call
imported = [[index] for index in range(1_000_000)]
gc.collect()
gc.freeze()
garbage, ended, most = CallGarbage(20_000 * 1_000) if {collects} else None, weakref.WeakSet(), 0
running = collections.deque(maxlen=300)
for index in range(8_000):
    call = Call()
    call.state = [[call] for _ in range(25)]
    ended.add(call)
    running.append(call)
    others = [[] for _ in range(300)]
    if garbage:
        garbage.add(0)
    most = max(most, len(ended))
print(most)
"""


def test_what_is_frozen_does_not_put_it_off() -> None:
    kept = [
        int(subprocess.check_output([sys.executable, "-c", REPLICA.format(collects=collects)], text=True))
        for collects in (True, False)
    ]
    assert kept[0] <= 1_400
    # Python alone keeps them all. Where it does not any more, the module may go.
    assert kept[1] > 4_000
