"""Calls on engines: what is sent, how each way to end is told, what is released and cancelled then."""

from __future__ import annotations

import asyncio
import pickle
import threading
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

from serve_app.admission.slot_grants import SlotGrant
from serve_app.engine_calls import EngineCall, EngineCalls, MissingGrantError, grant_of
from serve_app.errors import (
    BadRequestError,
    EngineLostError,
    EngineUnreachableError,
    IngressBlockedError,
    OverloadedError,
    ServiceError,
)
from serve_app.transport.curve import CurveAddress
from serve_app.transport.requests import GenerateRequest
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
        self.grant = SlotGrant(self.owner, 4)
        calls = EngineCalls(self.handle, (ServiceError, VLLMError))
        self.task = asyncio.create_task(calls.run(new_request(), self.grant))

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
        """Until it waits for the response."""
        await self.begun()
        self.grant.give("a")
        await pass_until(lambda: bool(self.response.future._callbacks))
        return self

    @property
    def num_cancelled(self) -> int:
        """How often the call was cancelled. The slot is not its to release."""
        assert self.owner.released == []
        return self.response.num_cancelled


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
    assert one.num_cancelled == 0


async def test_a_slot_that_is_there_is_not_waited_for() -> None:
    one = Running()
    one.grant.give("a")
    await asyncio.sleep(0)
    one.response.future.set_result(NUM_TOKENS)
    assert await one.task == NUM_TOKENS
    assert one.num_cancelled == 0


@pytest.mark.parametrize("error", [ActorDiedError(), RayActorError()])
async def test_the_death_of_the_replica(error: RayActorError) -> None:
    one = await Running().granted()
    one.response.future.set_exception(error)
    with pytest.raises(EngineLostError, match="has died; the request can be sent again") as caught:
        await one.task
    assert caught.value.__cause__ is error
    assert (caught.value.status, caught.value.retry_after_s) == (503, None)
    assert one.num_cancelled == 0


async def test_a_replica_that_cannot_be_reached_and_may_go_on() -> None:
    one = await Running().granted()
    error = ActorUnavailableError("cut off", b"0" * 16)
    one.response.future.set_exception(error)
    with pytest.raises(
        EngineUnreachableError, match="cannot be reached; the request can be sent again"
    ) as caught:
        await one.task
    assert caught.value.__cause__ is error
    assert one.num_cancelled == 1, "where it lives, its sequence ends"


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
    assert one.num_cancelled == 0


async def test_any_other_error_of_the_replica_is_rays() -> None:
    one = await Running().granted()
    one.response.future.set_exception(task_error(ValueError("nobody has foreseen it")))
    with pytest.raises(RayTaskError) as caught:
        await one.task
    assert str(caught.value.cause) == "nobody has foreseen it"
    assert one.num_cancelled == 0


async def test_a_call_that_serve_has_cancelled() -> None:
    one = await Running().granted()
    one.response.future.set_exception(TaskCancelledError())
    with pytest.raises(TaskCancelledError):
        await one.task
    assert one.num_cancelled == 0


async def test_a_call_that_cannot_be_made_gives_its_slot_back() -> None:
    one = Running(BrokenHandle())
    with pytest.raises(RuntimeError, match="Serve shuts down"):
        await one.task
    assert one.owner.released == []


@pytest.mark.parametrize("is_granted", [False, True])
async def test_a_client_that_leaves(is_granted: bool) -> None:
    """Before the grant nothing has been used. After it, what was generated until then."""
    one = await (Running().granted() if is_granted else Running().begun())
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert one.num_cancelled == 1


async def test_a_slot_that_is_granted_while_its_client_leaves_counts_as_used() -> None:
    """The router may have sent the call in the meantime."""
    one = await Running().begun()
    one.grant.give("a")
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert one.num_cancelled == 1


async def test_who_is_refused_while_waiting() -> None:
    one = await Running().begun()
    one.grant.refuse(OverloadedError("the queue is full", 3.0))
    with pytest.raises(OverloadedError) as caught:
        await one.task
    assert caught.value.retry_after_s == 3.0
    assert one.num_cancelled == 1


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
    assert one.num_cancelled == 0
