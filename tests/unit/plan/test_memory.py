import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppConfig
from serve_app.plan.architectures import (
    GPT_OSS_20B,
    GPT_OSS_120B,
    GPT_OSS_EAGLE3,
    Architecture,
    from_config_json,
    speculator_from_config_json,
)
from serve_app.plan.memory import GIB_BYTES, MemoryPlan, plan_memory

H100_BYTES = int(79.1 * GIB_BYTES)
DEMO_CONFIG = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "sliding_window": 128,
    "vocab_size": 201088,
}
CPU_ENGINE = {"num_gpus": 0, "max_model_len": 4096, "max_concurrent_requests": 16}
DEMO_SPECULATOR = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_hidden_layers": 1,
}


def parse(has_speculator: bool = True, **engine: Any) -> AppConfig:
    speculator = {"source": "hf:a/b", "num_draft_tokens": 3} if has_speculator else None
    return AppConfig.model_validate(
        {"engine": {"max_concurrent_requests": 64} | engine, "speculator": speculator}
    )


def plan(model: Architecture, has_speculator: bool = True, gib: float = 79.1, **engine: Any) -> MemoryPlan:
    speculator = GPT_OSS_EAGLE3 if has_speculator else None
    return plan_memory(model, speculator, parse(has_speculator, **engine), int(gib * GIB_BYTES))


@pytest.mark.parametrize(
    ("model", "num_bytes"), [(GPT_OSS_20B, 13_761_264_768), (GPT_OSS_120B, 65_248_815_744)]
)
def test_checkpoint_sizes_are_those_of_the_published_models(model: Architecture, num_bytes: int) -> None:
    """To the byte: `metadata.total_size` in the `model.safetensors.index.json` of openai/gpt-oss-*."""
    assert model.checkpoint_bytes == num_bytes


def test_padded_weights_are_what_an_h100_was_seen_to_hold() -> None:
    """About 66 GiB for the 120B, to 0.2 GiB; its files have 60.8."""
    assert GPT_OSS_120B.gpu_weights_bytes / GIB_BYTES == pytest.approx(66, abs=0.2)
    assert GPT_OSS_20B.gpu_weights_bytes / GIB_BYTES == pytest.approx(13.7, abs=0.1)


def test_speculator_is_small() -> None:
    assert GPT_OSS_EAGLE3.weights_bytes / GIB_BYTES == pytest.approx(0.74, abs=0.01)


@pytest.mark.parametrize(
    ("model", "has_speculator", "batched_tokens", "block_bytes", "blocks"),
    [
        (GPT_OSS_20B, False, 8192, 196_608, 3081),
        (GPT_OSS_20B, True, 8192, 212_992, 3081),
        (GPT_OSS_120B, False, 1024, 294_912, 2185),
        (GPT_OSS_120B, True, 1024, 311_296, 2185),
    ],
)
def test_kv_blocks_are_counted_as_vllm_counts_them(
    model: Architecture, has_speculator: bool, batched_tokens: int, block_bytes: int, blocks: int
) -> None:
    """The figures are those of vLLM 0.32's own functions, called with these layers.

    `_get_kv_cache_groups_uniform_page_size`, `_get_kv_cache_bytes_per_block`,
    `get_max_concurrency_for_kv_cache_config`.
    """
    result = plan(model, has_speculator, max_num_batched_tokens=batched_tokens)
    assert result.kv_bytes_per_request == block_bytes * blocks
    assert result.kv_bytes_per_token == block_bytes // 16
    assert result.requests_at_max_model_len == result.kv_cache_bytes // block_bytes / blocks
    assert result.kv_tokens == int(result.requests_at_max_model_len * 32768)


def test_the_parts_add_up() -> None:
    result = plan(GPT_OSS_20B)
    parts = result.weights_bytes + result.speculator_bytes + result.runtime_bytes
    parts += result.graphs_bytes + result.activations_bytes + result.kv_cache_bytes
    assert parts == pytest.approx(result.budget_bytes, abs=8)
    assert result.budget_bytes == int(0.9 * result.total_bytes)
    assert result.problems == ()


def test_fp8_holds_twice_as_much() -> None:
    fp8, bf16 = plan(GPT_OSS_20B), plan(GPT_OSS_20B, kv_cache_dtype="auto")
    assert bf16.kv_bytes_per_token == 2 * fp8.kv_bytes_per_token
    assert bf16.requests_at_max_model_len == pytest.approx(fp8.requests_at_max_model_len / 2, rel=0.001)


def test_graphs() -> None:
    small, large = plan(GPT_OSS_20B, max_concurrent_requests=16), plan(GPT_OSS_20B)
    assert (large.graphs_bytes - small.graphs_bytes) / GIB_BYTES == pytest.approx(0.3)
    assert plan(GPT_OSS_20B, fast_boot=True).graphs_bytes == 0


def test_fewer_requests_than_asked_for_is_a_warning() -> None:
    [problem] = plan(GPT_OSS_120B, gpu_memory_utilization=0.95, max_num_batched_tokens=1024).problems
    assert problem.level == "warning"
    assert "requests of 32,768 tokens, fewer than max_concurrent_requests (64)" in problem.text


def test_less_than_one_request_is_an_error() -> None:
    [problem] = plan(GPT_OSS_120B, gib=70.7, gpu_memory_utilization=0.98, max_num_batched_tokens=256).problems
    assert problem.level == "error"
    assert problem.text == "the KV cache holds less than one request of 32,768 tokens"


def test_weights_that_do_not_fit_are_an_error() -> None:
    result = plan(GPT_OSS_120B, gib=40)
    assert (result.kv_cache_bytes, result.requests_at_max_model_len) == (0, 0)
    [problem] = result.problems
    assert problem.level == "error"
    assert problem.text.startswith("weights and working memory do not fit: 34")


def write(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder(tmp_path: Path) -> None:
    model = from_config_json(write(tmp_path, DEMO_CONFIG))
    assert model == from_config_json(tmp_path / "config.json")
    assert (model.num_layers, model.num_sliding_layers, model.has_mxfp4_experts) == (4, 2, False)
    # 2 x 201,088 x 128 bfloat16 embeddings are 98 MiB of it; unquantised experts are not padded.
    assert model.checkpoint_bytes / 2**20 == pytest.approx(102, abs=1)
    assert model.gpu_weights_bytes == model.checkpoint_bytes


def test_mxfp4_is_told_from_the_config(tmp_path: Path) -> None:
    quantized = DEMO_CONFIG | {"quantization_config": {"quant_method": "mxfp4"}}
    assert from_config_json(write(tmp_path, quantized)).has_mxfp4_experts


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_speculators_folder(tmp_path: Path, is_nested: bool) -> None:
    layer = {"transformer_layer_config": DEMO_SPECULATOR} if is_nested else DEMO_SPECULATOR
    speculator = speculator_from_config_json(write(tmp_path, layer | {"draft_vocab_size": 2048}))
    assert (speculator.hidden_size, speculator.draft_vocabulary) == (128, 2048)


@pytest.mark.parametrize("config", [{}, [], {"num_hidden_layers": 3}])
def test_other_folders_are_refused(tmp_path: Path, config: Any) -> None:
    folder = write(tmp_path, config)
    with pytest.raises(ValueError, match=r"config\.json"):
        from_config_json(folder)
    with pytest.raises(ValueError, match=r"config\.json"):
        speculator_from_config_json(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        from_config_json(tmp_path / "none")


def test_a_cpu_engine_has_a_kv_cache_of_fixed_size(tmp_path: Path) -> None:
    model = from_config_json(write(tmp_path, DEMO_CONFIG))
    engine = CPU_ENGINE | {"kv_cache_memory_bytes": GIB_BYTES}
    config = parse(False, **engine)
    result = plan_memory(model, None, config, 16 * GIB_BYTES)
    assert result.kv_cache_bytes == GIB_BYTES
    assert result.graphs_bytes == 0
    # Blocks of 128 tokens, two layers in each: 32 blocks for the request, 17 and one more for the window.
    assert result.kv_bytes_per_request == 2 * 128 * 2 * 64 * (32 + 18)
    assert result.problems == ()
    speculator = speculator_from_config_json(write(tmp_path, DEMO_SPECULATOR | {"draft_vocab_size": 2048}))
    # "Maximum concurrency for 4,096 tokens per request: 399.61x", said vLLM 0.29 on CPUs of this shape: three
    # full-attention layers to two others are two groups of two layers, one of them half empty.
    speculated = plan_memory(model, speculator, parse(True, **engine), 16 * GIB_BYTES)
    assert speculated.requests_at_max_model_len == pytest.approx(399.61, abs=0.005)
    assert speculated.kv_tokens == 1_636_801
    [problem] = plan_memory(model, None, config, 2 * GIB_BYTES).problems
    assert problem.level == "error"
