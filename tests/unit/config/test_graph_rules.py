from typing import Any

import pytest

from serve_app.config import AppConfig, ConfigError

SPECULATOR = {"source": "hf:a/b", "num_draft_tokens": 3}
CHAIN = "64 requests x (1 + 3) tokens = 256 tokens"


def parse(overrides: dict[str, Any], **engine: Any) -> AppConfig:
    engine = {"max_concurrent_requests": 64, "engine_overrides": overrides} | engine
    return AppConfig.model_validate({"engine": engine, "speculator": SPECULATOR})


def problem(overrides: dict[str, Any], **engine: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(overrides, **engine)
    [line] = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"cudagraph_capture_sizes": [16, 32, 64]}, "cudagraph_capture_sizes: [16, 32, 64]"),
        ({"max_cudagraph_capture_size": 64}, "max_cudagraph_capture_size: 64"),
        (
            {"compilation_config": {"cudagraph_capture_sizes": [64]}},
            "compilation_config.cudagraph_capture_sizes: [64]",
        ),
        (
            {"compilation_config": {"max_cudagraph_capture_size": 64}},
            "compilation_config.max_cudagraph_capture_size: 64",
        ),
    ],
)
def test_capture_sizes_are_refused_with_the_arithmetic(overrides: dict[str, Any], name: str) -> None:
    assert problem(overrides) == (
        f"engine.engine_overrides.{name}: it is derived; set engine.max_concurrent_requests instead: "
        f"{CHAIN}: sizes up to 64 tokens hold batches of 16 requests"
    )


@pytest.mark.parametrize("value", [None, "many", ["a"], -1])
def test_capture_sizes_that_are_none_are_refused_too(value: Any) -> None:
    assert "set engine.max_concurrent_requests instead" in problem({"cudagraph_capture_sizes": value})


OFF = [
    ({"compilation_config": {"cudagraph_mode": "NONE"}}, "compilation_config.cudagraph_mode: NONE"),
    ({"compilation_config": {"cudagraph_mode": "piecewise"}}, "compilation_config.cudagraph_mode: PIECEWISE"),
    ({"compilation_config": {"cudagraph_mode": 0}}, "compilation_config.cudagraph_mode: NONE"),
    ({"optimization_level": 0}, "optimization_level: 0"),
    ({"optimization_level": "-O1"}, "optimization_level: -O1"),
]


@pytest.mark.parametrize(("overrides", "name"), OFF)
def test_what_turns_graphs_off_is_refused(overrides: dict[str, Any], name: str) -> None:
    line = problem(overrides)
    assert line.startswith(f"engine.engine_overrides.{name}: decode batches ({CHAIN}) would run without")
    assert "engine.fast_boot" in line


@pytest.mark.parametrize("engine", [{"fast_boot": True}, {"num_gpus": 0}])
@pytest.mark.parametrize("overrides", [overrides for overrides, _ in OFF])
def test_engines_without_graphs_may_have_it(overrides: dict[str, Any], engine: dict[str, Any]) -> None:
    parse(overrides, **engine)


@pytest.mark.parametrize(
    "overrides",
    [
        {"compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY"}},
        {"compilation_config": {"cudagraph_mode": "full", "mode": 0}},
        {"compilation_config": {"mode": 3}},
        {"compilation_config": {"mode": 0}},
        {"compilation_config": {"mode": "dynamo_trace_once"}},
        {"optimization_level": 3},
        {"optimization_level": 0, "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY"}},
        {"optimization_level": 0, "compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE"}},
        {"max_num_scheduled_tokens": 256},
        {"speculative_config": {"rejection_sample_method": "block", "parallel_drafting": False}},
    ],
)
def test_what_leaves_full_decode_graphs_is_allowed(overrides: dict[str, Any]) -> None:
    parse(overrides)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enforce_eager", True),
        ("parallel_drafting", True),
        ("num_speculative_tokens_per_batch_size", [[1, 16, 3], [17, 64, 1]]),
        ("enable_adaptive_verification", True),
        ("disable_padded_drafter_batch", True),
        ("max_model_len", 4096),
    ],
)
def test_what_changes_the_tokens_of_a_step_is_refused(name: str, value: Any) -> None:
    line = problem({"speculative_config": {name: value}})
    assert line.startswith(f"engine.engine_overrides.speculative_config.{name}: {value!r}: {CHAIN}: ")


def test_a_step_that_is_scheduled_too_small() -> None:
    line = problem({"max_num_scheduled_tokens": 255})
    assert line.endswith(f"max_num_scheduled_tokens: 255: must be at least 256: {CHAIN}")


def test_what_else_is_refused() -> None:
    assert "must have 4 tokens for each request" in problem({"diffusion_config": {"canvas_length": 8}})
    assert "the check of the CUDA graphs" in problem({"worker_extension_cls": "a.B"})


def test_every_problem_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"max_cudagraph_capture_size": 64, "optimization_level": 0})
    assert len(str(caught.value).splitlines()) == 2
