"""The gate's deployment, constructed with a handle that is an object of this process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app import readiness
from serve_app.admission.protocol import Tier
from serve_app.config import AppConfig
from serve_app.gate import Gate
from tests.unit.admission.gates import Where, client_of
from tests.unit.routers import Replicas
from tests.waiting import pass_until

CONFIG = AppConfig.model_validate({"engine": {"max_concurrent_requests": 1, "max_replicas": 2}})


class Handle:
    """As the engine's handle: the gate has its router made, and calls nothing."""

    app_name, deployment_name = "app", "Engine"

    def __init__(self) -> None:
        self.num_options = 0

    def options(self) -> Handle:
        self.num_options += 1
        return self


class Router(Replicas):
    """What readiness reads of a router, with the replicas of a test."""

    def __init__(self) -> None:
        super().__init__()
        readiness.register("app", "Engine", self)

    def set_replicas(self, *names: str) -> None:
        self.curr_replicas = {ReplicaID(name): None for name in names}
        readiness.changed("app", "Engine")


class ReplicaID:
    """As Serve's."""

    def __init__(self, unique_id: str) -> None:
        self.unique_id = unique_id


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    monkeypatch.setattr(readiness, "_routers", type(readiness._routers)())
    monkeypatch.setattr(readiness, "_listeners", {})
    return Router()


def new_gate(handle: Handle | None = None) -> Gate:
    engine: Any = handle or Handle()
    return Gate(CONFIG, engine)


@pytest.fixture
async def gate(router: Router) -> AsyncIterator[Gate]:
    one = new_gate()
    yield one
    if one._server and not one._server._socket.closed:
        one._server.close()


async def until_load(gate: Gate, *load: int) -> None:
    while await gate.load() != load:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_it_has_the_engines_router_made_and_calls_no_engine(router: Router) -> None:
    handle = Handle()
    new_gate(handle)
    assert handle.num_options == 1


async def test_it_says_one_address_however_often_it_is_asked(gate: Gate) -> None:
    first, second = await gate.address(), await gate.address()
    assert first is second
    assert first.endpoint.startswith("tcp://")
    assert len(first.key) == 40


async def test_before_its_first_ingress_it_is_well_and_has_nothing_to_do(gate: Gate) -> None:
    await gate.check_health()
    assert await gate.load() == (0, 0)


async def test_engines_that_are_ready_when_it_starts_have_slots(gate: Gate, router: Router) -> None:
    router.set_replicas("a")
    address = await gate.address()
    async with client_of() as (client, where):
        await joined(gate, where, address)
        request = client.ask("", Tier.DEFAULT, 1)
        await request.admitted()
        assert request.take_slot().replica == "a"
        request.close()


async def test_its_load_is_what_runs_and_what_waits(gate: Gate, router: Router) -> None:
    router.set_replicas("a")
    address = await gate.address()
    async with client_of() as (client, where):
        await joined(gate, where, address)
        requests = [client.ask("", Tier.DEFAULT, 1) for _ in range(3)]
        await until_load(gate, 1, 2)
        # From the thread of Serve's router.
        await asyncio.to_thread(router.set_replicas, "a", "b")
        await until_load(gate, 2, 1)
        for request in requests:
            await request.admitted()
            request.close()
        await until_load(gate, 0, 0)


async def joined(gate: Gate, where: Where, address: Any) -> None:
    """Until the client of `where` has joined."""
    assert gate._server
    where.is_at(address)
    await pass_until(lambda: bool(gate._admission._ingresses))


async def test_a_socket_that_has_failed_makes_it_ill(gate: Gate) -> None:
    """Serve then replaces the replica."""
    await gate.address()
    await gate.check_health()
    assert gate._server
    gate._server._admission = None  # type: ignore[assignment]  # the next message is one too many
    async with client_of() as (_, where):
        where.is_at(gate._server.address)
        await asyncio.wait([gate._server.task])
    with pytest.raises(AttributeError):
        await gate.check_health()


async def test_it_closes_its_port_when_serve_lets_it_go(router: Router) -> None:
    one = new_gate()
    await one.address()
    server = one._server
    assert server
    # Watching holds the server's method, as in a replica until its process ends.
    readiness._listeners.clear()
    del one
    gc.collect()
    assert server._socket.closed
    await asyncio.wait([server.task])
    assert server.task.cancelled()


async def test_one_that_nobody_has_asked_has_nothing_to_close(router: Router) -> None:
    one = new_gate()
    one.__del__()
    assert one._server is None


def test_one_whose_constructor_has_failed_has_nothing_to_close() -> None:
    one = Gate.__new__(Gate)
    one.__del__()
