"""The gate: one small replica that decides, for all ingresses, which requests begin, wait or are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from ray.serve.handle import DeploymentHandle
from ray.util import get_node_ip_address

from serve_app import readiness
from serve_app.admission.policy import Admission
from serve_app.admission.rules import admission_rules
from serve_app.admission.server import GateServer
from serve_app.config import AppConfig
from serve_app.transport.curve import CurveAddress


class Gate:
    """Its state is what the ingresses say: a new one learns all of it from them within a second."""

    def __init__(self, config: AppConfig, engine: DeploymentHandle[Any]) -> None:
        self._admission = Admission(admission_rules(config))
        self._deployment = engine.app_name, engine.deployment_name
        # With options the handle gets its router, which knows the replicas. It is never called.
        self._engine = engine.options()
        self._server: GateServer | None = None

    async def address(self) -> CurveAddress:
        """Where ingresses connect, and the key that lets them."""
        if self._server is None:
            host = get_node_ip_address()  # type: ignore[no-untyped-call]
            server = self._server = GateServer(host, self._admission)
            loop = asyncio.get_running_loop()

            def set_replicas(replicas: Collection[str]) -> None:
                loop.call_soon_threadsafe(server.set_replicas, replicas)

            readiness.watch(*self._deployment, set_replicas)
        return self._server.address

    async def load(self) -> tuple[int, int]:
        """How many sequences have their slot in an engine, and how many wait for one."""
        return (self._admission.num_running, self._admission.num_waiting)

    async def check_health(self) -> None:
        """Serve calls this; raising makes it replace the replica."""
        if self._server and self._server.task.done():
            self._server.task.result()

    def __del__(self) -> None:
        # Serve's way of saying that the replica is to go. The constructor may not have come this far.
        if server := getattr(self, "_server", None):
            server.close()
