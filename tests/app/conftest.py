"""The running service that the app tests share; gone before tests that need the machine for themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.node import NodeMissingError, installed
from tests.services import ROOT, Service, running

# For what takes seconds or a minute on a machine that does nothing else.
PATIENCE_S = 900


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """configs/local.yaml, as a user starts it; with more patience, for a machine that is busy."""
    folder = tmp_path_factory.mktemp("service")
    config = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    arguments = config["applications"][0]["args"]
    arguments["admission"]["max_wait_s"] = arguments["drain_timeout_s"] = PATIENCE_S
    (folder / "local.yaml").write_text(yaml.safe_dump(config))
    # The environment that runs the tests is the one to serve from.
    environment = {"SERVE_VENV": sys.prefix, "SERVE_HARDWARE": "cpu"}
    command = ["scripts/serve", "--config", str(folder / "local.yaml")]
    with running(command, environment, folder / "serve.log") as service:
        yield service


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The clients in JavaScript. Tests that need them are skipped where they cannot be had, except in CI."""
    try:
        return installed()
    except NodeMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
