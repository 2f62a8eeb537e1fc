"""Calls on engines: what is sent, how each way to end is told, what is released and cancelled then."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
)

from serve_app.admission.admission_request import AdmissionRequest, RequestState
from serve_app.admission.client import GateClient
from serve_app.admission.protocol import Tier
from serve_app.admission.slot_grants import SlotGrant
from serve_app.engine_calls import EngineCall, EngineCalls, MissingGrantError, grant_of
from serve_app.errors import (
    BadRequestError,
    EngineLostError,
    IngressBlockedError,
    OverloadedError,
    ServiceError,
)
from serve_app.transport.curve import CurveAddress
from serve_app.transport.frames import ReceivedTokens
from serve_app.transport.requests import GenerateRequest
from tests.unit.admission.gates import client_of
from tests.unit.admission.grants import Owner
from tests.waiting import pass_until

PROMPT = [1, 2, 3]
NUM_TOKENS = 10


class VLLMError(ValueError):
    """An error of the engine's library that is the request's fault."""


class Response:
    """As Serve's: ends when the test says so, or is cancelled."""

    def __init__(self) -> None:
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.num_cancelled = 0

    def __await__(self) -> Any:
        return asyncio.shield(self.future).__await__()

    def cancel(self) -> None:
        self.num_cancelled += 1


class Handle:
    """As a method of Serve's handle. Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[EngineCall] = []
        self.responses: list[Response] = []

    def remote(self, call: EngineCall, /) -> Response:
        self.calls.append(call)
        self.responses.append(Response())
        return self.responses[-1]


class BrokenHandle(Handle):
    """A handle whose replica goes."""

    def remote(self, call: EngineCall, /) -> Response:
        raise RuntimeError("Serve shuts down")


def new_request() -> GenerateRequest:
    return GenerateRequest(
        request_id="r-1",
        prompt_token_ids=PROMPT,
        sampling_params=b"params",
        reply_to=CurveAddress("tcp://127.0.0.1:1", b"key"),
        sequence=7,
        cache_salt="salt",
    )


class Running:
    """A call that has been begun in a task."""

    def __init__(self, handle: Handle | None = None) -> None:
        self.handle, self.owner = handle or Handle(), Owner()
        self.received, self.grant = ReceivedTokens(), SlotGrant(self.owner, 4)
        calls = EngineCalls(self.handle, (ServiceError, VLLMError))
        self.task = asyncio.create_task(calls.run(new_request(), self.received, self.grant))

    @property
    def response(self) -> Response:
        [response] = self.handle.responses
        return response

    async def begun(self) -> Running:
        """Until it waits for its slot."""
        await asyncio.sleep(0)
        assert self.response.num_cancelled == 0
        return self

    async def granted(self) -> Running:
        """Until it waits for the response. Some of its tokens have come."""
        await self.begun()
        self.grant.give("a")
        await pass_until(lambda: bool(self.response.future._callbacks))
        self.received.accept(0, NUM_TOKENS)
        return self

    @property
    def outcome(self) -> tuple[int, list[tuple[int, int]]]:
        """How often it was cancelled, and what was released."""
        return self.response.num_cancelled, self.owner.released


WITH_TOKENS = [(4, len(PROMPT) + NUM_TOKENS)]
WITHOUT = [(4, 0)]


# --- the argument of a call ----------------------------------------------------------------------------


async def test_the_handle_gets_the_request_with_its_very_grant() -> None:
    one = await Running().begun()
    [call] = one.handle.calls
    assert call.request == new_request()
    assert call.grant is one.grant
    assert grant_of([call], {}) is one.grant
    one.task.cancel()


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_call_is_pickled_as_its_request_alone(pickler: Any) -> None:
    """Serve pickles it for an actor call as for gRPC. A grant, with its lock, could not be pickled."""
    call = EngineCall(new_request(), SlotGrant(Owner(), 0))
    content = pickler.dumps([call])
    assert pickle.loads(content) == [new_request()]
    assert len(content) <= len(pickler.dumps([new_request()]))
    with pytest.raises(TypeError):
        pickler.dumps(call.grant)


@pytest.mark.parametrize("kwargs", [{}, {"_ray_trace_ctx": {}}])
def test_a_call_without_arguments_takes_no_slot(kwargs: dict[str, Any]) -> None:
    assert grant_of([], kwargs) is None


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([new_request()], {}),
        ([], {"request": new_request()}),
        (["r-1"], {}),
        ([None], {}),
        ([None, EngineCall(new_request(), SlotGrant(Owner(), 0))], {}),
    ],
)
def test_a_call_that_brings_something_and_no_grant_is_refused_with_what_to_do(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(MissingGrantError, match=r"serve_app\.engine_calls\.EngineCalls, with the grant that"):
        grant_of(args, kwargs)


def test_a_call_that_is_sent_once_more_with_a_trace_keeps_its_grant() -> None:
    call = EngineCall(new_request(), SlotGrant(Owner(), 0))
    assert grant_of([call], {"_ray_trace_ctx": {}}) is call.grant


# --- each way to end -----------------------------------------------------------------------------------


async def test_an_answer_that_is_complete() -> None:
    one = await Running().granted()
    one.response.future.set_result(NUM_TOKENS)
    assert await one.task == NUM_TOKENS
    assert one.outcome == (0, WITH_TOKENS)


async def test_a_slot_that_is_there_is_not_waited_for() -> None:
    one = Running()
    one.grant.give("a")
    one.received.accept(0, NUM_TOKENS)
    await asyncio.sleep(0)
    one.response.future.set_result(NUM_TOKENS)
    assert await one.task == NUM_TOKENS
    assert one.outcome == (0, WITH_TOKENS)


@pytest.mark.parametrize(
    "error", [ActorDiedError(), RayActorError(), ActorUnavailableError("cut off", b"0" * 16)]
)
async def test_the_death_of_the_replica(error: RayActorError, caplog: pytest.LogCaptureFixture) -> None:
    one = await Running().granted()
    one.response.future.set_exception(error)
    with (
        caplog.at_level(logging.ERROR, "ray.serve"),
        pytest.raises(EngineLostError, match="has died; the request can be sent again") as caught,
    ):
        await one.task
    assert caught.value.__cause__ is error
    assert (caught.value.status, caught.value.retry_after_s) == (503, None)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("request r-1 lost its engine replica: ")
    assert str(error) in record.getMessage()
    assert one.outcome == (0, WITH_TOKENS)


def task_error(cause: Exception) -> RayTaskError:
    """As Ray makes it of an exception in an actor, and raises it: of the class of the cause, too."""
    error: RayTaskError = RayTaskError("generate", "Traceback ...", cause).as_instanceof_cause()  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize(
    "cause",
    [
        BadRequestError("max_tokens is too large", "max_tokens"),
        IngressBlockedError("the ingress does not read"),
        VLLMError("no such token"),
    ],
)
async def test_an_error_of_the_replica_that_has_a_meaning_is_unpacked(cause: Exception) -> None:
    one = await Running().granted()
    one.response.future.set_exception(task_error(cause))
    with pytest.raises(type(cause)) as caught:
        await one.task
    assert caught.value is cause
    assert not isinstance(caught.value, RayTaskError)
    assert caught.value.__suppress_context__
    assert one.outcome == (0, WITH_TOKENS)


async def test_any_other_error_of_the_replica_is_rays() -> None:
    one = await Running().granted()
    one.response.future.set_exception(task_error(ValueError("nobody has foreseen it")))
    with pytest.raises(RayTaskError) as caught:
        await one.task
    assert str(caught.value.cause) == "nobody has foreseen it"
    assert one.outcome == (0, WITH_TOKENS)


async def test_a_call_that_serve_has_cancelled() -> None:
    one = await Running().granted()
    one.response.future.set_exception(TaskCancelledError())
    with pytest.raises(TaskCancelledError):
        await one.task
    assert one.outcome == (0, WITH_TOKENS)


async def test_a_call_that_cannot_be_made_gives_its_slot_back() -> None:
    one = Running(BrokenHandle())
    with pytest.raises(RuntimeError, match="Serve shuts down"):
        await one.task
    assert one.owner.released == WITHOUT


@pytest.mark.parametrize("is_granted", [False, True])
async def test_a_client_that_leaves(is_granted: bool) -> None:
    """Before the grant nothing has been used. After it, what was generated until then."""
    one = await (Running().granted() if is_granted else Running().begun())
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert one.outcome == (1, WITH_TOKENS if is_granted else WITHOUT)


async def test_a_slot_that_is_granted_while_its_client_leaves_counts_as_used() -> None:
    """The router may have sent the call in the meantime."""
    one = await Running().begun()
    one.grant.give("a")
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert one.outcome == (1, [(4, len(PROMPT))])


async def test_who_is_refused_while_waiting() -> None:
    one = await Running().begun()
    one.grant.refuse(OverloadedError("the queue is full", 3.0))
    with pytest.raises(OverloadedError) as caught:
        await one.task
    assert caught.value.retry_after_s == 3.0
    assert one.outcome == (1, WITHOUT)


async def test_a_task_that_never_began_has_made_no_call() -> None:
    """Whoever made the task releases its slot: none of its own code runs."""
    one = Running()
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert (one.handle.calls, one.owner.released) == ([], [])


async def test_a_grant_of_another_thread_is_heard() -> None:
    """The gate's events come in the API's event loop, and the router's may be another."""
    one = await Running().begun()
    thread = threading.Thread(target=one.grant.give, args=("a",))
    thread.start()
    await asyncio.to_thread(thread.join)
    await pass_until(lambda: bool(one.response.future._callbacks))
    one.response.future.set_result(0)
    assert await one.task == 0
    assert one.outcome == (0, [(4, len(PROMPT))])


# --- the slots that the gate counts --------------------------------------------------------------------


@pytest.fixture
async def gate() -> AsyncIterator[GateClient]:
    """An ingress that decides alone, over an engine with one slot."""
    async with client_of(None, "a", max_queued=1, max_tokens_per_minute_per_key=10_000) as (client, _):
        yield client


def begun(gate: GateClient, handle: Handle, tier: Tier = Tier.DEFAULT) -> tuple[AdmissionRequest, Any]:
    request = gate.ask("key", tier, 1)
    received = ReceivedTokens()
    received.accept(0, NUM_TOKENS)
    calls = EngineCalls(handle, (ServiceError,))
    return request, asyncio.create_task(calls.run(new_request(), received, request.take_slot()))


def used(gate: GateClient) -> int:
    """Tokens that the key has used, as the gate knows."""
    use = gate._own._keys._uses["key"]
    return round(10_000 - use.balance)


@pytest.mark.parametrize("how", ["success", "error", "client leaves"])
async def test_the_gate_counts_each_slot_once_and_what_it_has_used(gate: GateClient, how: str) -> None:
    handle = Handle()
    running, task = begun(gate, handle)
    waiting, next_task = begun(gate, handle)
    await asyncio.sleep(0)
    assert (gate._own.num_running, gate._own.num_waiting) == (1, 1)
    if how == "success":
        handle.responses[0].future.set_result(NUM_TOKENS)
    elif how == "error":
        handle.responses[0].future.set_exception(ActorDiedError())
    else:
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or how == "success" or isinstance(task.exception(), EngineLostError)
    assert (gate._own.num_running, gate._own.num_waiting) == (1, 0)  # the one that waited has its slot
    assert used(gate) == len(PROMPT) + NUM_TOKENS
    assert waiting.state is RequestState.RUNNING
    next_task.cancel()
    await asyncio.wait([next_task])
    running.close()
    waiting.close()
    assert (gate._own.num_running, gate._own.num_waiting) == (0, 0)
    assert not gate._requests


async def test_who_leaves_the_queue_has_used_nothing(gate: GateClient) -> None:
    handle = Handle()
    _running, task = begun(gate, handle)
    _waiting, waiting_task = begun(gate, handle)
    await asyncio.sleep(0)
    waiting_task.cancel()
    await asyncio.wait([waiting_task])
    assert (gate._own.num_running, gate._own.num_waiting) == (1, 0)
    assert used(gate) == 0
    assert [response.num_cancelled for response in handle.responses] == [0, 1]
    task.cancel()
    await asyncio.wait([task])


async def test_who_gives_way_in_the_queue_has_used_nothing(gate: GateClient) -> None:
    handle = Handle()
    _running, task = begun(gate, handle)
    flex, flex_task = begun(gate, handle, Tier.FLEX)
    await asyncio.sleep(0)
    urgent, urgent_task = begun(gate, handle)
    with pytest.raises(OverloadedError):
        await flex_task
    flex.close()
    assert flex.state is RequestState.CLOSED
    assert (gate._own.num_running, gate._own.num_waiting) == (1, 1)
    assert used(gate) == 0
    assert [response.num_cancelled for response in handle.responses] == [0, 1, 0]
    for left in (task, urgent_task):
        left.cancel()
        await asyncio.wait([left])
    urgent.close()
    assert (gate._own.num_running, gate._own.num_waiting) == (0, 0)
