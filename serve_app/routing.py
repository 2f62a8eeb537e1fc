"""How an engine replica is chosen for a request. Serve runs this in each process that calls the engines."""

from __future__ import annotations

from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter

# By module, not by name: Serve pickles the router's class by value, together with the globals it uses, and
# the registry must be the process's own.
from serve_app import readiness


class EngineRouter(PowerOfTwoChoicesRequestRouter):
    """Serve's own choice of replica, with the replicas that it chooses from made visible.

    Serve tells the router at once of replicas that come and go, and takes a replica out when a call finds it
    dead; so readiness needs no question to the controller.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Serve calls this once, in the process that routes."""
        readiness.register(self._deployment_id.app_name, self._deployment_id.name, self)
