"""What every test run needs: no network, no reports to anyone, and the quick tests first."""

import os
import subprocess
from pathlib import Path

# Before anything imports ray, vllm or huggingface_hub, and inherited by the processes that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# What Ray turns on for the clusters that it starts; a process that joins one has to say so.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# A node that starts on a busy machine is waited for; Ray gives it up after 30 s.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "600")

import coverage
import pytest

# Under pytest-xdist the workers run the tests, and measure: begun before the package is imported.
MEASURED = None
if os.environ.get("TEST_COVERAGE") and "PYTEST_XDIST_WORKER" in os.environ:
    MEASURED = coverage.Coverage(data_suffix=True)
    MEASURED.start()

ORDER = ["unit", "app", "engine", "gpu"]


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that works."""
    if Path("/dev/nvidia0").exists():
        return True
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def stage(item: pytest.Item) -> int:
    """The place of a test in the run, by its marker."""
    return max((ORDER.index(name) for name in ORDER[1:] if item.get_closest_marker(name)), default=0)


def pytest_unconfigure() -> None:
    """Keep what was measured."""
    if MEASURED:
        MEASURED.stop()
        MEASURED.save()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine cannot run, and put what starts quickly first."""
    if not has_gpu():
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    items.sort(key=stage)
