from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve_app.admission.rules import admission_rules
from serve_app.config import AppConfig, read_config
from serve_app.config.sections import MAX_QUEUED_REQUESTS, MAX_REPLICAS
from serve_app.deployment_options import engine_options, gate_options, ingress_options

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def parse(engine: dict[str, Any] | None = None, **args: Any) -> AppConfig:
    return AppConfig.model_validate({"engine": {"max_concurrent_requests": 64} | (engine or {})} | args)


def test_engine_with_fixed_replicas() -> None:
    assert engine_options(parse({"min_replicas": 2, "max_replicas": 2}, drain_timeout_s=60)) == {
        "num_replicas": 2,
        "max_ongoing_requests": 64,
        "max_surge_percent": 0,
        "request_router_config": {"request_router_class": "serve_app.routing:EngineRouter"},
        "ray_actor_options": {"num_cpus": 2, "num_gpus": 1, "accelerator_type": "H100"},
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": 60,
        "graceful_shutdown_wait_loop_s": 1,
        "logging_config": {"enable_access_log": False},
    }


def test_engine_that_scales() -> None:
    options = engine_options(parse({"max_replicas": 8}))
    assert "num_replicas" not in options
    assert options["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 8,
        "target_ongoing_requests": 38,
        "upscale_delay_s": 5,
        "downscale_delay_s": 300,
        "downscaling_factor": 0.5,
    }


@pytest.mark.parametrize("max_replicas", [1, 2])
def test_engine_that_scales_to_zero(max_replicas: int) -> None:
    options = engine_options(parse({"min_replicas": 0, "max_replicas": max_replicas}))
    assert "num_replicas" not in options
    scaling = options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (0, max_replicas)
    assert "initial_replicas" not in scaling


def test_the_share_is_configured() -> None:
    options = engine_options(parse({"max_replicas": 2, "target_share": 1}))
    assert options["autoscaling_config"]["target_ongoing_requests"] == 64


def test_how_soon_it_scales_is_configured() -> None:
    options = engine_options(parse({"max_replicas": 2, "upscale_delay_s": 0, "downscale_delay_s": 5}))
    scaling = options["autoscaling_config"]
    assert (scaling["upscale_delay_s"], scaling["downscale_delay_s"]) == (0, 5)


@pytest.mark.parametrize(("requests", "target"), [(1, 1), (2, 1), (3, 1), (4, 2), (64, 38)])
def test_scaling_starts_below_the_limit_and_never_at_nothing(requests: int, target: int) -> None:
    options = engine_options(parse({"max_concurrent_requests": requests, "max_replicas": 2}))
    assert options["autoscaling_config"]["target_ongoing_requests"] == target


def test_an_engine_without_gpu_asks_for_none() -> None:
    actor = engine_options(parse({"num_gpus": 0, "num_cpus": 0.5}))["ray_actor_options"]
    assert actor == {"num_cpus": 0.5, "num_gpus": 0}


def test_any_gpu() -> None:
    assert "accelerator_type" not in engine_options(parse({"accelerator_type": None}))["ray_actor_options"]


def test_environment_reaches_the_engines_only() -> None:
    config = parse({"environment": {"A": "1"}})
    assert engine_options(config)["ray_actor_options"]["runtime_env"] == {"env_vars": {"A": "1"}}
    for options in (ingress_options(config), gate_options(config)):
        assert "runtime_env" not in options["ray_actor_options"]


def test_spare_engines_of_an_update_are_configured() -> None:
    assert engine_options(parse({"max_surge_percent": 50}))["max_surge_percent"] == 50


def test_new_replicas_of_the_api_and_the_gate_come_before_old_ones_go() -> None:
    for options in (ingress_options(parse()), gate_options(parse())):
        assert options["max_surge_percent"] == 100


def test_one_gate() -> None:
    options = gate_options(parse({"max_replicas": 8}, ingress={"replicas": 4}, drain_timeout_s=60))
    assert options == {
        "num_replicas": 1,
        "max_surge_percent": 100,
        "ray_actor_options": {
            "num_cpus": 0.1,
            "label_selector": {"ray.io/accelerator-type": "!H100"},
            "fallback_strategy": [{"label_selector": {}}],
        },
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": 60,
        "graceful_shutdown_wait_loop_s": 1,
        "logging_config": {"enable_access_log": False},
    }


def test_an_ingress_takes_a_node_with_a_gpu_only_where_there_is_no_other() -> None:
    """Ray tries the selector first, then the fallback; a CPU service has no GPU nodes to keep free."""
    assert ingress_options(parse())["ray_actor_options"] == {
        "num_cpus": 1,
        "label_selector": {"ray.io/accelerator-type": "!H100"},
        "fallback_strategy": [{"label_selector": {}}],
    }
    for engine in ({"num_gpus": 0}, {"accelerator_type": None}):
        assert ingress_options(parse(engine))["ray_actor_options"] == {"num_cpus": 1}


@pytest.mark.parametrize(("max_replicas", "limit"), [(1, 1000), (3, 1000), (4, 1024), (8, 2048)])
def test_one_ingress_replica_can_hold_more_than_all_engines(max_replicas: int, limit: int) -> None:
    config = parse({"max_replicas": max_replicas}, ingress={"replicas": 2})
    options = ingress_options(config)
    assert options["num_replicas"] == 2
    assert options["max_ongoing_requests"] == limit
    assert limit >= 4 * max_replicas * 64 or limit == 1000


@given(
    max_replicas=st.integers(1, MAX_REPLICAS),
    concurrent=st.integers(1, 1024),
    queued=st.none() | st.integers(0, MAX_QUEUED_REQUESTS),
)
def test_one_ingress_replica_can_hold_all_that_run_or_wait(
    max_replicas: int, concurrent: int, queued: int | None
) -> None:
    config = parse(
        {"max_replicas": max_replicas, "max_concurrent_requests": concurrent, "max_num_batched_tokens": 8192},
        admission={"max_queued_requests": queued},
    )
    limit = ingress_options(config)["max_ongoing_requests"]
    assert limit >= max_replicas * concurrent + admission_rules(config).max_queued
    assert limit < 2**31  # as Serve stores it


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_serve_accepts_them(path: Path) -> None:
    # Ray warns when it is imported, which would be an error in an ordinary import here.
    serve = pytest.importorskip("ray.serve")
    schema = pytest.importorskip("ray.serve.schema")
    deployment = serve.deployment(type("Shell", (), {}))
    config = read_config(path)
    for options in (engine_options(config), gate_options(config), ingress_options(config)):
        accepted = deployment.options(**options)
        if "max_ongoing_requests" in options:
            assert accepted.max_ongoing_requests == options["max_ongoing_requests"]
        assert accepted._deployment_config.max_surge_percent == options["max_surge_percent"]
        schema.DeploymentSchema(name="a", **options)


def test_local_fits_two_cores() -> None:
    """Two engines, the gate and one ingress, with room for what else asks for a share."""
    [path] = [path for path in CONFIGS if path.name == "local.yaml"]
    config = read_config(path)
    engines = config.engine.max_replicas * config.engine.num_cpus
    gate = gate_options(config)["ray_actor_options"]["num_cpus"]
    assert engines + gate + config.ingress.replicas * config.ingress.num_cpus <= 1.5
    assert config.engine.max_replicas == 2


def test_a_replica_drains_for_as_long_as_its_longest_answer_takes() -> None:
    longest = {"max_model_len": 3650, "min_tokens_per_second": 36.5}
    assert engine_options(parse(longest))["graceful_shutdown_timeout_s"] == 100
    timed = {"max_model_len": 3650, "num_gpus": 0, "timed": {"steps_per_second": 50, "tokens_per_step": 2}}
    assert engine_options(parse(timed))["graceful_shutdown_timeout_s"] == 37
    assert engine_options(parse(longest, drain_timeout_s=7))["graceful_shutdown_timeout_s"] == 7
