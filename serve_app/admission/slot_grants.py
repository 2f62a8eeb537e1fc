"""A sequence's slot in an engine replica: granted at once, or awaited. The router reads it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Protocol

from serve_app.admission.protocol import Loss
from serve_app.errors import ServiceError


class Owner(Protocol):
    """The request that a sequence is of."""

    def release(self, number: int, num_tokens: int) -> None:
        """One of its sequences has ended."""

    def move(self, number: int, loss: Loss) -> SlotGrant:
        """One of its sequences has lost its engine. Returns the slot of the one that goes on for it."""


class SlotGrant:
    """The slot of a sequence: granted at once, awaited, or refused. Its first answer counts."""

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner, self.number = owner, number
        # Of any thread: the router's event loop may be another than the API's.
        self._replica: Future[str] = Future()

    @property
    def replica(self) -> str | None:
        """The engine replica to go to; None while it waits, or when it is refused."""
        future = self._replica
        return future.result() if future.done() and not future.exception() else None

    async def granted(self) -> str:
        """Returns the replica once the slot is granted. Raises the `ServiceError` that refuses it."""
        if self._replica.done():
            # Most of the time. Waiting would wake the event loop by a system call.
            return self._replica.result()
        return await asyncio.shield(asyncio.wrap_future(self._replica))

    def give(self, replica: str) -> None:
        """The gate has said where to go."""
        if not self._replica.done():
            self._replica.set_result(replica)

    def refuse(self, error: ServiceError) -> None:
        """The gate has said no."""
        if not self._replica.done():
            self._replica.set_exception(error)

    def release(self, num_tokens: int) -> None:
        """The sequence has ended. `num_tokens` are prompt and answer, 0 if it has not been in an engine."""
        self._owner.release(self.number, num_tokens)

    def move(self, loss: Loss) -> SlotGrant:
        """Gives this slot back, whose engine is lost, and returns another one to wait for.

        It is refused with `DeadlyRequestError` when the request has been alone on two engines that died.
        """
        return self._owner.move(self.number, loss)
