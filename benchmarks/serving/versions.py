"""Two versions of this project beside each other: each with a Ray, a Serve instance and caches of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.capacity.service import COMPILED
from serve_app.staging.cache_folder import VARIABLES

# As `serve` and as `benchmarks.bare_node` tell, in the environment of the version.
SERVE = "from ray.serve.scripts import cli; cli()"
TELL = "import json; from benchmarks.bare_node import machine; print(json.dumps(machine()))"
# Serve's ports beside the one that clients use, and how far those of two versions lie apart.
PORTS = {
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": 20000,
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": 20499,
    "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": 21000,
    "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": 21499,
}
PORT_STEP = 500
FAST_PATHS = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


@dataclass(frozen=True)
class Version:
    """A checkout, and the interpreter of the environment that it runs in.

    `folder` gets Ray's files and the caches of compiled code; its path must be short, for Ray's sockets lie
    in it.
    """

    checkout: Path
    python: str
    folder: Path
    number: int = 0  # of the versions that run at the same time

    def command(self, document: Path) -> list[str]:
        """Returns what serves a Serve config file, in a Ray of its own even where another one runs."""
        return [self.python, "-c", SERVE, "run", "--address", "local", str(document)]

    def environment(self) -> dict[str, str]:
        """Returns the variables of that command, and of all that it starts."""
        # Another interpreter has other packages, to which this one's path would lead instead.
        inherited = os.environ.get("PYTHONPATH") if self.python == sys.executable else None
        path = os.pathsep.join([str(self.checkout), *filter(None, [inherited])])
        ports = {name: str(port + PORT_STEP * self.number) for name, port in PORTS.items()}
        caches = {name: str(self.folder / "caches" / value) for name, value in VARIABLES.items()}
        return {"PYTHONPATH": path, "RAY_TMPDIR": str(self.folder)} | FAST_PATHS | ports | caches

    def about(self) -> dict[str, Any]:
        """Returns the commit, None where git does not know it, and the versions of the packages."""
        git = ["git", "-C", str(self.checkout), "rev-parse", "HEAD"]
        try:
            commit = subprocess.check_output(git, text=True, stderr=subprocess.DEVNULL).strip()
        except (FileNotFoundError, subprocess.CalledProcessError):
            commit = None
        environment = os.environ | self.environment()
        told = subprocess.check_output([self.python, "-c", TELL], cwd=self.checkout, env=environment)
        versions: dict[str, Any] = json.loads(told)
        return {"commit": commit} | versions

    def end(self) -> None:
        """Kills what its Ray and Serve have left: an HAProxy can outlive them, and keep its ports."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == str(self.folder):
                    process.kill()

    def kernels_compiled(self) -> int:
        """Returns how many kernels its engines have compiled since vLLM took them for ready."""
        logs = (self.folder / "ray/session_latest/logs").glob("worker-*")
        return sum(kernels_compiled(log) for log in logs)


def kernels_compiled(log: Path) -> int:
    """Returns how many kernels a log of vLLM with `jit_monitor_verbose` names."""
    return len(COMPILED.findall(log.read_bytes())) if log.is_file() else 0
