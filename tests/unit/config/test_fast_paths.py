"""What a GPU service leaves unused is said once each, with its price; a CPU service hears nothing."""

from __future__ import annotations

import importlib
import json
import logging
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serve_app.config import AppConfig, hard_stop, log_settings, read_config
from serve_app.config.fast_paths import HA_PROXY, THROUGHPUT_OPTIMIZED, MissingFastPath, missing
from serve_app.plan import __main__ as plan

CONFIGS = Path(__file__).parents[3] / "configs"
SWITCHES = {HA_PROXY: "1", THROUGHPUT_OPTIMIZED: "1"}
FOLDER = {"source": "file:/models/gpt-oss-20b"}
CACHE = {"compile_cache": "s3://bucket/compile-cache"}
SPECULATOR = {"source": "hf:RedHatAI/gpt-oss-20b-speculator.eagle3"}


def config(engine: dict[str, Any] | None = None, **args: Any) -> AppConfig:
    """On a GPU, with all fast paths."""
    settings = {"engine": {"max_concurrent_requests": 64} | (engine or {}), "speculator": SPECULATOR}
    return AppConfig.model_validate(settings | args)


def names(found: list[MissingFastPath]) -> list[str]:
    return [path.name.partition(" (")[0] for path in found]


def test_nothing_is_missing_where_all_is_on() -> None:
    assert missing(config(), SWITCHES) == []


@pytest.mark.parametrize(
    ("settings", "environment", "name"),
    [
        (config({"fast_boot": True}), SWITCHES, "CUDA graphs and torch.compile are off"),
        (config(speculator=None), SWITCHES, "no speculator"),
        (config(), SWITCHES | {HA_PROXY: "0"}, "HAProxy is off"),
        (config(), {THROUGHPUT_OPTIMIZED: "1"}, "HAProxy is off"),
        (config(), {HA_PROXY: "1"}, "Serve's throughput settings are off"),
        (config({"max_replicas": 2}, staging=CACHE), SWITCHES, "weights from the hub"),
        (config({"max_replicas": 2}, model=FOLDER), SWITCHES, "no compile cache in S3"),
    ],
)
def test_each_is_named(settings: AppConfig, environment: dict[str, str], name: str) -> None:
    [path] = missing(settings, environment)
    assert names([path]) == [name]
    # What it costs in figures, and a setting, variable or command to turn it on with.
    assert re.search(r"\d", path.costs)
    assert re.search(r"engine\.\w+|\w+\.source|staging\.\w+|RAY_SERVE_\w+=1", path.turn_on)
    assert str(path) == f"{path.name}: {path.costs}. {path.turn_on}."
    assert "\n" not in str(path)


def test_all_at_once() -> None:
    found = missing(config({"fast_boot": True, "max_replicas": 2}, speculator=None), {})
    assert len(names(found)) == len(set(names(found))) == 6


@pytest.mark.parametrize("value", ["true", "True", "yes", " 1", ""])
def test_what_counts_as_on_is_what_serve_counts(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    utilities = pytest.importorskip("ray.serve._private.constants_utils")
    monkeypatch.setenv(THROUGHPUT_OPTIMIZED, value)
    assert not utilities.get_env_bool(THROUGHPUT_OPTIMIZED, "0")
    assert names(missing(config(), SWITCHES | {THROUGHPUT_OPTIMIZED: value})) == [
        "Serve's throughput settings are off"
    ]


def test_serve_knows_the_switches() -> None:
    constants = pytest.importorskip("ray.serve._private.constants")
    assert hasattr(constants, HA_PROXY)
    assert hasattr(constants, THROUGHPUT_OPTIMIZED)


def test_a_folder_or_a_fixed_number_of_engines_needs_no_staging() -> None:
    folder = config({"max_replicas": 2}, model=FOLDER, staging=CACHE)
    assert missing(folder, SWITCHES) == []
    assert missing(config({"min_replicas": 2, "max_replicas": 2}), SWITCHES) == []


def test_a_cpu_config_is_left_in_peace() -> None:
    settings = config({"num_gpus": 0, "fast_boot": True, "max_replicas": 2}, speculator=None)
    assert missing(settings, {}) == []
    assert missing(read_config(CONFIGS / "local.yaml"), {}) == []


@pytest.mark.parametrize("name", ["prod.yaml", "prod-120b.yaml"])
def test_production_configs_turn_on_what_makes_tokens_fast(name: str) -> None:
    assert set(names(missing(read_config(CONFIGS / name), SWITCHES))) <= {
        "weights from the hub",
        "no compile cache in S3",
    }


def test_the_scripts_turn_on_both_switches() -> None:
    text = (CONFIGS.parent / "scripts" / "serve").read_text()
    for variable in SWITCHES:
        assert f"export {variable}=" in text


# --- where they are said -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns when it is imported
        return importlib.import_module("serve_app.app")


@pytest.fixture(autouse=True)
def log_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in log_settings.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_build_warns_once_of_each(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(HA_PROXY, "0")
    monkeypatch.setenv(THROUGHPUT_OPTIMIZED, "1")
    app.build(config(speculator=None))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [str(path) for path in missing(config(speculator=None), {THROUGHPUT_OPTIMIZED: "1"})]
    assert len(warned) == 2


def test_build_says_nothing_where_nothing_is_missing(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for variable in SWITCHES:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv(hard_stop.HARD_STOP, str(hard_stop.needed_s(config())))
    app.build(config())
    monkeypatch.setenv(HA_PROXY, "0")
    app.build(read_config(CONFIGS / "local.yaml"))
    assert not caplog.records


def test_the_plan_notes_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(HA_PROXY, raising=False)
    monkeypatch.setenv(THROUGHPUT_OPTIMIZED, "1")
    file = str(CONFIGS / "prod.yaml")
    assert plan.main([file]) == 0
    assert "NOTE: HAProxy is off" in capsys.readouterr().out
    assert plan.main(["--json", file]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes == [str(path) for path in missing(read_config(file), {THROUGHPUT_OPTIMIZED: "1"})]
