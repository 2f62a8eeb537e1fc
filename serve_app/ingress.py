"""The ingress: the HTTP API, on CPU cores, in front of the engine replicas."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.util import get_node_ip_address

from serve_app import api, readiness, sources, vocabulary
from serve_app.config import AppConfig
from serve_app.engine_arguments import engine_arguments
from serve_app.errors import EngineLostError, EngineUnavailableError, OverloadedError, ServiceError
from serve_app.frame_sockets import FrameReceiver
from serve_app.messages import GenerateRequest

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger("ray.serve")


class Ingress:
    """vLLM's handlers over remote engines. A sequence is one call on the handle; tokens come in frames."""

    _app: FastAPI

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: AppConfig, engine: DeploymentHandle[Any]
    ) -> None:
        self._deployment = engine.app_name, engine.deployment_name
        self._call = engine.generate
        # Kept for as long as the replica lives: what it uses is not evicted from the node.
        self._model = await asyncio.to_thread(
            sources.resolve, config.model.source, config.model.revision, config.staging, weights=False
        )
        await asyncio.to_thread(vocabulary.install, self._model.path)
        from serve_app.vllm_adapter import RemoteLLM, attach_api, freeze_gc_heap

        llm = RemoteLLM(
            engine_arguments(config, self._model.path, None),
            self._generate,
            FrameReceiver(get_node_ip_address()),  # type: ignore[no-untyped-call]
            self._num_ready_engines,
            config.ingress.max_unread_tokens,
            config.ingress.max_chunks_per_second,
        )
        self._app = api.new_app(
            config.ingress.max_body_bytes, config.engine.max_model_len, self._num_ready_engines
        )
        await attach_api(self._app, llm, config.model.id, config.model.served_names)
        # What vLLM's modules made stays for ever: collections that look through it hold up all streams.
        freeze_gc_heap()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    def _num_ready_engines(self) -> int:
        """At least 1; raises `EngineUnavailableError` when there is none."""
        if num_ready := readiness.num_ready_replicas(*self._deployment):
            return num_ready
        raise EngineUnavailableError(
            "no engine replica is ready: they are starting, which takes minutes on a cold machine, or have "
            "failed, which `serve status` explains"
        )

    async def _generate(self, request: GenerateRequest) -> int:
        """Has an engine replica send its tokens, and returns their number. Cancelling the task cancels it."""
        from serve_app.vllm_adapter import VLLMClientError

        response = cast("DeploymentResponse[int]", self._call.remote(request))
        try:
            return await response
        except RayActorError as error:
            logger.error("request %s lost its engine replica: %s", request.request_id, error)
            raise EngineLostError(
                "the engine replica that was generating this answer has died; the request can be sent again"
            ) from error
        except BackPressureError as error:
            raise OverloadedError("all engine replicas are busy and the queue is full") from error
        except RayTaskError as error:
            if isinstance(error.cause, VLLMClientError | ServiceError):
                raise error.cause from None
            raise
        finally:
            response.cancel()  # type: ignore[no-untyped-call]
