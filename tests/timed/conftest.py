"""A service over timed engines, behind HAProxy as in production; the tests of this folder share it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.services import ROOT, Service, connected, free_port, running

# Two engines of four: the cap is reached with few requests, so that two cores do not get busy.
NUM_ENGINES, CAP = 2, 4
TOKENS_PER_S = 50.0
# Longer than the tests take: however busy the machine is, nobody here waits in vain.
MAX_WAIT_S = 600.0
MAX_QUEUED = 8
SHUTDOWN_S = 2.0


def timed_config(record: str | None = None) -> dict[str, Any]:
    """configs/timed.yaml, smaller, and with two ingresses, which share what there is."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "timed.yaml").read_text())
    arguments = config["applications"][0]["args"]
    arguments["engine"] |= {
        "timed": {"steps_per_second": TOKENS_PER_S, "record": record},
        "max_concurrent_requests": CAP,
        "min_replicas": NUM_ENGINES,
        "max_replicas": NUM_ENGINES,
        "stall_timeout_s": 5,
        "num_cpus": 0.1,
    }
    arguments["ingress"] = {"replicas": 2, "num_cpus": 0.1}
    arguments["admission"] = {"max_queued_requests": MAX_QUEUED, "max_wait_s": MAX_WAIT_S}
    arguments["drain_timeout_s"] = 120
    return config


def changed(config: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    """A copy of a config, with some keys of its sections set."""
    config = copy.deepcopy(config)
    for name, values in sections.items():
        config["applications"][0]["args"].setdefault(name, {}).update(values)
    return config


def write(config: dict[str, Any], folder: Path) -> Path:
    """The config as a file."""
    path = folder / "timed.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As a user starts it, on ports of its own."""
    folder = tmp_path_factory.mktemp("timed")
    environment = {
        "SERVE_VENV": sys.prefix,
        "SERVE_HARDWARE": "cpu",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy's own ports are fixed: another service of this machine may have the usual ones.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        # After that, Serve's own shutdown waits for no stream; 30 s by default.
        "RAY_SERVE_SHUTDOWN_TIER_TIMEOUT_S": str(SHUTDOWN_S),
        # How long an ingress replica goes on listening, for balancers that have not heard of its end yet.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # How often callers report their load; 10 s by default.
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    }
    config = timed_config(str(folder / "record"))
    command = ["scripts/serve", "--config", str(write(config, folder))]
    with running(command, environment, folder / "serve.log") as service, connected(service):
        yield service


@pytest.fixture
def requests_of_engines(service: Service) -> Callable[[], str]:
    """What the engines have noted of the requests that they had, those of engines that are idle now."""
    return lambda: "".join(file.read_text() for file in (service.log.parent / "record").iterdir())
