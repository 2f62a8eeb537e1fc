"""Calls on the engine deployment's Serve handle: one for each sequence, with the grant of its slot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from serve_app.admission.slot_grants import SlotGrant
from serve_app.errors import EngineLostError, EngineUnreachableError, ServiceError
from serve_app.transport.requests import GenerateRequest


@dataclass(frozen=True, slots=True, eq=False)
class EngineCall:
    """The argument of a call on the engine's handle.

    The router, in the process of the caller, gets this very object and reads the grant. The engine gets the
    request alone: it is what is pickled.
    """

    request: GenerateRequest
    grant: SlotGrant

    def __reduce__(self) -> Any:
        return self.request.__reduce__()


class MissingGrantError(RuntimeError):
    """A call on the engine's handle brings a sequence and no grant of a slot for it."""


def grant_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> SlotGrant | None:
    """Returns the grant of the call with these arguments; None for one without arguments: it takes no slot.

    Raises `MissingGrantError` for any other call.
    """
    if args and isinstance(args[0], EngineCall):
        return args[0].grant
    # Ray adds its trace to those of a call that is sent once more.
    if not args and all(name.startswith("_ray_") for name in kwargs):
        return None
    raise MissingGrantError(
        "a call on the engine's handle came without a slot grant: it would take the slot of a sequence that "
        "the gate sends to the same replica. Make such calls by serve_app.engine_calls.EngineCalls, with the "
        "grant that AdmissionRequest.take_slot returns"
    )


class Response(Protocol):
    """What is used of Serve's `DeploymentResponse`."""

    def __await__(self) -> Any:
        """Waits for the number of tokens."""

    def cancel(self) -> object:
        """Ends the call, wherever it is."""


class HandleMethod(Protocol):
    """What is used of a method of Serve's `DeploymentHandle`."""

    def remote(self, call: EngineCall, /) -> Response:
        """Begins a call."""


class EngineCalls:
    """Has engine replicas generate. Each sequence is one call, which lasts as long as the sequence."""

    def __init__(self, generate: HandleMethod, passed_on: tuple[type[Exception], ...]) -> None:
        """`generate` is the handle's method, `passed_on` are the errors of the replica to raise unchanged."""
        self._generate = generate
        self._passed_on = passed_on

    async def run(self, request: GenerateRequest, grant: SlotGrant) -> int:
        """Returns the number of tokens of the answer, when the replica has sent them all.

        Cancelling the task cancels the call. The slot is the caller's to release.

        Raises the `ServiceError` that refuses the slot, `EngineLostError` when the replica has died,
        `EngineUnreachableError` when it is cut off, the errors of `passed_on`, and Ray's for all others.
        """
        # The router holds it until the slot is granted: so Serve's autoscaler counts it.
        response = self._generate.remote(EngineCall(request, grant))
        try:
            await grant.granted()
        except (ServiceError, asyncio.CancelledError):
            response.cancel()
            raise
        return await self._reply(response)

    async def _reply(self, response: Response) -> int:
        try:
            num_tokens: int = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except ActorUnavailableError as error:
            response.cancel()  # it may live, and go on
            raise EngineUnreachableError(
                "the engine replica that was generating this answer cannot be reached; the request can be "
                "sent again"
            ) from error
        except RayActorError as error:
            raise EngineLostError(
                "the engine replica that was generating this answer has died; the request can be sent again"
            ) from error
        except RayTaskError as error:
            if isinstance(error.cause, self._passed_on):
                raise error.cause from None
            raise
        return num_tokens
