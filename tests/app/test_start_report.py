"""`stage report` of the running service: what its engine replicas spent their starts on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.staging.timeline import CACHE_RESTORE, IMPORTS, PROCESSES, STAGING, WARM_UP, WEIGHTS
from tests.services import Service

pytestmark = pytest.mark.app

ROOT = Path(__file__).parents[2]


def test_every_engine_replica_has_a_line(service: Service) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.stage", "report", "--all-nodes", "--json"],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": service.ray_address},
        capture_output=True,
        text=True,
        check=True,
    )
    replicas = [start for start in json.loads(done.stdout) if start["about"]["pid"] in engine_pids(service)]
    assert len(replicas) == 2
    for start in replicas:
        phases = start["phases_s"]
        assert start["status"] == "ready"
        assert {STAGING, IMPORTS, CACHE_RESTORE, PROCESSES, WEIGHTS, WARM_UP} <= set(phases)
        # What vLLM does in processes of its own is accounted for too.
        assert phases[WEIGHTS] > 0
        assert sum(phases.values()) > 0.8 * start["total_s"]


def engine_pids(service: Service) -> set[int]:
    """Of the replicas that run; the report remembers earlier ones as well."""
    import psutil

    processes = psutil.Process(service.process.pid).children(recursive=True)
    return {process.pid for process in processes if "Engine" in process.name() + "".join(process.cmdline())}
