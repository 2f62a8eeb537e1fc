"""`engine_overrides`: which vLLM arguments a config may set by hand, and how they join the derived ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ONE_GPU = "engine.num_gpus and engine.max_replicas: one engine replica is one GPU"

# vLLM argument -> the config key that sets it. A dot leads into a mapping, the rest of which may be set.
# What bears on CUDA graphs is refused with the numbers: `graph_rules`.
DERIVED = {
    "model": "model.source",
    "revision": "model.revision",
    "served_model_name": "model.served_names",
    "max_num_seqs": "engine.max_concurrent_requests",
    "max_num_active_seqs": "engine.max_concurrent_requests",
    "max_model_len": "engine.max_model_len",
    "kv_cache_dtype": "engine.kv_cache_dtype",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "kv_cache_memory_bytes": "engine.kv_cache_memory_bytes",
    "max_num_batched_tokens": "engine.max_num_batched_tokens",
    "enforce_eager": "engine.fast_boot",
    "spec_method": "speculator.method",
    "spec_model": "speculator.source",
    "spec_tokens": "speculator.num_draft_tokens",
    "speculative_config.method": "speculator.method",
    "speculative_config.model": "speculator.source",
    "speculative_config.revision": "speculator.revision",
    "speculative_config.num_speculative_tokens": "speculator.num_draft_tokens",
    "tensor_parallel_size": _ONE_GPU,
    "pipeline_parallel_size": _ONE_GPU,
    "data_parallel_size": _ONE_GPU,
    "prefill_context_parallel_size": _ONE_GPU,
    "decode_context_parallel_size": _ONE_GPU,
}
# What the rest of the service is made for, and why: no key of the config sets it.
FIXED = {
    "structured_outputs_config.backend": "the ingresses check all grammars with xgrammar",
    "structured_outputs_config.reasoning_parser": "it is that of harmony",
    "reasoning_parser": "it is that of harmony",
    "generation_config": "the tokens that end an answer come from the checkpoint's own",
}
# Derived arguments that are mappings: an override adds to them.
MERGED = ("compilation_config", "speculative_config", "structured_outputs_config")


def refused(values: Mapping[str, Any]) -> list[str]:
    """Returns one sentence for each override that the config derives, or that cannot be another."""
    problems = []
    for name, value in values.items():
        if name in MERGED and not isinstance(value, Mapping):
            problems.append(f"{name} must be a mapping, which is laid over the derived one")
        paths = [name, *(f"{name}.{inner}" for inner in value)] if isinstance(value, Mapping) else [name]
        problems += [f"{path} is derived; set {DERIVED[path]} instead" for path in paths if path in DERIVED]
        problems += [f"{path} cannot be set: {FIXED[path]}" for path in paths if path in FIXED]
    return problems


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `extra` laid over it; mappings in both are merged at every depth."""
    result = dict(base)
    for name, value in extra.items():
        below = result.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[name] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result
