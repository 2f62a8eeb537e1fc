"""Memory of one engine replica: what the weights leave for the KV cache, and how many requests that holds.

vLLM's hybrid KV-cache manager (`vllm/v1/core/kv_cache_utils.py`) puts layers of one kind into groups of
equal size. All groups draw blocks from one pool, and a block is as wide as the widest group: gpt-oss-20b with
EAGLE3 has 12 sliding-window and 12 + 1 full-attention layers, so two groups, and every block has room for 13
layers. In the full-attention group a request holds blocks for all its tokens. In the sliding-window group it
holds the window and the tokens of the steps in flight, whose blocks are freed only once the step is done.

Weights and KV cache are counted; the constants below say what is estimated. The engine's own log lines
("Available KV cache memory", "GPU KV cache size") are the truth to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve_app.config import AppConfig
from serve_app.plan.architectures import BF16_BYTES, Architecture, SpeculatorArchitecture

GIB_BYTES = 1024**3

# vLLM's block sizes: its default on GPUs, and `CpuPlatform.check_and_update_config`.
GPU_BLOCK_TOKENS, CPU_BLOCK_TOKENS = 16, 128
# With asynchronous scheduling (vLLM's choice on GPUs, not on CPUs) two steps are in flight.
GPU_STEPS_IN_FLIGHT, CPU_STEPS_IN_FLIGHT = 2, 1

# Estimate: CUDA context, libraries, Triton and FlashAttention workspaces; in RAM the imports of one engine.
RUNTIME_BYTES = 1.0 * GIB_BYTES
# The sets with a largest size of 256 and of 64 tokens differed by 0.3 GiB (measured, 20B, H100). Estimated:
# that the rest of the cost is as much again, and that it grows evenly.
GRAPHS_BASE_BYTES = 0.3 * GIB_BYTES
GRAPHS_BYTES_PER_TOKEN = 0.3 * GIB_BYTES / (256 - 64)
# Estimate: tensors of a token's hidden size that live at once in a layer, next to those of its experts.
HIDDEN_TENSORS = 10
# Estimate: float32 copies of the logits during rejection sampling (logits, probabilities, sorted).
LOGITS_COPIES = 3


@dataclass(frozen=True)
class Problem:
    """`error`: the engine will not start. `warning`: it will, with less than the config asks for."""

    level: Literal["warning", "error"]
    text: str


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory of one engine replica, in bytes, and what fits."""

    name: str
    total_bytes: int
    budget_bytes: int
    weights_bytes: int
    speculator_bytes: int
    runtime_bytes: int
    graphs_bytes: int
    activations_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    """What each further token of a long request takes: its share of the full-attention blocks."""
    kv_bytes_per_request: int
    """At the maximum length, sliding windows included."""
    kv_tokens: int
    """As vLLM logs it: requests at the maximum length, times that length."""
    requests_at_max_model_len: float
    problems: tuple[Problem, ...]


def plan_memory(
    model: Architecture,
    speculator: SpeculatorArchitecture | None,
    config: AppConfig,
    total_bytes: int,
) -> MemoryPlan:
    """Returns where `total_bytes` (of GPU memory, or of RAM) go for one engine replica."""
    engine = config.engine
    on_gpu = bool(engine.num_gpus)
    decode_tokens = config.decode_shape.max_decode_tokens
    has_graphs = engine.has_graphs
    graphs = GRAPHS_BASE_BYTES + GRAPHS_BYTES_PER_TOKEN * decode_tokens if has_graphs else 0
    weights = model.gpu_weights_bytes if on_gpu else model.checkpoint_bytes
    speculator_bytes = speculator.weights_bytes if speculator else 0
    activations = _activations_bytes(model, engine.batched_tokens, decode_tokens)
    taken = weights + speculator_bytes + RUNTIME_BYTES + graphs + activations
    if engine.kv_cache_memory_bytes is None:
        budget = total_bytes * engine.gpu_memory_utilization
        spare = budget - taken
        kv_cache = int(max(0, spare))
    else:
        budget, kv_cache = float(total_bytes), engine.kv_cache_memory_bytes
        spare = budget - taken - kv_cache

    block_bytes, blocks_per_request, full_groups = _blocks(model, speculator, config)
    block_tokens = GPU_BLOCK_TOKENS if on_gpu else CPU_BLOCK_TOKENS
    requests = kv_cache // block_bytes / blocks_per_request
    return MemoryPlan(
        name=model.name,
        total_bytes=total_bytes,
        budget_bytes=int(budget),
        weights_bytes=weights,
        speculator_bytes=speculator_bytes,
        runtime_bytes=int(RUNTIME_BYTES),
        graphs_bytes=int(graphs),
        activations_bytes=activations,
        kv_cache_bytes=kv_cache,
        kv_bytes_per_token=block_bytes * full_groups // block_tokens,
        kv_bytes_per_request=block_bytes * blocks_per_request,
        kv_tokens=int(requests * engine.max_model_len),
        requests_at_max_model_len=requests,
        problems=_problems(config, requests, spare),
    )


def _activations_bytes(model: Architecture, batched_tokens: int, decode_tokens: int) -> int:
    experts = model.experts_per_token * (3 * model.intermediate_size + model.hidden_size)
    per_token = (experts + HIDDEN_TENSORS * model.hidden_size) * BF16_BYTES
    return int(batched_tokens * per_token + decode_tokens * model.vocabulary * 4 * LOGITS_COPIES)


def _blocks(
    model: Architecture, speculator: SpeculatorArchitecture | None, config: AppConfig
) -> tuple[int, int, int]:
    """Returns bytes of a block, blocks of a request at the maximum length, and groups of full attention."""
    engine = config.engine
    on_gpu = bool(engine.num_gpus)
    block_tokens = GPU_BLOCK_TOKENS if on_gpu else CPU_BLOCK_TOKENS
    full = model.num_layers - model.num_sliding_layers + (speculator.num_layers if speculator else 0)
    sliding = model.num_sliding_layers
    # The smaller kind sets the group size, unless padding it to the larger one wastes less (vLLM: under 1.5).
    few, many = sorted((full, sliding))
    group_layers = many if many < 1.5 * few or few == 0 else few
    value_bytes = 1 if engine.kv_cache_dtype.startswith("fp8") else int(BF16_BYTES)
    block_bytes = group_layers * block_tokens * 2 * model.num_kv_heads * model.head_dim * value_bytes

    steps = GPU_STEPS_IN_FLIGHT if on_gpu else CPU_STEPS_IN_FLIGHT
    window_tokens = min(model.sliding_window - 1 + steps * engine.batched_tokens, engine.max_model_len)
    full_groups = -(-full // group_layers)
    blocks = full_groups * -(-engine.max_model_len // block_tokens)
    # One more block, since a window need not start where a block does.
    blocks += -(-sliding // group_layers) * (-(-window_tokens // block_tokens) + 1)
    return block_bytes, blocks, full_groups


def _problems(config: AppConfig, requests: float, spare_bytes: float) -> tuple[Problem, ...]:
    wanted, length = config.engine.max_concurrent_requests, config.engine.max_model_len
    if spare_bytes <= 0:
        missing = -spare_bytes / GIB_BYTES
        return (Problem("error", f"weights and working memory do not fit: {missing:.1f} GiB are missing"),)
    if requests < 1:
        return (Problem("error", f"the KV cache holds less than one request of {length:,} tokens"),)
    if requests < wanted:
        return (
            Problem(
                "warning",
                f"the KV cache holds {requests:.1f} requests of {length:,} tokens, fewer than "
                f"max_concurrent_requests ({wanted}): when many are that long, vLLM preempts some and "
                "computes them again later",
            ),
        )
    return ()
