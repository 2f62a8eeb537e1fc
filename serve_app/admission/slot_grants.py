"""Which engine replica a sequence goes to, and when: said by the gate, read by the router."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from serve_app.errors import ServiceError
from serve_app.transport.requests import GenerateRequest


class Owner(Protocol):
    """The request that a sequence is of."""

    def release(self, number: int, num_tokens: int) -> None:
        """One of its sequences has ended."""


class SlotGrant:
    """A sequence's turn: known at once, or awaited."""

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
        """Returns the replica once it is this sequence's turn. Raises the `ServiceError` that refuses it."""
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


_grants: dict[str, SlotGrant] = {}


@contextlib.contextmanager
def known(request_id: str, grant: SlotGrant) -> Iterator[None]:
    """For this time the router finds the grant of the request."""
    _grants[request_id] = grant
    try:
        yield
    finally:
        del _grants[request_id]


def find(arguments: Sequence[Any]) -> SlotGrant | None:
    """Returns the grant of the call with these arguments; None for a call that needs none."""
    request = arguments[0] if arguments else None
    return _grants.get(request.request_id) if isinstance(request, GenerateRequest) else None
