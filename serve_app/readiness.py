"""Which engine replicas are ready, as known in this process. Written by its router, read by its API."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakValueDictionary


class Router(Protocol):
    """What is read of Serve's request router."""

    @property
    def curr_replicas(self) -> dict[Any, Any]:
        """The replicas that requests may go to, by id."""


_routers: WeakValueDictionary[tuple[str, str], Router] = WeakValueDictionary()


def register(app_name: str, deployment_name: str, router: Router) -> None:
    """Makes `router` the one that answers for its deployment in this process, for as long as it lives."""
    _routers[app_name, deployment_name] = router


def num_ready_replicas(app_name: str, deployment_name: str) -> int:
    """Replicas whose constructor has returned, which for an engine means warm, and that are healthy."""
    router = _routers.get((app_name, deployment_name))
    return len(router.curr_replicas) if router is not None else 0
