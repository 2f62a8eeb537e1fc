"""Ray Serve LLM's own OpenAI ingress and server, with an engine that yields ready-made chunks at set times.

The chunks cost the engine nothing but a string, where vLLM's handler, which in Ray Serve LLM works in the
engine replica, takes tens of microseconds: the comparison is in Ray's favour.
"""

from __future__ import annotations

from typing import Any

from ray.llm._internal.serve.core.engine.protocol import LLMEngine
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.serve import Application
from ray.serve.llm import LLMConfig, build_openai_app

from benchmarks.serving import chunks, stub


class ChunkEngine(LLMEngine):
    """An engine for `LLMServer`, over the timed engine."""

    def __init__(self, llm_config: LLMConfig) -> None:
        self._options = dict(llm_config.experimental_configs["timed"])

    async def start(self) -> None:
        """Makes the engine."""
        self._engine = stub.StreamingEngine.__new__(stub.StreamingEngine)
        await self._engine.__init__(stub.config(**self._options))  # type: ignore[misc]

    async def chat(self, request: Any, raw_request_info: Any = None) -> Any:
        """Yields the events of a streamed answer."""
        async for chunk in chunks.chat_chunks(self._engine, request.request_id, request.max_tokens):
            yield chunk

    completions = embeddings = transcriptions = chat

    async def check_health(self) -> None:
        """Always well."""

    def routing_stats(self) -> dict[str, Any]:
        """None."""
        return {}

    async def resolve_lora(self, lora_model: Any) -> None:
        """There are none."""

    async def reset_prefix_cache(self) -> None:
        """There is none."""


class ChunkServer(LLMServer):
    """Ray's server with that engine."""

    _default_engine_cls: Any = ChunkEngine


def build(args: dict[str, Any]) -> Application:
    """As `ray.serve.llm.build_openai_app`.

    `args`: `engines`, `ingresses`, `model_source`, `interval_ms` (Ray's batching of chunks; null for its
    default) and `timed`, as for `stub.config`.
    """
    experimental: dict[str, Any] = {"timed": args["timed"]}
    if args.get("interval_ms") is not None:
        experimental["stream_batching_interval_ms"] = args["interval_ms"]
    config = LLMConfig(
        model_loading_config={"model_id": "gpt-oss-demo", "model_source": args["model_source"]},
        server_cls=ChunkServer,
        experimental_configs=experimental,
        deployment_config={
            "num_replicas": args["engines"],
            "max_ongoing_requests": 1024,
            "ray_actor_options": {"num_cpus": 0.1},
        },
        placement_group_config={"bundles": [{"CPU": 0.1}]},
    )
    ingress = {
        "num_replicas": args["ingresses"],
        "max_ongoing_requests": 4096,
        "ray_actor_options": {"num_cpus": 0.1},
    }
    return build_openai_app({"llm_configs": [config], "ingress_deployment_config": ingress})
