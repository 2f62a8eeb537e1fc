"""How an engine replica is chosen for a request. Serve runs this in each process that calls the engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve._private.utils import generate_request_id

# By module, not by name: Serve pickles the router's class by value, together with the globals it uses, and
# the registry must be the process's own.
from serve_app import readiness
from serve_app.engine_calls import DIED, UNREACHABLE, MissingGrantError, grant_of
from serve_app.errors import EngineGoneError, EngineLostError, EngineUnreachableError

logger = logging.getLogger("ray.serve")

# A replica that Serve's list does not have has left, or the list that has it is still under way.
ABSENCE_S = 1.0
# For so long it is asked whether a replica that cannot be reached is dead.
DEATH_S = 2.0
# Serve tries a call again at once when it could not reach its replica.
UNREACHABLE_S = 5.0
GONE = "the engine replica that was to generate this answer has gone; the request can be sent again"


class EngineRouter(RequestRouter):
    """Sends each call where the gate says, when the gate says: its argument, an `EngineCall`, has the grant.

    A call that brings a sequence and no grant fails; one without arguments goes to any replica. While a call
    waits for its grant it counts as queued with Serve, whose autoscaler so sees the whole queue.

    Where the gate's choice is full after all, or has left, the call goes to another replica with room, and
    the gate is told. Where it is dead, or there is no other, the call fails with `EngineGoneError`, so that
    the gate chooses anew: Serve would send it on, or hold it, and nobody would know.

    Serve tells the router at once of replicas that come and go, and takes a replica out when a call finds it
    dead; so readiness needs no question to the controller.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Serve calls this once, in the process that routes."""
        readiness.register(self._deployment_id.app_name, self._deployment_id.name, self)
        self._dead: set[str] = set()  # as calls have found
        self._unreachable_at: dict[str, float] = {}
        self._choosing: dict[int, tuple[str, PendingRequest]] = {}  # calls, with the gate's choice

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve calls this when replicas have come or gone."""
        super().update_replicas(replicas)
        for number, (replica, _) in self._choosing.items():
            self._look_later(number, replica)
        readiness.changed(self._deployment_id.app_name, self._deployment_id.name)

    def on_replica_actor_died(self, replica_id: Any) -> None:
        """Serve calls this when a call has found a replica dead."""
        super().on_replica_actor_died(replica_id)
        self._dead.add(replica_id.unique_id)
        readiness.died(self._deployment_id.app_name, self._deployment_id.name, replica_id.unique_id)
        for number, (replica, _) in list(self._choosing.items()):
            if replica == replica_id.unique_id:
                self._give_up(number)

    def on_replica_actor_unavailable(self, replica_id: Any) -> None:
        """Serve calls this when a call could not reach a replica, before it tries again."""
        super().on_replica_actor_unavailable(replica_id)
        self._unreachable_at[replica_id.unique_id] = asyncio.get_running_loop().time()

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Where it runs, which may be another than the API's."""
        return self._event_loop

    async def has_died(self, replica: str) -> bool:
        """Returns whether a replica that cannot be reached is dead, and takes it out if it is.

        Ray knows of a death as soon as the machine of the replica has said it.
        """
        for replica_id, one in list(self.curr_replicas.items()):
            if replica_id.unique_id == replica:
                try:
                    async with asyncio.timeout(DEATH_S):
                        await one.get_queue_len(deadline_s=DEATH_S)
                except ActorDiedError:
                    if replica not in self._dead:
                        self.on_replica_actor_died(replica_id)
                except (RayActorError, TimeoutError):
                    pass
        return replica in self._dead

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        try:
            grant = grant_of(pending_request.args, pending_request.kwargs)
        except MissingGrantError:
            # The caller hears of it too, if it waits for its answer.
            logger.exception("a call of %s was refused", pending_request.metadata.call_method)
            raise
        if grant is None:
            with self._own_id(pending_request):
                return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        # Serve counts a request as queued around this. One that is refused is cancelled by its caller.
        await grant.granted()
        choice = grant.replica
        assert choice is not None
        if is_retry:
            await self._check_retry(choice)
        with self._watching(choice, pending_request), self._own_id(pending_request):
            replica = await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        if replica.replica_id.unique_id != choice:
            grant.place(replica.replica_id.unique_id)
        return replica

    @contextmanager
    def _own_id(self, pending_request: PendingRequest) -> Iterator[None]:
        """Gives a call an id of its own while it waits to be routed.

        All calls of an HTTP request (n > 1) have its id, and the router knows those that wait by it: of
        several it would route one. Afterwards Serve forgets the call by the id under which it has noted it.
        """
        metadata = pending_request.metadata
        request_id = metadata.internal_request_id
        metadata.internal_request_id = generate_request_id()
        try:
            yield
        finally:
            metadata.internal_request_id = request_id

    async def _check_retry(self, replica: str) -> None:
        """Raises what has become of a call that was sent to this replica, unless that had no room for it.

        By gRPC Serve takes a call for one that has begun when it has ended. It would send it anew, from its
        beginning: what has come of it would be followed by the end of another answer.
        """
        silent_s = asyncio.get_running_loop().time() - self._unreachable_at.get(replica, -UNREACHABLE_S)
        if replica not in self._dead and silent_s >= UNREACHABLE_S:
            return
        if await self.has_died(replica):
            raise EngineLostError(DIED)
        raise EngineUnreachableError(UNREACHABLE)

    @contextmanager
    def _watching(self, choice: str, pending_request: PendingRequest) -> Iterator[None]:
        """Raises `EngineGoneError` when a replica cannot be chosen any more, instead of waiting."""
        if choice in self._dead:
            raise EngineGoneError(GONE)
        number = id(pending_request)
        self._choosing[number] = choice, pending_request
        self._look_later(number, choice)
        try:
            yield
        except asyncio.CancelledError:
            if number in self._choosing:
                raise
            raise EngineGoneError(GONE) from None
        finally:
            self._choosing.pop(number, None)

    def _is_ready(self, replica: str) -> bool:
        return any(one.unique_id == replica for one in self.curr_replicas)

    def _look_later(self, number: int, replica: str) -> None:
        """Has a call give up that waits where its replica is not."""
        if not self._is_ready(replica):
            asyncio.get_running_loop().call_later(ABSENCE_S, self._look, number, self._choosing[number])

    def _look(self, number: int, call: tuple[str, PendingRequest]) -> None:
        if self._choosing.get(number) is call and not self._is_ready(call[0]):
            self._give_up(number)

    def _give_up(self, number: int) -> None:
        _, pending_request = self._choosing.pop(number)
        # Serve's own way to leave: it forgets the call then.
        pending_request.future.cancel()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The gate's choice, and after it the others, for when that one has gone or is full after all."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        grant = grant_of(pending_request.args, pending_request.kwargs)
        chosen = grant.replica if grant else None
        first = [r for r in candidate_replicas if r.replica_id.unique_id == chosen]
        return [first, [r for r in candidate_replicas if r not in first]]
