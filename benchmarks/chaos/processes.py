"""The processes of the service under drill: which is what, and what each holds. Others are never seen."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

INGRESS, GATE, REPLICA, CORE, WORKER = "ingress", "gate", "engine replica", "engine core", "engine worker"
PROXY, MANAGER, CONTROLLER, RAYLET, STORE, REST = (
    "HAProxy",
    "proxy actor",
    "controller",
    "raylet",
    "GCS",
    "rest",
)
ROLES = (INGRESS, GATE, REPLICA, CORE, WORKER, PROXY, MANAGER, CONTROLLER, RAYLET, STORE)
MARK = "RAY_TMPDIR"


@dataclass(frozen=True)
class Process:
    """A process, and what it held when it was looked at."""

    pid: int
    role: str
    node: str  # the address of its node, where it is known
    rss_bytes: int
    fds: int
    threads: int


class Processes:
    """Those that a service has started, however long ago and by whichever of its processes."""

    def __init__(self, folder: Path) -> None:
        """`folder` is Ray's, by which the service's processes are told from others."""
        self._folder = str(folder)
        # None for those of others. By id and start, since ids come again.
        self._known: dict[tuple[int, float], psutil.Process | None] = {}

    def look(self) -> list[Process]:
        """Returns all that live, by id."""
        found, seen = [], {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                key = process.pid, process.create_time()
                ours = self._known[key] if key in self._known else self._ours(process)
                seen[key] = ours
                if ours and ours.status() != psutil.STATUS_ZOMBIE:
                    found.append(_look(ours))
        self._known = seen
        return sorted(found, key=lambda one: one.pid)

    def of(self, *roles: str) -> list[Process]:
        """Returns those of these roles."""
        return [one for one in self.look() if one.role in roles]

    def count(self) -> Counter[str]:
        """Returns how many there are of each role."""
        return Counter(one.role for one in self.look() if one.role in ROLES)

    def _ours(self, process: psutil.Process) -> psutil.Process | None:
        return process if process.environ().get(MARK) == self._folder else None


def role(name: str, arguments: list[str]) -> str:
    """Returns what a process is, by its name and the title that Ray or vLLM gives it."""
    title = " ".join(arguments)
    if title.startswith("ray::ServeReplica:"):
        deployment = title.split()[0].split(".")[0].rpartition(":")[2]
        return {"Ingress": INGRESS, "Gate": GATE}.get(deployment, REPLICA)
    for begin, found in (("VLLM::EngineCor", CORE), ("VLLM::Worker", WORKER)):
        if title.startswith(begin) or name.startswith(begin):
            return found
    if name == "haproxy":
        return PROXY
    if title.startswith(("ray::HAProxyManager", "ray::ProxyActor")):
        return MANAGER
    if title.startswith("ray::ServeController"):
        return CONTROLLER
    return {"raylet": RAYLET, "gcs_server": STORE}.get(name, REST)


def _look(process: psutil.Process) -> Process:
    with process.oneshot():
        arguments = process.cmdline()
        kind = role(process.name(), arguments)
        node = next((a.partition("=")[2] for a in arguments if a.startswith("--node_ip_address=")), "")
        memory, fds = process.memory_info().rss, process.num_fds()
        return Process(process.pid, kind, node, memory, fds, process.num_threads())
