"""The engine replica: one vLLM engine on one GPU, as a Serve deployment. Token ids in, token ids out."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve_app import private_names, sources
from serve_app.config import AppConfig
from serve_app.engine_arguments import engine_arguments
from serve_app.engine_health import EngineHealth
from serve_app.harmony import vocabulary_file
from serve_app.staging import starts, timeline
from serve_app.staging.timeline import Timeline
from serve_app.transport.requests import GenerateRequest
from serve_app.warm_up import rounds
from serve_app.watchdog import Watchdog

if TYPE_CHECKING:
    from serve_app.config.sections import StagingConfig
    from serve_app.staging.compile_cache import CompileCache
    from serve_app.vllm_adapter import TokenEngine

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class EngineParts:
    """What a replica is put together from. Tests give others than `vllm_parts`."""

    new_engine: Callable[[Mapping[str, Any]], TokenEngine]
    """Starts the engine; the arguments are those of `engine_arguments`."""
    new_cache: Callable[[StagingConfig, Mapping[str, Any], Mapping[str, Any]], CompileCache]
    compiler_factors: Callable[[], Mapping[str, Any]]
    freeze_gc_heap: Callable[[], None]
    engine_dead: type[Exception]
    """What the engine raises when its process has died."""


def vllm_parts() -> EngineParts:
    """Imports vLLM and returns its parts. Raises `PrivateNameError` where it lacks what is used of it."""
    # Here and not at the top: the package's other processes need neither vLLM nor torch.
    private_names.check("serve_app.vllm_adapter")
    from serve_app.staging.compile_cache import CompileCache
    from serve_app.vllm_adapter import EngineDeadError, TokenEngine, compiler_factors, freeze_gc_heap

    return EngineParts(TokenEngine, CompileCache, compiler_factors, freeze_gc_heap, EngineDeadError)


def _replica_id() -> str:
    from ray import serve

    return serve.get_replica_context().replica_id.unique_id


class Engine:
    """Serve starts one per GPU. Ready, for Serve, means that the engine is warm: see `warm_up`."""

    _engine: TokenEngine

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: AppConfig,
        *,
        load_parts: Callable[[], EngineParts] = vllm_parts,
        replica_id: Callable[[], str] = _replica_id,
        leave: Callable[[int], object] = os._exit,
        new_watchdog: Callable[[], Watchdog] = Watchdog,
    ) -> None:
        self._leave = leave
        about = {"model": config.model.id, "node": socket.gethostname(), "pid": os.getpid()}
        with Timeline(config.staging.path, replica_id(), about) as start:
            with start.phase(timeline.STAGING):
                await self._stage(config)
            with start.phase(timeline.IMPORTS):
                parts = load_parts()
                self._engine_dead = parts.engine_dead
            arguments = engine_arguments(
                config, self._model.path, self._speculator.path if self._speculator else None
            )
            with start.phase(timeline.CACHE_RESTORE):
                compiler = parts.compiler_factors()
                self._cache = parts.new_cache(config.staging, arguments, compiler)
                await asyncio.to_thread(self._cache.restore)
                os.environ.update(self._cache.environment(os.environ))
                start.note(caches=self._cache.state, cache_key=self._cache.key, compiler=compiler)
            with start.phase(timeline.ENGINE):
                self._engine = parts.new_engine(arguments)
                if config.engine.has_graphs:
                    await self._engine.check_graphs(config.decode_shape)
            with start.phase(timeline.WARM_UP):
                await self._engine.warm_up(rounds.plan(config))
        self._health = EngineHealth(self._engine, config.engine.stall_timeout_s, leave, new_watchdog())
        parts.freeze_gc_heap()  # see the ingress
        logger.info("%s", starts.read(start.path) or "ready")
        self._cache.publish()

    async def _stage(self, config: AppConfig) -> None:
        # Kept for as long as the replica lives: what it uses is not evicted from the node.
        self._model = await asyncio.to_thread(
            sources.resolve,
            config.model.source,
            config.model.revision,
            config.staging,
            weights=config.engine.load_format != "runai_streamer",
        )
        self._speculator = None
        if config.speculator:
            self._speculator = await asyncio.to_thread(
                sources.resolve, config.speculator.source, config.speculator.revision, config.staging
            )
        await asyncio.to_thread(vocabulary_file.install, self._model.path)

    async def generate(self, request: GenerateRequest) -> int:
        """Sends the tokens of `request` to its ingress, returns their number. Cancelling the call aborts."""
        try:
            return await self._engine.generate(request)
        except self._engine_dead:
            self._leave_engine()
            raise

    def _leave_engine(self) -> None:
        # A replica that fails at once looks idle, and would draw all requests until three health checks
        # have failed. Nothing in it can be saved, and callers learn of its death within milliseconds.
        logger.critical("the vLLM engine process has died (its log is above); this replica leaves")
        self._leave(1)

    async def num_unfinished_requests(self) -> int:
        """Requests that the engine is running or holds in its queue."""
        return self._engine.num_unfinished_requests

    async def check_health(self) -> None:
        """Serve calls this; raising three times makes it replace the replica.

        Does not return if the engine hangs or has died.
        """
        self._health.check()
        try:
            await self._engine.check_health()
        except self._engine_dead:
            self._leave_engine()
            raise

    def __del__(self) -> None:
        # Serve's way of saying that the replica has drained. The constructor may not have come this far.
        if health := getattr(self, "_health", None):
            health.close()
        if engine := getattr(self, "_engine", None):
            engine.shutdown()
