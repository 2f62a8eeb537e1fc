"""The processes of a service under test: what each is for, which cores it may use, what CPU time it took."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 420
POLL_S = 0.3
INGRESS, ENGINE, PROXY, REST = "ingress", "engine", "proxy", "rest"
ROLES = (ENGINE, INGRESS, PROXY, REST)
REPLICA = "ray::ServeReplica:"


class NotReadyError(Exception):
    """A service that does not start."""


@dataclass(frozen=True)
class Cores:
    """Which cores do what. With two, the ingress has one and everything else the other."""

    ingresses: tuple[int, ...]
    others: tuple[int, ...]

    @classmethod
    def of_this_machine(cls, num_ingresses: int) -> Cores:
        """One core for each ingress replica where that leaves at least half; else all share the first."""
        cores = tuple(sorted(os.sched_getaffinity(0)))
        num = num_ingresses if num_ingresses <= len(cores) // 2 else 1
        return cls(cores[:num], cores[num:] or cores)


def role(process: psutil.Process) -> str:
    """What a process of the service is for, by the title that Ray gives it."""
    title = " ".join(process.cmdline()) or process.name()
    if title.startswith(REPLICA):
        if ":Gate" in title:
            return REST
        return INGRESS if "Ingress" in title else ENGINE
    if process.name() == "haproxy" or title.startswith(("ray::ProxyActor", "ray::HAProxyManager")):
        return PROXY
    return REST


class Processes:
    """A service and all that it has started, by role."""

    def __init__(self, root: subprocess.Popen[bytes], *, is_one_ingress: bool = False) -> None:
        """`is_one_ingress`: the process itself is the ingress, as a bare uvicorn is."""
        self._root, self._is_one_ingress = psutil.Process(root.pid), is_one_ingress
        self.by_role: dict[str, list[psutil.Process]] = {}

    def pin(self, cores: Cores) -> None:
        """Finds them, and gives each ingress its core and the others theirs, with all their threads."""
        self.by_role = {name: [] for name in ROLES}
        for process in [self._root, *self._root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.by_role[INGRESS if self._is_one_ingress else role(process)].append(process)
        for number, process in enumerate(self.by_role[INGRESS]):
            pin(process.pid, [cores.ingresses[number % len(cores.ingresses)]])
        for name in (ENGINE, PROXY, REST):
            for process in self.by_role[name]:
                pin(process.pid, cores.others)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        return {name: sum(map(cpu_s, processes)) for name, processes in self.by_role.items()}


def pin(pid: int, cores: Iterable[int]) -> None:
    """Binds all threads of a process; those that they start later inherit it."""
    allowed = set(cores)
    with contextlib.suppress(FileNotFoundError):  # Ray's helpers come and go
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), allowed)


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process so far; 0 when it has gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


@contextlib.contextmanager
def running(
    command: list[str], environment: Mapping[str, str], health_url: str, log: Path, root: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A service, from when `health_url` answers to the end of the block; nothing of it is left then."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        _wait(process, health_url, log)
        yield process
    finally:
        _kill(process)


def _wait(process: subprocess.Popen[bytes], health_url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(health_url, timeout=5).status_code == 200:
                return
        time.sleep(POLL_S)  # nothing tells when a server of another process begins to listen
    tail = log.read_text(errors="replace")[-4000:]
    raise NotReadyError(f"not ready (exit status {process.poll()}); the log ends:\n{tail}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """At once: replicas would drain for half a minute behind HAProxy, and hold nothing worth keeping."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(family, timeout=10)
