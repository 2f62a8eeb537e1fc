"""Servers that tests start: `scripts/serve` or another, each on its own port, all of it gone in the end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
MODEL = "gpt-oss-demo"
# A start takes a minute or two on two idle cores, and ten with thirty processes beside it.
START_TIMEOUT_S = 1800
STOP_TIMEOUT_S = 300
LOAD_TIMEOUT_S = 300
# Below those that the system gives to who asks for any, as Ray does all the time, and those of Serve's
# replicas behind HAProxy (from 30000); above those of Ray's workers and clients (from 10001).
_PORTS = range(20_000, 30_000)
# Not the seeded one: tests in other processes choose, too.
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Service:
    """A server to talk to, and the log of its process."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    @property
    def ray_address(self) -> str:
        """Of the Ray instance that the service has started, which need not be the machine's only one."""
        return self._ray_argument("--gcs-address=")

    @property
    def serve_logs(self) -> Path:
        """The folder of the logs of Serve's processes."""
        return Path(self._ray_argument("--log_dir="), "serve")

    def _ray_argument(self, begin: str) -> str:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            for argument in process.cmdline():
                if argument.startswith(begin):
                    return argument.removeprefix(begin)
        raise RuntimeError("the service has started no Ray instance")

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        # The title of a replica's process, which it gives itself.
        return [one for one in children if f"ServeReplica:gpt-oss:{deployment}" in "".join(one.cmdline())]

    def wait_for_engines(self, number: int) -> None:
        """Until that many are ready."""
        wait_until(
            lambda: httpx.get(f"{self.url}/health", timeout=60).json().get("ready_engines") == number,
            START_TIMEOUT_S,
            lambda: self.log.read_text(errors="replace")[-3000:],
            interval_s=0.5,
        )


def free_port() -> int:
    """A port that nobody has, and that nobody is given by chance before it is used."""
    while True:
        port = _RANDOM.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `/health` says 200. Fails with the end of the log when the process ends or time runs out."""

    def state() -> str:
        end = log.read_text(errors="replace")[-6000:]
        return f"{process.args!r} is not ready (exit status {process.poll()}); its log ends:\n{end}"

    def is_ready() -> bool:
        assert process.poll() is None, state()
        with contextlib.suppress(httpx.TransportError):  # nothing listens yet
            return httpx.get(f"{url}/health", timeout=5).status_code == 200
        return False

    wait_until(is_ready, START_TIMEOUT_S, state, interval_s=0.5)


def stop(process: subprocess.Popen[bytes]) -> None:
    """In order; what is left of the process group after that is killed."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Service]:
    """A server that takes `--port`, from when it is ready to the end of the block."""
    port = free_port()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        service = Service(f"http://127.0.0.1:{port}", log, process)
        wait_until_ready(service.url, process, log)
        yield service
    finally:
        stop(process)


@contextlib.contextmanager
def connected(service: Service) -> Iterator[None]:
    """This process talks to the service's Ray, too, from when the service is idle."""
    import ray

    ray.init(address=service.ray_address, namespace="serve", log_to_driver=False)
    try:
        # The first call imports and sets up much, which takes longer than an answer where engines are busy.
        wait_for_load(0, 0)
        yield
    finally:
        ray.shutdown()


def wait_for_load(num_running: int, num_waiting: int) -> None:
    """Until so many sequences have their slot in an engine, and so many wait for theirs."""
    from ray import serve

    gate = serve.get_deployment_handle("Gate", "gpt-oss")

    def load() -> object:
        return gate.load.remote().result(timeout_s=LOAD_TIMEOUT_S)

    wait_until(lambda: load() == (num_running, num_waiting), LOAD_TIMEOUT_S, load, interval_s=0.02)
