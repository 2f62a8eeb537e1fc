"""Which engine replicas are ready, as known in this process: a registry of its router.

Serve makes the router, so neither can be an argument of the other. The router enters with `register`, and
says `changed` and `died`; `/health` reads `ready_replicas`; the ingress's gate client and the gate `watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol
from weakref import WeakValueDictionary

OnChange = Callable[[Collection[str]], None]
OnDeath = Callable[[str], None]


class Router(Protocol):
    """What is read of Serve's request router."""

    @property
    def curr_replicas(self) -> dict[Any, Any]:
        """The replicas that requests may go to, by id."""


_routers: WeakValueDictionary[tuple[str, str], Router] = WeakValueDictionary()
_listeners: dict[tuple[str, str], tuple[OnChange, OnDeath]] = {}


def register(app_name: str, deployment_name: str, router: Router) -> None:
    """Makes `router` the one that answers for its deployment in this process, for as long as it lives."""
    _routers[app_name, deployment_name] = router


def ready_replicas(app_name: str, deployment_name: str) -> Collection[str]:
    """Replicas whose constructor has returned, which for an engine means warm, and that are healthy."""
    router = _routers.get((app_name, deployment_name))
    return [replica_id.unique_id for replica_id in router.curr_replicas] if router is not None else []


def watch(
    app_name: str, deployment_name: str, on_change: OnChange, on_death: OnDeath = lambda _: None
) -> None:
    """Has `on_change` told of the ready replicas, now and whenever they change, and `on_death` of dead ones.

    They are called in whatever thread the router has.
    """
    _listeners[app_name, deployment_name] = on_change, on_death
    on_change(ready_replicas(app_name, deployment_name))


def changed(app_name: str, deployment_name: str) -> None:
    """The router says that its replicas have changed."""
    if listeners := _listeners.get((app_name, deployment_name)):
        listeners[0](ready_replicas(app_name, deployment_name))


def died(app_name: str, deployment_name: str, replica: str) -> None:
    """The router says that a call has found this replica dead."""
    if listeners := _listeners.get((app_name, deployment_name)):
        listeners[1](replica)
    changed(app_name, deployment_name)
