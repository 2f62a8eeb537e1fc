"""Random changes of the configs: what passes the check can be built, and of the rest come words."""

from __future__ import annotations

import copy
import importlib
import math
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Union, get_args, get_origin

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given
from pydantic import BaseModel

from serve_app.admission.policy import Admission
from serve_app.admission.rules import admission_rules
from serve_app.api.application import new_app
from serve_app.config import AppConfig, ConfigError
from serve_app.engine_arguments import engine_arguments
from serve_app.plan.contents import make_plan
from serve_app.plan.text import render
from serve_app.timed.engine import StepClock
from serve_app.warm_up import rounds
from tests.examples import examples

CONFIGS = Path(__file__).parents[2] / "configs"
ARGS = [
    yaml.safe_load((CONFIGS / name).read_text())["applications"][0]["args"]
    for name in ("prod.yaml", "timed.yaml")
]
DROPPED = object()
EXTREMES = [
    *(None, True, False, -1, 0, 1, 2, 7, 2**31 - 1, 2**31, 2**63, 10**30, -(10**30)),
    *(0.5, 1.0, 1e-300, 5e-324, 1e-5, 0.3, 1e6, 1e308, math.inf, -math.inf, math.nan),
    *("", " ", "x", "a b", "a\0b", "=", "1", "auto", "~", "/", "$X", "ü" * 300, "\U0001f600", "*"),
    *("s3://b/p", "hf:a/b", "file:/a", "file:", "s3://", "hf:a/b@c", "0123abcd"),
    *([], [""], [None], ["a", "a"], ["a"], ["*"], {}, {"": ""}, {"a": "b"}, {"a=": "b"}, {"a": 1}, {1: 1}),
]


def keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*path, name)
        union = get_origin(field.annotation) in (Union, types.UnionType)
        for kind in get_args(field.annotation) if union else (field.annotation,):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, (*path, name))


KEYS = [path for path in keys(AppConfig) if path[-1] != "engine_overrides"]  # for which vLLM is imported
VALUES = st.one_of(
    st.just(DROPPED), st.sampled_from(EXTREMES), st.integers(), st.floats(), st.text(max_size=20)
)


def put(args: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Sets the key, in a new section where there is none."""
    for name in path[:-1]:
        if not isinstance(args.get(name), dict):
            args[name] = {"source": "hf:a/b"} if name == "speculator" else {}
        args = args[name]
    if value is DROPPED:
        args.pop(path[-1], None)
    else:
        args[path[-1]] = value


@pytest.fixture(scope="module")
def app() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns when it is imported
        return importlib.import_module("serve_app.app")


def build(app: ModuleType, config: AppConfig) -> None:
    """All that a start makes of a config before it touches disk, network or a GPU."""
    from ray.serve._private.build_app import build_app

    handle: Any = object()
    built = build_app(app.build(config), name="app", make_deployment_handle=lambda *_: handle)
    for deployment in built.deployments:
        options: Any = deployment._deployment_config
        options.to_proto_bytes()  # what travels to Serve's controller
    Admission(admission_rules(config))
    new_app(config.ingress.max_body_bytes, lambda: 1, config.ingress.allowed_origins).build_middleware_stack()
    engine_arguments(config, "/model", "/speculator" if config.speculator else None)
    rounds.plan(config)
    if config.engine.timed:
        StepClock(config.engine.timed.steps_per_second).resume()
        assert config.engine.timed.record_path is None or config.engine.timed.record_path.parts
    assert config.staging.path.parts
    render({"file": "a"} | make_plan(config, 80 << 30, 16 << 30))


@examples(200)
@given(
    args=st.sampled_from(ARGS),
    changes=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=3),
)
def test_what_passes_the_check_can_be_built(
    app: ModuleType, args: dict[str, Any], changes: list[tuple[tuple[str, ...], Any]]
) -> None:
    args = copy.deepcopy(args)
    for path, value in changes:
        put(args, path, copy.copy(value))
    try:
        config = AppConfig.model_validate(args)
    except ConfigError:
        return
    build(app, config)
    # What Serve's controller and a file say of it is the same.
    assert AppConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.slow
@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_key_with_every_extreme(app: ModuleType, path: tuple[str, ...]) -> None:
    for base in ARGS:
        configs = [AppConfig.model_validate(base)]
        for value in (DROPPED, *EXTREMES):
            args = copy.deepcopy(base)
            put(args, path, copy.copy(value))
            try:
                config = AppConfig.model_validate(args)
            except ConfigError:
                continue
            if config not in configs:
                configs.append(config)
                build(app, config)
