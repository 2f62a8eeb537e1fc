"""The service under drill: a Ray cluster of several nodes on this machine, S3, and the application on it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import yaml

from benchmarks.chaos import sandbox
from benchmarks.chaos.processes import MARK, Process, Processes
from benchmarks.chaos.shape import ROOT, SHAPES, TIMED, Shape, Staging, serve_config
from benchmarks.serving.arms import free_port
from serve_app.demo import CACHE, MODEL_NAME
from serve_app.demo.unfolding import unfold
from serve_app.staging import files
from serve_app.staging import manifest as manifests

PROGRAMS = Path(sys.executable).parent
BUCKET = "bucket"
# The tokenizer takes 27 MiB, and staging leaves 256 MiB in reserve.
DISK_BYTES = 320 << 20
START_TIMEOUT_S = 420
# Of three nodes, two have room for all replicas: each reserves a fifth of a CPU.
CPUS_OF_ALL = 3
# Ray gives a node half a minute, which is short on a busy machine.
NODE_ATTEMPTS = 5
OBJECT_STORE_BYTES = 80_000_000
# Some of Ray's processes take no less than half a second to answer on two busy cores.
POLL_S = 0.25


class NotReadyError(Exception):
    """A service that does not start; the text is the end of its log."""


@dataclass
class Service:
    """One that can be started, and whose parts can be ended and started again."""

    folder: Path
    engines: str
    shape: Shape
    nodes: tuple[str, ...]
    port: int
    has_disk: bool  # a staging folder that is a disk of its own
    log: TextIO
    s3: subprocess.Popen[bytes] | None = None
    revision: str = ""
    s3_port: int = 0
    _gcs_port: int = 0

    def __post_init__(self) -> None:
        self.processes = Processes(self.folder / "ray")
        self.environment: dict[str, str] = {}

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """Of the Ray cluster."""
        return f"{self.nodes[0]}:{self._gcs_port}"

    @property
    def staging(self) -> Path:
        """The folder that all nodes stage into."""
        return self.folder / "staging"

    def _variables(self) -> dict[str, str]:
        haproxy = self.folder / "haproxy"
        return {
            "PYTHONPATH": str(ROOT),
            MARK: str(self.folder / "ray"),
            # Nobody else can reach it: it is in a network of its own, or on loopback.
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's workers leave the machine to others, which is none of what is to be seen.
            "RAY_worker_niceness": "0",
            # Others' memory is none of this cluster's business.
            "RAY_memory_monitor_refresh_ms": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            # As long as replicas drain in configs/timed.yaml, and longer than in configs/local.yaml.
            "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",
            # As scripts/serve has it: what is said is written at once.
            "RAY_SERVE_LOG_TO_STDERR": "1",
            "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(ROOT / "scripts/haproxy"),
            "SERVE_VENV": sys.prefix,
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}",
            "AWS_ACCESS_KEY_ID": "drill",
            "AWS_SECRET_ACCESS_KEY": "drill",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Returns when it answers. Raises `NotReadyError`."""
        unfold(CACHE)
        self.s3_port = free_port()
        self._gcs_port = free_port()
        self.environment = os.environ | self._variables()
        for name in ("ray", "haproxy"):
            (self.folder / name).mkdir()
        for node in self.nodes:
            self.start_node(node)
        if self.has_disk:
            self._publish()
            self.start_s3()
        config = self.folder / "serve.yaml"
        staged = Staging(f"s3://{BUCKET}/{MODEL_NAME}", self.revision, self.staging)
        document = serve_config(self.engines, self.shape, self.port, staged if self.has_disk else None)
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        # Serve would try a config that is wrong again and again.
        self._run("python", "-m", "serve_app.plan", "--check", str(config))
        self._run("serve", "run", "--non-blocking", f"--address={self.address}", str(config))
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.ready_engines() < self.shape.engines:
            if time.monotonic() > deadline:
                raise NotReadyError(self.end_of_log())
            time.sleep(POLL_S)  # nothing tells when a server of another process begins to listen

    def start_node(self, node: str) -> None:
        """A node of the cluster; the first one is the head."""
        where = ["--head", f"--port={self._gcs_port}", "--include-dashboard=false"]
        if node != self.nodes[0]:
            where = [f"--address={self.address}"]
        options = [
            f"--node-ip-address={node}",
            f"--num-cpus={CPUS_OF_ALL // len(self.nodes)}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
        ]
        for attempt in range(NODE_ATTEMPTS):
            try:
                # One after the other: two that start at once take the same name for a socket.
                return self._run("ray", "start", "--disable-usage-stats", *where, *options)
            except NotReadyError:
                if attempt + 1 == NODE_ATTEMPTS:
                    raise
                # What has come up is half a node.
                self._kill(one for one in self.processes.look() if node in (self.nodes[0], one.node))
        return None

    def start_s3(self) -> None:
        """Its files outlive it."""
        program = ROOT / "benchmarks/staging/s3_files.py"
        self.s3 = self._background([sys.executable, str(program), str(self.folder / "s3"), str(self.s3_port)])

    def stop_s3(self) -> None:
        """It answers nobody any more."""
        assert self.s3
        self.s3.kill()
        self.s3.wait()

    def ready_engines(self) -> int:
        """As `/health` says; 0 when it says nothing."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return int(yaml.safe_load(response.read())["ready_engines"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return 0

    def end_of_log(self) -> str:
        """For a person."""
        return Path(self.log.name).read_text(errors="replace")[-4000:]

    def end(self) -> None:
        """Kills everything that it has started."""
        self._kill(self.processes.look())

    def _kill(self, processes: Iterable[Process]) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def _publish(self) -> None:
        """Without copying the files."""
        source, version = CACHE / MODEL_NAME, self.folder / "s3" / BUCKET / MODEL_NAME
        version.mkdir(parents=True)
        paths = files.to_publish(source)
        for path in paths:
            (version / path).symlink_to(source / path)
        manifest = manifests.of_folder(source, paths, source=f"file:{source}")
        (version / manifests.NAME).write_bytes(manifest.encode())
        self.revision = manifest.digest

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(PROGRAMS / program), *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, stdout=self.log, stderr=self.log, check=False
        )
        if done.returncode:
            raise NotReadyError(self.end_of_log())

    def _background(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )


@contextlib.contextmanager
def running(folder: Path, engines: str, num_nodes: int) -> Iterator[Service]:
    """A service of these engines, from when it answers to the end of the block.

    It has one node where there is no sandbox to give others an address.
    """
    nodes: tuple[str, ...] = ("127.0.0.1",)
    has_disk = False
    if sandbox.is_inside():
        sandbox.prepare_network()
        nodes = sandbox.NODES[:num_nodes]
        (folder / "staging").mkdir()
        has_disk = engines == TIMED and sandbox.mount_small_disk(str(folder / "staging"), DISK_BYTES)
    with (folder / "log").open("w") as log:
        service = Service(folder, engines, SHAPES[engines], nodes, free_port(), has_disk, log)
        try:
            service.start()
            yield service
        finally:
            service.end()
