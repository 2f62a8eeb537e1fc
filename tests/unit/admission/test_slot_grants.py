import asyncio
import threading

import pytest

from serve_app.admission.protocol import Loss
from serve_app.admission.slot_grants import SlotGrant
from serve_app.errors import OverloadedError
from tests.unit.admission.grants import Owner

TIMEOUT_S = 300.0


async def test_a_slot_that_was_granted_is_known_at_once() -> None:
    grant = SlotGrant(Owner(), 0)
    replicas = [grant.replica]
    grant.give("a")
    assert [*replicas, grant.replica] == [None, "a"]
    assert await grant.granted() == "a"


async def test_who_waits_hears_of_it() -> None:
    grant = SlotGrant(Owner(), 0)
    waiting = [asyncio.create_task(grant.granted()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    grant.give("a")
    assert await asyncio.gather(*waiting) == ["a", "a", "a"]


async def test_a_slot_is_granted_once() -> None:
    grant = SlotGrant(Owner(), 0)
    grant.give("a")
    grant.give("b")
    grant.refuse(OverloadedError("too late"))
    assert await grant.granted() == "a"


async def test_who_is_refused_gets_the_error() -> None:
    grant = SlotGrant(Owner(), 0)
    waiting = asyncio.create_task(grant.granted())
    await asyncio.sleep(0)
    grant.refuse(OverloadedError("the queue is full", 3.0))
    grant.give("a")
    with pytest.raises(OverloadedError, match="the queue is full") as caught:
        await waiting
    assert caught.value.retry_after_s == 3.0
    assert grant.replica is None
    with pytest.raises(OverloadedError):
        await grant.granted()


async def test_one_who_stops_waiting_does_not_end_the_wait_of_another() -> None:
    """The router and the ingress both wait for it, and either may be cancelled first."""
    grant = SlotGrant(Owner(), 0)
    leaving, staying = (asyncio.create_task(grant.granted()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert grant.replica is None
    grant.give("a")
    assert await staying == "a"


async def test_a_slot_may_be_waited_for_in_another_threads_event_loop() -> None:
    grant, waits = SlotGrant(Owner(), 0), threading.Event()
    found: list[str] = []

    async def wait_there() -> None:
        asyncio.get_running_loop().call_soon(waits.set)
        found.append(await asyncio.wait_for(grant.granted(), TIMEOUT_S))

    thread = threading.Thread(target=asyncio.run, args=(wait_there(),))
    thread.start()
    await asyncio.to_thread(waits.wait, TIMEOUT_S)
    grant.give("a")
    await asyncio.to_thread(thread.join, TIMEOUT_S)
    assert found == ["a"]


def test_release_says_which_and_how_much() -> None:
    owner = Owner()
    SlotGrant(owner, 3).release(77)
    assert owner.released == [(3, 77)]


def test_a_move_is_the_owners_and_has_a_slot_of_its_own() -> None:
    owner = Owner()
    grant = SlotGrant(owner, 3)
    grant.give("a")
    after = grant.move(Loss.DIED)
    assert owner.moves == [(3, Loss.DIED)]
    assert (after.number, after.replica) == (103, None)
