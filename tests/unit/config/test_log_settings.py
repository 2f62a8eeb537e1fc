"""Warnings are written when they are said, with Serve's throughput settings too; the access log is not."""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

import serve_app
from serve_app.config import AppConfig
from serve_app.config.fast_paths import THROUGHPUT_OPTIMIZED
from serve_app.config.log_settings import BUFFER_SIZE, ENVIRONMENT, LOGGING_CONFIG, TO_STDERR, problem
from serve_app.deployment_options import engine_options, gate_options, ingress_options

# What a replica of Serve does with its logger, and then says.
REPLICA = """
import logging, sys
from ray.serve._private import constants
from ray.serve._private.common import ServeComponentType
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig

configure_component_logger(
    component_type=ServeComponentType.REPLICA,
    component_name="app_Ingress",
    component_id="abc",
    logging_config=LoggingConfig(logs_dir=sys.argv[1], **eval(sys.argv[2])),
    max_bytes=1 << 20,
    backup_count=1,
    buffer_size=constants.RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE,
)
logger = logging.getLogger("ray.serve")
logger.info("POST /v1/completions 200", extra={"serve_access_log": True, "route": "/", "request_id": "r"})
logger.info("ready")
logger.warning("the gate does not answer")
print(open(sys.argv[1] + "/replica_app_Ingress_abc.log").read(), file=sys.__stdout__)
"""


def said_by_a_replica(folder: Path, settings: dict[str, str]) -> tuple[str, str]:
    """What is in its log as soon as all has been said, and on its standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    done = subprocess.run(
        [sys.executable, "-c", REPLICA, str(folder), repr(LOGGING_CONFIG)],
        env=environment | {THROUGHPUT_OPTIMIZED: "1"} | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.timeout(180)
def test_a_warning_is_written_at_once(tmp_path: Path) -> None:
    log, stderr = said_by_a_replica(tmp_path, ENVIRONMENT)
    for text in (log, stderr):
        assert "WARNING" in text
        assert "the gate does not answer" in text
        assert "ready" in text
        assert "/v1/completions" not in text


@pytest.mark.timeout(180)
def test_without_the_settings_it_is_held_back(tmp_path: Path) -> None:
    """When this fails, they are needed no more."""
    log, stderr = said_by_a_replica(tmp_path, {})
    assert "the gate does not answer" not in log + stderr


def test_all_deployments_write_no_access_log() -> None:
    config = AppConfig.model_validate({"engine": {"max_concurrent_requests": 4}})
    for options in (engine_options, gate_options, ingress_options):
        assert options(config)["logging_config"] == {"enable_access_log": False}


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({}, None),
        ({THROUGHPUT_OPTIMIZED: "0"}, None),
        ({THROUGHPUT_OPTIMIZED: "1"}, [TO_STDERR, BUFFER_SIZE]),
        ({THROUGHPUT_OPTIMIZED: "1", TO_STDERR: "1"}, [BUFFER_SIZE]),
        ({THROUGHPUT_OPTIMIZED: "1", TO_STDERR: "0", BUFFER_SIZE: "1000"}, [TO_STDERR, BUFFER_SIZE]),
        ({THROUGHPUT_OPTIMIZED: "1"} | ENVIRONMENT, None),
    ],
)
def test_what_holds_the_log_back(environment: dict[str, str], missing: list[str] | None) -> None:
    said = problem(environment)
    if missing is None:
        assert said is None
    else:
        assert said is not None
        assert [name for name in ENVIRONMENT if name in said] == missing


@pytest.fixture(scope="module")
def app() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns when it is imported
        return importlib.import_module("serve_app.app")


def test_build_says_so(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = AppConfig.model_validate({"engine": {"max_concurrent_requests": 4, "num_gpus": 0}})
    monkeypatch.setenv(THROUGHPUT_OPTIMIZED, "1")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    app.build(config)
    assert not caplog.records
    monkeypatch.delenv(BUFFER_SIZE)
    app.build(config)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"Set {BUFFER_SIZE}=1 before `ray start`" in record.getMessage()


def test_modules_of_replicas_log_to_serves_logger() -> None:
    """What goes to another is in no log file of a replica."""
    package = Path(serve_app.__file__).parent
    others = {
        str(file.relative_to(package)): name
        for file in package.rglob("*.py")
        # vLLM's own processes know nothing of Serve.
        if "vllm_worker" not in file.parts
        for name in re.findall(r"logging\.getLogger\((.*?)\)", file.read_text())
        if name != '"ray.serve"'
    }
    assert others == {}
