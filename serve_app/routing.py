"""How an engine replica is chosen for a request. Serve runs this in each process that calls the engines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve._private.utils import generate_request_id

# By module, not by name: Serve pickles the router's class by value, together with the globals it uses, and
# the registry must be the process's own.
from serve_app import readiness
from serve_app.engine_calls import MissingGrantError, grant_of

logger = logging.getLogger("ray.serve")


class EngineRouter(RequestRouter):
    """Sends each call where the gate says, when the gate says: its argument, an `EngineCall`, has the grant.

    A call that brings a sequence and no grant fails; one without arguments goes to any replica. While a call
    waits for its grant it counts as queued with Serve, whose autoscaler so sees the whole queue.
    Serve tells the router at once of replicas that come and go, and takes a replica out when a call finds it
    dead; so readiness needs no question to the controller.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Serve calls this once, in the process that routes."""
        readiness.register(self._deployment_id.app_name, self._deployment_id.name, self)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve calls this when replicas have come or gone."""
        super().update_replicas(replicas)
        readiness.changed(self._deployment_id.app_name, self._deployment_id.name)

    def on_replica_actor_died(self, replica_id: Any) -> None:
        """Serve calls this when a call has found a replica dead."""
        super().on_replica_actor_died(replica_id)
        readiness.died(self._deployment_id.app_name, self._deployment_id.name, replica_id.unique_id)

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        try:
            grant = grant_of(pending_request.args, pending_request.kwargs)
        except MissingGrantError:
            # The caller hears of it too, if it waits for its answer.
            logger.exception("a call of %s was refused", pending_request.metadata.call_method)
            raise
        if grant:
            # Serve counts a request as queued around this. One that is refused is cancelled by its caller.
            await grant.granted()
        with self._own_id(pending_request):
            return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)

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
