from typing import Any

import pytest

from serve_app.config import AppConfig
from serve_app.config.overrides import DERIVED, MERGED
from serve_app.engine_arguments import engine_arguments

SPECULATOR = {"source": "hf:a/b", "num_draft_tokens": 3}


def parse(engine: dict[str, Any] | None = None, **args: Any) -> AppConfig:
    return AppConfig.model_validate({"engine": {"max_concurrent_requests": 64} | (engine or {})} | args)


def test_a_gpu_engine() -> None:
    config = parse(speculator=SPECULATOR, model={"served_names": ["a", "b"]})
    assert engine_arguments(config, "/model", "/speculator") == {
        "model": "/model",
        "served_model_name": ["a", "b"],
        "max_model_len": 32768,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 8192,
        "kv_cache_dtype": "fp8",
        "gpu_memory_utilization": 0.9,
        "reasoning_parser": "openai_gptoss",
        "structured_outputs_config": {"backend": "xgrammar"},
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "generation_config": "auto",
        "seed": 0,
        "disable_log_stats": False,
        "speculative_config": {"method": "eagle3", "model": "/speculator", "num_speculative_tokens": 3},
        "compilation_config": {
            "cudagraph_capture_sizes": [
                *(4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64),
                *(80, 96, 112, 128, 160, 192, 224, 256),
            ]
        },
    }


def test_without_speculator() -> None:
    arguments = engine_arguments(parse(), "/model", None)
    assert "speculative_config" not in arguments
    assert arguments["compilation_config"]["cudagraph_capture_sizes"][-1] == 64


@pytest.mark.parametrize("engine", [{"fast_boot": True}, {"num_gpus": 0}, {"num_gpus": 0, "fast_boot": True}])
def test_eager_mode_has_no_graphs(engine: dict[str, Any]) -> None:
    arguments = engine_arguments(parse(engine), "/model", None)
    assert arguments["enforce_eager"] is True
    assert "compilation_config" not in arguments


def test_revisions_belong_to_hub_names() -> None:
    config = parse(model={"revision": "r1"}, speculator=SPECULATOR | {"revision": "r2"})
    arguments = engine_arguments(config, "openai/gpt-oss-20b", "a/b")
    assert arguments["revision"] == arguments["tokenizer_revision"] == "r1"
    assert arguments["speculative_config"]["revision"] == "r2"
    arguments = engine_arguments(config, "/model", "/speculator")
    assert "revision" not in arguments
    assert "tokenizer_revision" not in arguments
    assert "revision" not in arguments["speculative_config"]


def test_overrides_are_laid_on_top() -> None:
    overrides = {
        "max_logprobs": 5,
        "enable_prefix_caching": False,
        "compilation_config": {"pass_config": {"fuse_norm_quant": True}},
        "speculative_config": {"rejection_sample_method": "synthetic"},
    }
    arguments = engine_arguments(
        parse({"engine_overrides": overrides}, speculator=SPECULATOR), "/model", "/spec"
    )
    assert arguments["max_logprobs"] == 5
    assert arguments["enable_prefix_caching"] is False
    assert arguments["compilation_config"]["pass_config"] == {"fuse_norm_quant": True}
    assert arguments["compilation_config"]["cudagraph_capture_sizes"][-1] == 256
    assert arguments["speculative_config"]["num_speculative_tokens"] == 3
    assert arguments["speculative_config"]["rejection_sample_method"] == "synthetic"


def test_calls_share_nothing() -> None:
    config = parse({"engine_overrides": {"compilation_config": {"mode": 3}}})
    engine_arguments(config, "/model", None)["compilation_config"]["mode"] = 0
    assert config.engine.engine_overrides == {"compilation_config": {"mode": 3}}


@pytest.mark.filterwarnings("ignore")  # vLLM's
def test_names_are_vllms() -> None:
    pytest.importorskip("vllm")
    from serve_app.vllm_adapter import argument_names

    vllm_names = argument_names()
    config = parse(speculator=SPECULATOR | {"revision": "r"}, model={"revision": "r"})
    for engine in ({}, {"fast_boot": True}):
        config = parse(engine, speculator=SPECULATOR, model={"revision": "r"})
        assert set(engine_arguments(config, "a/b", "c/d")) <= vllm_names
    assert {name.split(".")[0] for name in DERIVED} | set(MERGED) <= vllm_names
