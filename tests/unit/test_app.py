"""Building needs no running Ray: only Serve's controller starts what is built."""

import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serve_app.config import AppConfig, ConfigError, read_config
from serve_app.deployment_options import engine_options, gate_options, ingress_options
from serve_app.harmony.installation import HarmonyInstallationError
from serve_app.private_names import PrivateNameError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def app() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns when it is imported
        return importlib.import_module("serve_app.app")


@pytest.fixture(scope="module")
def deployments(app: ModuleType) -> Any:
    """Returns what `build` bound, as Serve reads it when it deploys: the deployments by name."""
    from ray.serve._private.build_app import build_app

    handle: Any = object()

    def by_name(config: AppConfig) -> dict[str, Any]:
        built = build_app(app.build(config), name="app", make_deployment_handle=lambda *_: handle)
        assert built.ingress_deployment_name == "Ingress"
        return {deployment.name: deployment for deployment in built.deployments}

    return by_name


def test_the_argument_is_annotated_with_the_class(app: ModuleType) -> None:
    """Serve takes `args` through the annotation only if it is a class, and passes a plain dict otherwise."""
    assert app.build.__annotations__["args"] is AppConfig


def test_serve_finds_the_class(app: ModuleType) -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.deployment import Application

    built = call_user_app_builder_with_args_if_necessary(
        app.build, {"engine": {"max_concurrent_requests": 4}}
    )
    assert isinstance(built, Application)
    with pytest.raises(ConfigError, match="engine"):
        call_user_app_builder_with_args_if_necessary(app.build, {"engin": {}})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_what_is_built(path: Path, deployments: Any) -> None:
    config = read_config(path)
    found = deployments(config)
    engine = "TimedEngine" if config.engine.timed else "Engine"
    assert list(found) == [engine, "Gate", "Ingress"]  # each needs the handles of those before it
    expected = {
        engine: engine_options(config),
        "Gate": gate_options(config),
        "Ingress": ingress_options(config),
    }
    for name, options in expected.items():
        deployment = found[name]
        if "max_ongoing_requests" in options:
            assert deployment.max_ongoing_requests == options["max_ongoing_requests"]
        assert deployment._deployment_config.max_surge_percent == options["max_surge_percent"]
        actor = deployment.ray_actor_options
        assert {key: actor[key] for key in options["ray_actor_options"]} == options["ray_actor_options"]
    scaling = found[engine]._deployment_config.autoscaling_config
    assert (scaling.max_replicas if scaling else found[engine].num_replicas) == config.engine.max_replicas


def test_the_config_reaches_all_three(deployments: Any) -> None:
    config = AppConfig.model_validate({"engine": {"max_concurrent_requests": 4}})
    found = deployments(config)
    assert found["Engine"].init_args == (config,)
    [first, _engine] = found["Gate"].init_args
    assert first == config
    [first, _engine, _gate] = found["Ingress"].init_args
    assert first == config


def test_a_second_distribution_of_harmony_is_said(
    app: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "oss_harmony-0.0.11.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: oss-harmony\nVersion: 0.0.11\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HarmonyInstallationError, match=r"oss-harmony 0\.0\.11 are both installed"):
        app.build(config_with())


def test_a_ray_without_what_the_router_needs_is_refused(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve imports the router in each ingress, where an error would be one of many in a log."""
    from ray.serve._private.request_router.request_router import RequestRouter

    monkeypatch.delattr(RequestRouter, "_choose_replica_for_request")
    with pytest.raises(PrivateNameError, match="requests do not go where the gate says"):
        app.build(config_with())


def test_ray_is_not_started(app: ModuleType) -> None:
    import ray

    app.build(AppConfig.model_validate({"engine": {"max_concurrent_requests": 4}}))
    assert not ray.is_initialized()


def config_with(**overrides: Any) -> AppConfig:
    return AppConfig.model_validate({"engine": {"max_concurrent_requests": 4, "engine_overrides": overrides}})


def test_building_without_overrides_needs_no_vllm(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serve_app.vllm_adapter", None)  # importing it fails
    app.build(config_with())
    with pytest.raises(ImportError):
        app.build(config_with(max_logprobs=5))


@pytest.mark.filterwarnings("ignore")  # vLLM is imported
def test_overrides_must_be_vllms(app: ModuleType) -> None:
    app.build(config_with(max_logprobs=5))
    with pytest.raises(ConfigError) as caught:
        app.build(config_with(max_logprobs=5, max_logprob=6, zzz=None))
    first, second = str(caught.value).splitlines()
    assert first.startswith(
        "engine.engine_overrides.max_logprob: 6: vLLM has no engine argument of this name"
    )
    assert "did you mean max_logprobs?" in first
    assert second.startswith("engine.engine_overrides.zzz: None: vLLM has no engine argument of this name")


@pytest.mark.filterwarnings("ignore")  # vLLM is imported
@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"max_logprobs": "5"}, "max_logprobs: '5': must not be text"),
        ({"max_logprobs": None}, "max_logprobs: None: "),
        ({"dtype": "bfloat17"}, "dtype: 'bfloat17': "),
        ({"structured_outputs_config": {"any": 1}}, "structured_outputs_config.any: 1: "),
        ({"compilation_config": {"mod": 3}}, "compilation_config.mod: 3: "),
        ({"kv_transfer_config": {"kv_role": 1}}, "kv_transfer_config.kv_role: 1: "),
        ({"speculative_config": {"rejection": 1}}, "speculative_config.rejection: 1: "),
    ],
)
def test_overrides_must_be_of_vllms_types(app: ModuleType, overrides: dict[str, Any], key: str) -> None:
    args = {"engine": {"max_concurrent_requests": 4, "engine_overrides": overrides}}
    config = AppConfig.model_validate(args | {"speculator": {"source": "hf:a/b"}})
    with pytest.raises(ConfigError) as caught:
        app.build(config)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"engine.engine_overrides.{key}")


@pytest.mark.filterwarnings("ignore")  # vLLM is imported
def test_overrides_are_judged_with_what_is_derived(app: ModuleType) -> None:
    """vLLM takes this one only beside its backend."""
    app.build(config_with(structured_outputs_config={"disable_any_whitespace": True}))


def test_haproxy_must_not_cut_the_drain(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    monkeypatch.delenv("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", raising=False)
    with pytest.raises(ConfigError, match="drain_timeout_s: "):
        app.build(config_with())
