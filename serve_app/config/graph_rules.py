"""Which settings would take away the CUDA graphs of full decode batches, and why.

vLLM refuses none of them: it logs a line, or nothing, and every step of a full engine takes several times as
long.
The rules are those of vLLM 0.32 (`VllmConfig.__post_init__`, `SpeculativeConfig`). What depends on the
hardware, such as an attention backend without graphs, is seen when the engine is up: `graph_report`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.config.graph_sizes import DecodeShape, describe_coverage

_SIZES = "cudagraph_capture_sizes"
_LARGEST = "max_cudagraph_capture_size"
_INSTEAD = "it is derived; set engine.max_concurrent_requests instead"
_FAST_BOOT = "for an engine without graphs set engine.fast_boot"
# `CUDAGraphMode` by its names and numbers; with the first two, decode batches run in no full graph.
_MODES = {"0": "NONE", "1": "PIECEWISE", "2": "FULL"}
_FULL_MODES = ("FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE")
# -O0 and -O1 set one of those two where nothing else does (`OPTIMIZATION_LEVEL_TO_CONFIG`).
_LEVELS_WITHOUT = ("0", "1")

# Of `speculative_config`: set to anything but false or null, a step of a request is no longer 1 + k tokens,
# or the speculator runs without graphs.
_SPECULATION = {
    "enforce_eager": "the speculator would run without CUDA graphs; " + _FAST_BOOT,
    "parallel_drafting": "a step would have other tokens than one and the drafts of each request",
    "num_speculative_tokens_per_batch_size": "the tokens of a request would change with the batch, and the "
    "capture sizes are multiples of one number; set speculator.num_draft_tokens",
    "enable_adaptive_verification": "the tokens of a request would change from step to step, and the capture "
    "sizes are multiples of one number; set speculator.num_draft_tokens",
    "disable_padded_drafter_batch": "the speculator's batches would have requests of different lengths, "
    "which no CUDA graph is captured for",
    "max_model_len": "requests beyond it would have no drafts, and a batch with such a request has no CUDA "
    "graph; set engine.max_model_len",
}


def problems(
    overrides: Mapping[str, Any],
    shape: DecodeShape,
    has_graphs: bool,
) -> Iterator[str]:
    """Yields a line for each setting that breaks the chain from `max_concurrent_requests` to the graphs."""
    compilation = overrides.get("compilation_config") or {}
    speculation = overrides.get("speculative_config") or {}
    for prefix, values in (("", overrides), ("compilation_config.", compilation)):
        for name in (_SIZES, _LARGEST):
            if name in values:
                why = _coverage(values[name], shape)
                yield _line(prefix + name, values[name], why)
    for name, reason in _SPECULATION.items():
        if speculation.get(name) not in (None, False):
            why = f"{shape}: {reason}"
            yield _line(f"speculative_config.{name}", speculation[name], why)
    if overrides.get("diffusion_config") is not None:
        yield _line(
            "diffusion_config",
            overrides["diffusion_config"],
            f"a step must have {shape.tokens_per_request} tokens for each request",
        )
    scheduled = overrides.get("max_num_scheduled_tokens")
    needed = shape.max_decode_tokens
    if isinstance(scheduled, int) and scheduled < needed:
        yield _line("max_num_scheduled_tokens", scheduled, f"must be at least {needed}: {shape}")
    if "worker_extension_cls" in overrides:
        yield _line(
            "worker_extension_cls",
            overrides["worker_extension_cls"],
            "it is derived: the check of the CUDA graphs is in it",
        )
    if has_graphs and (found := _without_graphs(overrides, compilation)):
        yield f"{found}: decode batches ({shape}) would run without full CUDA graphs; {_FAST_BOOT}"


def _coverage(value: Any, shape: DecodeShape) -> str:
    sizes = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return _INSTEAD
    return f"{_INSTEAD}: {describe_coverage(shape, sizes)}"


def _without_graphs(overrides: Mapping[str, Any], compilation: Mapping[str, Any]) -> str | None:
    """Returns what turns graphs off, with its value, if anything does.

    Without vLLM's own compilation there are no piecewise graphs, and the full ones of decode batches stay
    (`VllmConfig._normalize_piecewise_cudagraph_mode`).
    """
    level = str(overrides.get("optimization_level", 2)).upper().removeprefix("-").removeprefix("O")
    graphs = compilation.get("cudagraph_mode")
    if graphs is None:
        is_off, found = level in _LEVELS_WITHOUT, f"optimization_level: {overrides.get('optimization_level')}"
    else:
        graphs = _MODES.get(str(graphs), str(graphs).upper())
        is_off, found = graphs not in _FULL_MODES, f"compilation_config.cudagraph_mode: {graphs}"
    return f"engine.engine_overrides.{found}" if is_off else None


def _line(name: str, value: Any, why: str) -> str:
    return f"engine.engine_overrides.{name}: {value!r}: {why}"
