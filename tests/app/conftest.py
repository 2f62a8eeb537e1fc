"""The running service that the app tests share; gone before tests that need the machine for themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node import NodeMissingError, installed
from tests.services import Service, running


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """configs/local.yaml, as a user starts it."""
    # The environment that runs the tests is the one to serve from.
    environment = {"SERVE_VENV": sys.prefix, "SERVE_HARDWARE": "cpu"}
    command = ["scripts/serve", "--config", "configs/local.yaml"]
    with running(command, environment, tmp_path_factory.mktemp("service") / "serve.log") as service:
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
