"""The ingress: the HTTP API, on CPU cores, in front of the engine replicas."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve import metrics
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.util import get_node_ip_address

from serve_app import migration, private_names, readiness, sources
from serve_app.admission.client import MESSAGES, GateClient
from serve_app.admission.policy import NO_ENGINE_RETRY_S
from serve_app.admission.protocol import Reason
from serve_app.admission.rules import Rules, admission_rules
from serve_app.config import AppConfig
from serve_app.engine_calls import EngineCalls
from serve_app.errors import EngineUnavailableError, ServiceError
from serve_app.harmony import vocabulary_file
from serve_app.harmony.installation import check_installation, installed_versions
from serve_app.sealing_key import sealing_key
from serve_app.transport.curve import CurveAddress
from serve_app.transport.sockets import FrameReceiver

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger("ray.serve")

GATE_RETRY_S = 1.0
# What is used here of `vllm_adapter`. The check of the other half would import it, which takes a second.
VLLM_MODULES = tuple(
    f"serve_app.vllm_adapter.{name}"
    for name in ("remote_engine", "remote_sequence", "sampling_params", "wire")
)


@contextmanager
def paused_gc() -> Iterator[None]:
    """Collects no garbage meanwhile: what imports make stays, and is looked through again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Ingress:
    """The API over remote engines. A sequence is one call on the handle; its tokens come in frames."""

    _app: FastAPI

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: AppConfig, engine: DeploymentHandle[Any], gate: DeploymentHandle[Any]
    ) -> None:
        with paused_gc():
            await self._start(config, engine, gate)

    async def _start(
        self, config: AppConfig, engine: DeploymentHandle[Any], gate: DeploymentHandle[Any]
    ) -> None:
        self._deployment = engine.app_name, engine.deployment_name
        self._ask_address = gate.address
        self._can_start_engines = config.engine.min_replicas == 0
        self._gate = self._connect(admission_rules(config))
        # Kept for as long as the replica lives: what it uses is not evicted from the node.
        self._model = await asyncio.to_thread(
            sources.resolve, config.model.source, config.model.revision, config.staging, weights=False
        )
        check_installation(installed_versions())  # of this node, which need not be as the one that built
        await asyncio.to_thread(vocabulary_file.install, self._model.path)
        key = await asyncio.to_thread(sealing_key, config.ingress.sealing_key_file)
        for module in VLLM_MODULES:
            private_names.check(module)
        from serve_app.api.application import new_app
        from serve_app.api.generation import Generator, Limits
        from serve_app.api.repair_report import RepairReport
        from serve_app.api.routes import Service, add_routes
        from serve_app.api.sealing import Sealer
        from serve_app.grammars.checker import GrammarChecker
        from serve_app.harmony.tokens import Vocabulary
        from serve_app.vllm_adapter import (
            RemoteEngine,
            SamplingParamsEncoder,
            VLLMClientError,
            freeze_gc_heap,
            vllm_version,
        )

        tokens = await asyncio.to_thread(Vocabulary.load)
        self._engines = RemoteEngine(
            EngineCalls(engine.generate, (ServiceError, VLLMClientError)).run,
            FrameReceiver(get_node_ip_address()),  # type: ignore[no-untyped-call]
            SamplingParamsEncoder.of_checkpoint(self._model.path, config.engine.max_model_len),
            migration.Limits(config.migration.max_engines, config.migration.max_wait_s),
            migration.Report(_migration_metric()),
        )
        self._grammars = GrammarChecker(tokens)
        self._grammars.start()
        generator = Generator(
            self._engines,
            tokens,
            config.model.served_names,
            Limits(
                config.engine.max_model_len,
                config.ingress.max_unread_tokens,
                config.ingress.max_chunks_per_second,
            ),
            self._grammars.check,
            RepairReport(_repair_metric()).add,
        )
        self._app = new_app(
            config.ingress.max_body_bytes, self._num_ready_engines, config.ingress.allowed_origins
        )
        service = Service(
            tuple(config.model.served_names),
            config.model.id,
            vllm_version,
            config.ingress.keep_alive_s,
            watches_clients=False,  # Serve does, and cancels
        )
        add_routes(self._app, generator, self._gate, tokens, Sealer(key), service)
        # What the modules made stays for ever: collections that look through it hold up all streams.
        freeze_gc_heap()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def open_work(self) -> dict[str, int]:
        """What this replica has open, for tests and drills: without clients no request and no sequence.

        The tasks are then as many as before the first client. The process id tells replicas apart.
        """
        return {
            "pid": os.getpid(),
            "tasks": len(asyncio.all_tasks()),
            "requests": self._gate.num_open,
            "sequences": self._engines.num_open,
        }

    async def check_health(self) -> None:
        """Serve calls this; raising makes it replace the replica."""
        self._engines.check_health()

    def _connect(self, rules: Rules) -> GateClient:
        gate = GateClient(rules, self._gate_address)
        loop = asyncio.get_running_loop()

        # The router's thread may be another.
        def set_replicas(replicas: Collection[str]) -> None:
            loop.call_soon_threadsafe(gate.set_replicas, replicas)

        def lose(replica: str) -> None:
            loop.call_soon_threadsafe(gate.lose, replica)

        readiness.watch(*self._deployment, set_replicas, lose)
        return gate

    async def _gate_address(self) -> CurveAddress:
        while True:
            try:
                # Waits until there is a gate.
                return await cast("DeploymentResponse[CurveAddress]", self._ask_address.remote())
            except (RayError, RayServeException) as error:
                logger.warning("the gate could not be asked for its address, trying again: %s", error)
                await asyncio.sleep(GATE_RETRY_S)

    def _num_ready_engines(self) -> int:
        """Raises `EngineUnavailableError` when there is none, and none will be started for a request."""
        num_ready = len(readiness.ready_replicas(*self._deployment))
        if num_ready or self._can_start_engines:
            return num_ready
        raise EngineUnavailableError(MESSAGES[Reason.NO_ENGINE], NO_ENGINE_RETRY_S)


def _migration_metric() -> Callable[[str], None]:
    migrations = metrics.Counter(
        "serve_app_migrations",
        description="Sequences that went on in another engine replica, by what became of the one before.",
        tag_keys=("cause",),
    )
    return lambda cause: migrations.inc(1, {"cause": cause})


def _repair_metric() -> Callable[[str, str, int], None]:
    repairs = metrics.Counter(
        "serve_app_answer_repairs",
        description="What had to be repaired in what the model said, by API and kind (docs/api.md).",
        tag_keys=("api", "kind"),  # type: ignore[arg-type]  # Ray's annotation is of one key
    )
    return lambda api, kind, number: repairs.inc(number, {"api": api, "kind": kind})
