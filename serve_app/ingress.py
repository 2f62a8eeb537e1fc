"""The ingress: the HTTP API, on CPU cores, in front of the engine replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from serve_app import readiness, sources, vocabulary
from serve_app.body_limit import BodyLimit
from serve_app.config import AppConfig
from serve_app.engine_arguments import engine_arguments
from serve_app.errors import EngineLostError, EngineUnavailableError, OverloadedError, error_body
from serve_app.messages import GenerateRequest

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger("ray.serve")


class Ingress:
    """vLLM's serving handlers over a remote engine. Every request is one streaming call on the engine handle."""

    _app: FastAPI

    async def __init__(self, config: AppConfig, engine: DeploymentHandle) -> None:
        vocabulary.install()
        self._deployment = engine.app_name, engine.deployment_name
        self._stream = engine.options(stream=True).generate
        model_path = await asyncio.to_thread(
            sources.resolve, config.model.source, config.model.revision, weights=False
        )
        from serve_app.vllm_adapter import RemoteLLM, build_api

        llm = RemoteLLM(engine_arguments(config, model_path, None), self._generate, self._check_ready)
        self._app = await build_api(llm, config.model.id, config.model.served_names)
        self._app.add_api_route("/health", self._health, include_in_schema=True)
        self._app.add_middleware(BodyLimit, max_bytes=config.ingress.max_body_bytes)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    def _check_ready(self) -> int:
        """Returns the number of engine replicas that are ready, or raises `EngineUnavailableError`."""
        if num_ready := readiness.num_ready_replicas(*self._deployment):
            return num_ready
        raise EngineUnavailableError(
            "no engine replica is ready: they are starting, which takes minutes on a cold machine, or have "
            "failed, which `serve status` explains"
        )

    async def _health(self) -> JSONResponse:
        """200 when at least one engine replica is ready to generate, 503 with the reason otherwise."""
        try:
            return JSONResponse({"status": "ready", "ready_engines": self._check_ready()})
        except EngineUnavailableError as error:
            return JSONResponse(error_body(str(error), error.status), error.status)

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[list[Any]]:
        """Yields an engine replica's outputs for `request`. Closing the generator cancels the call."""
        from serve_app.vllm_adapter import VLLMClientError

        response = self._stream.remote(request)
        try:
            async for outputs in response:
                yield outputs
        except RayActorError as error:
            logger.error("request %s lost its engine replica: %s", request.request_id, error)
            raise EngineLostError(
                "the engine replica that was generating this answer has died; the request can be sent again"
            ) from error
        except BackPressureError as error:
            raise OverloadedError("all engine replicas are busy and the queue is full") from error
        except RayTaskError as error:
            if isinstance(error.cause, VLLMClientError):
                raise error.cause from None
            raise
        finally:
            response.cancel()
