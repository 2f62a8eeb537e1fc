"""Serve's own router with the gate's choice in it, over replicas that are objects of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

import pytest
from ray.serve import context as serve_context
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest

from serve_app import readiness
from serve_app.admission.slot_grants import SlotGrant
from serve_app.engine_calls import EngineCall, MissingGrantError
from serve_app.errors import OverloadedError
from serve_app.routing import EngineRouter
from serve_app.transport.curve import CurveAddress
from serve_app.transport.requests import GenerateRequest
from tests.unit.admission.grants import Owner
from tests.waiting import pass_until

ENGINE = DeploymentID(name="Engine", app_name="app")
# Ray warns of what is deprecated in itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Replica:
    """As Serve's `RunningReplica`, with so many requests as the test says."""

    def __init__(self, name: str, num_ongoing: int = 0) -> None:
        self.replica_id = ReplicaID(unique_id=name, deployment_id=ENGINE)
        self.max_ongoing_requests = 2
        self.num_ongoing = num_ongoing
        self.num_asked = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.num_asked += 1
        return self.num_ongoing


def new_replica(name: str, num_ongoing: int = 0) -> Any:
    return Replica(name, num_ongoing)


class Told:
    """What one who watches the engines has heard."""

    def __init__(self) -> None:
        self.events: list[list[str] | str] = []
        readiness.watch("app", "Engine", self.on_change, self.on_death)

    def on_change(self, replicas: Collection[str]) -> None:
        self.events.append(sorted(replicas))

    def on_death(self, replica: str) -> None:
        self.events.append(replica)


@pytest.fixture(autouse=True)
def _own_registry() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readiness, "_routers", type(readiness._routers)())
        patch.setattr(readiness, "_listeners", {})
        yield


@pytest.fixture
async def router() -> AsyncIterator[EngineRouter]:
    # Retries wait no longer than a round of the event loop.
    one = EngineRouter(
        ENGINE,
        DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=False,
        initial_backoff_s=0.001,
        max_backoff_s=0.001,
    )
    one.initialize_state()
    yield one
    for task in list(one._routing_tasks):
        task.cancel()
    await asyncio.gather(*one._routing_tasks, return_exceptions=True)


def new_call(grant: SlotGrant) -> EngineCall:
    request = GenerateRequest(
        request_id="r-1",
        prompt_token_ids=[1],
        sampling_params=b"",
        reply_to=CurveAddress("tcp://127.0.0.1:1", b""),
        sequence=0,
    )
    return EngineCall(request, grant)


def pending(*args: Any, request_id: str = "of-the-http-request") -> PendingRequest:
    metadata = RequestMetadata(
        request_id=request_id, internal_request_id=request_id, call_method="generate", app_name="app"
    )
    return PendingRequest(args=list(args), kwargs={}, metadata=metadata)


def with_grant(replica: str | None = None) -> tuple[SlotGrant, PendingRequest]:
    grant = SlotGrant(Owner(), 0)
    if replica:
        grant.give(replica)
    return grant, pending(new_call(grant))


def routed(router: EngineRouter, request: PendingRequest, **options: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(router._choose_replica_for_request(request, **options))


async def rounds(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


# --- where a call goes ---------------------------------------------------------------------------------


async def test_a_call_goes_where_the_gate_says(router: EngineRouter) -> None:
    """Although another replica has less to do."""
    replicas = {name: new_replica(name) for name in "abc"}
    replicas["b"].num_ongoing = 1
    router.update_replicas(list(replicas.values()))
    await rounds()
    for name in "bcab":
        _, request = with_grant(name)
        assert (await routed(router, request)) is replicas[name]


async def test_a_call_waits_for_its_grant(router: EngineRouter) -> None:
    replicas = [new_replica("a"), new_replica("b")]
    router.update_replicas(replicas)
    grant, request = with_grant()
    task = routed(router, request)
    await rounds()
    assert not task.done()
    assert router.num_pending_requests == 0  # Serve's own queue does not know it yet
    grant.give("b")
    assert (await task) is replicas[1]


async def test_calls_are_routed_in_the_order_of_their_grants(router: EngineRouter) -> None:
    replicas = [new_replica("a"), new_replica("b")]
    router.update_replicas(replicas)
    (first, first_request), (second, second_request) = with_grant(), with_grant()
    tasks = [routed(router, first_request), routed(router, second_request)]
    await rounds()
    second.give("a")
    assert (await tasks[1]) is replicas[0]
    assert not tasks[0].done()
    first.give("b")
    assert (await tasks[0]) is replicas[1]


async def test_all_choices_of_a_request_are_routed(router: EngineRouter) -> None:
    """They have one id with Serve, by which its router would know only one of them."""
    replica = new_replica("a")
    router.update_replicas([replica])
    requests = [with_grant("a")[1] for _ in range(3)]
    tasks = [routed(router, request) for request in requests]
    assert await asyncio.gather(*tasks) == [replica] * 3


class TestServesRecord:
    """Serve notes a call by the id of its metadata, and looks that up when the call has been routed."""

    @pytest.fixture(autouse=True)
    def _empty(self) -> Iterator[None]:
        serve_context._requests_pending_assignment.clear()
        yield
        assert serve_context._requests_pending_assignment == {}

    def noted(self, router: EngineRouter, request: PendingRequest, **options: Any) -> asyncio.Task[Any]:
        """As `AsyncioRouter.assign_request` does it."""
        task = routed(router, request, **options)
        serve_context._add_request_pending_assignment(
            request.metadata.internal_request_id, str(id(task)), task
        )
        task.add_done_callback(
            lambda _: serve_context._remove_request_pending_assignment(
                request.metadata.internal_request_id, str(id(task))
            )
        )
        return task

    async def test_of_calls_that_were_routed(self, router: EngineRouter) -> None:
        replica = new_replica("a")
        router.update_replicas([replica])
        requests = [with_grant("a")[1] for _ in range(3)] + [pending()]
        assert await asyncio.gather(*(self.noted(router, one) for one in requests)) == [replica] * 4
        assert await self.noted(router, requests[0], is_retry=True) is replica

    async def test_of_calls_that_were_not(self, router: EngineRouter) -> None:
        router.update_replicas([new_replica("a", num_ongoing=2)])
        # No grant yet, no room, no such replica, no grant at all.
        requests = [with_grant()[1], with_grant("a")[1], with_grant("b")[1], pending("words")]
        tasks = [self.noted(router, one) for one in requests]
        await rounds()
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, BaseException) for end in ends)


async def test_who_is_refused_while_waiting_is_not_routed(router: EngineRouter) -> None:
    replica = new_replica("a")
    router.update_replicas([replica])
    await rounds()
    num_asked = replica.num_asked
    grant, request = with_grant()
    task = routed(router, request)
    await rounds()
    grant.refuse(OverloadedError("the queue is full", 3.0))
    with pytest.raises(OverloadedError, match="the queue is full"):
        await task
    assert (router.num_pending_requests, replica.num_asked) == (0, num_asked)


async def test_who_no_longer_waits_takes_no_grant_away(router: EngineRouter) -> None:
    router.update_replicas([new_replica("a")])
    grant, request = with_grant()
    leaving = routed(router, request)
    await rounds()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    grant.give("a")
    assert await grant.granted() == "a"


async def test_a_call_waits_for_a_replica_where_there_is_none(router: EngineRouter) -> None:
    _, request = with_grant("b")
    task = routed(router, request)
    await rounds()
    assert not task.done()
    replica = new_replica("b")
    router.update_replicas([replica])
    assert (await task) is replica


# --- when the gate's choice cannot be had --------------------------------------------------------------


async def test_the_others_come_after_the_gates_choice(router: EngineRouter) -> None:
    a, b, c = (new_replica(name) for name in "abc")
    _, request = with_grant("b")
    assert await router.choose_replicas([a, b, c], request) == [[b], [a, c]]
    assert request.routing_context.should_backoff
    _, request = with_grant("gone")
    assert await router.choose_replicas([a, b], request) == [[], [a, b]]
    assert await router.choose_replicas([a, b], None) == [[a, b]]


async def test_a_replica_that_is_full_after_all_is_not_waited_for(router: EngineRouter) -> None:
    a, b = new_replica("a", num_ongoing=2), new_replica("b")
    router.update_replicas([a, b])
    _, request = with_grant("a")
    assert (await routed(router, request)) is b


async def test_a_call_that_was_rejected_is_sent_once_more_to_where_there_is_room(
    router: EngineRouter,
) -> None:
    """Serve routes the same call again, which keeps its grant and its id."""
    a, b = new_replica("a"), new_replica("b")
    router.update_replicas([a, b])
    _, request = with_grant("a")
    assert (await routed(router, request)) is a
    first_id = request.metadata.internal_request_id
    assert (await routed(router, request, is_retry=True)) is a
    a.num_ongoing = 2
    assert (await routed(router, request, is_retry=True)) is b
    assert request.metadata.internal_request_id == first_id


async def test_a_call_waits_while_all_replicas_are_full(router: EngineRouter) -> None:
    a = new_replica("a", num_ongoing=2)
    router.update_replicas([a])
    _, request = with_grant("a")
    task = routed(router, request)
    await pass_until(lambda: a.num_asked >= 5)
    assert not task.done()
    a.num_ongoing = 1
    assert (await task) is a


# --- calls without a grant -----------------------------------------------------------------------------


async def test_a_sequence_without_a_grant_fails_with_words(
    router: EngineRouter, caplog: pytest.LogCaptureFixture
) -> None:
    router.update_replicas([new_replica("a")])
    request = new_call(SlotGrant(Owner(), 0)).request
    with caplog.at_level(logging.ERROR, "ray.serve"), pytest.raises(MissingGrantError, match="EngineCalls"):
        await routed(router, pending(request))
    assert "a call of generate was refused" in caplog.text
    assert "serve_app.engine_calls.EngineCalls" in caplog.text
    assert router.num_pending_requests == 0


async def test_a_call_without_arguments_goes_to_any_replica(router: EngineRouter) -> None:
    full, free = new_replica("a", num_ongoing=2), new_replica("b")
    router.update_replicas([full, free])
    assert (await routed(router, pending())) is free


# --- what others are told ------------------------------------------------------------------------------


async def test_who_watches_is_told_of_replicas(router: EngineRouter) -> None:
    told = Told()
    router.update_replicas([new_replica("a"), new_replica("b")])
    router.update_replicas([new_replica("b")])
    assert told.events == [[], ["a", "b"], ["b"]]
    assert list(readiness.ready_replicas("app", "Engine")) == ["b"]


async def test_a_replica_that_a_call_has_found_dead_is_told_at_once(router: EngineRouter) -> None:
    a, b = new_replica("a"), new_replica("b")
    router.update_replicas([a, b])
    told = Told()
    router.on_replica_actor_died(a.replica_id)
    assert told.events == [["a", "b"], "a", ["b"]]
    _, request = with_grant("a")  # granted before the gate has heard of it
    assert (await routed(router, request)) is b
