"""The one place that spells vLLM's options. Names are those of `vllm.AsyncEngineArgs` 0.32."""

from __future__ import annotations

from typing import Any

from serve_app.config import AppConfig
from serve_app.config.graph_sizes import capture_sizes
from serve_app.config.overrides import merged


def engine_arguments(config: AppConfig, model_path: str, speculator_path: str | None) -> dict[str, Any]:
    """Returns keyword arguments for `vllm.AsyncEngineArgs`, plain data only.

    `model_path` and `speculator_path` are what `config`'s sources were resolved to: a folder on this node, or
    a hub name (ORG/NAME), to which the config's revision then belongs. `engine_overrides` are laid on top;
    that their names are vLLM's is for `check_overrides` to say.
    """
    engine = config.engine
    arguments: dict[str, Any] = {
        "model": model_path,
        "served_model_name": list(config.model.served_names),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_concurrent_requests,
        # Always given: vLLM's default depends on what runs it, and an engine without its server gets 2,048.
        "max_num_batched_tokens": engine.batched_tokens,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        # Harmony's reasoning ends where the final channel starts; structured output waits for that.
        "reasoning_parser": "openai_gptoss",
        # The one that ingresses check grammars with; `auto` goes on with another where one fails.
        "structured_outputs_config": {"backend": "xgrammar"},
        "enable_prefix_caching": True,
        # Serving must not run code from a model repository.
        "trust_remote_code": False,
        # The stop ids, 200012 (<|call|>) among them, come from the checkpoint's generation_config.json.
        "generation_config": "auto",
        # Equal on all replicas: a greedy request that is continued on another one goes on alike.
        "seed": 0,
        # The log shows throughput, KV cache use and acceptance every ten seconds.
        "disable_log_stats": False,
        # `async_scheduling` is left to vLLM: it turns it on where it can, with EAGLE3 too, and off on CPUs.
    }
    if engine.load_format == "runai_streamer":
        # `model_path` then holds config and tokenizer; the weights never touch the node's disk.
        arguments |= {"load_format": engine.load_format, "model_weights": str(config.model.source)}
    if engine.kv_cache_memory_bytes is not None:
        arguments["kv_cache_memory_bytes"] = engine.kv_cache_memory_bytes
    if config.model.revision and _is_hub_name(model_path):
        arguments |= {"revision": config.model.revision, "tokenizer_revision": config.model.revision}
    if config.speculator and speculator_path:
        arguments["speculative_config"] = {
            "method": config.speculator.method,
            "model": speculator_path,
            "num_speculative_tokens": config.speculator.num_draft_tokens,
        }
        if config.speculator.revision and _is_hub_name(speculator_path):
            arguments["speculative_config"]["revision"] = config.speculator.revision
    if engine.has_graphs:
        sizes = capture_sizes(config.decode_shape)
        arguments["compilation_config"] = {"cudagraph_capture_sizes": sizes}
    else:
        arguments["enforce_eager"] = True
    return merged(arguments, engine.engine_overrides)


def _is_hub_name(path: str) -> bool:
    return not path.startswith(("/", "~", "."))
