"""What does the faults to the processes of a service, and undoes them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.chaos import network, processes
from benchmarks.chaos.faults import Need
from benchmarks.chaos.processes import Process
from benchmarks.chaos.schedule import Planned
from benchmarks.chaos.service import NotReadyError, Service
from benchmarks.chaos.shape import VLLM

SLOW_ENGINES, SLOW_GATE = "128kbit", "8kbit"
POLL_S = 0.02
ROLES = {
    "engine": (processes.CORE, processes.WORKER),
    "replica": (processes.REPLICA,),
    "ingress": (processes.INGRESS,),
    "gate": (processes.GATE,),
    "proxy": (processes.PROXY,),
}
Undo = Callable[[], None]


@dataclass(frozen=True)
class Hit:
    """What a fault has hit, in words, when, and what undoes it. `without` is a process that has to go."""

    target: str
    at_s: float
    undo: Undo | None = None
    without: int | None = None


class NoTargetError(Exception):
    """There is nothing that this fault could hit: it has been hit before, and has not come back."""


def abilities(service: Service) -> set[Need]:
    """Returns what this drill has of what faults need."""
    has = {
        Need.VLLM: service.engines == VLLM,
        Need.NODES: len(service.nodes) > 1,
        Need.NETWORK: len(service.nodes) > 1 and network.is_possible(),
        Need.DISK: service.has_disk,
    }
    return {need for need, is_there in has.items() if is_there}


class Injection:
    """Does faults to one service."""

    def __init__(self, service: Service, now_s: Callable[[], float]) -> None:
        self._service, self._now_s = service, now_s

    def do(self, planned: Planned) -> Hit:
        """Returns when it has happened. Raises `NoTargetError`."""
        verb, _, what = planned.kind.name.partition("-")
        others: dict[str, Callable[[float], Hit]] = {
            "kill-node": self._kill_node,
            "full-disk": self._full_disk,
            "s3-away": self._s3_away,
        }
        if other := others.get(planned.kind.name):
            return other(planned.pick)
        if verb in ("cut", "slow"):
            return self._degrade(verb, what)
        target = one_of(self._service.processes.of(*ROLES[what]), planned.pick)
        return self._kill(target) if verb == "kill" else self._stop(target, for_good=verb == "hang")

    def _kill(self, target: Process) -> Hit:
        at_s = self._now_s()
        kill(target.pid)
        return Hit(words(target), at_s)

    def _stop(self, target: Process, *, for_good: bool) -> Hit:
        at_s = self._now_s()
        os.kill(target.pid, signal.SIGSTOP)
        if for_good:
            return Hit(words(target), at_s, without=target.pid)
        return Hit(words(target), at_s, lambda: resume(target.pid))

    def _degrade(self, verb: str, what: str) -> Hit:
        other = processes.REPLICA if what == "engines" else processes.GATE
        pids = [[one.pid for one in self._service.processes.of(role)] for role in (processes.INGRESS, other)]
        ports = network.ports_between(*pids)
        if not ports:
            raise NoTargetError(f"no connections between ingress and {other}")
        slow = SLOW_ENGINES if what == "engines" else SLOW_GATE
        at_s = self._now_s()
        network.degrade(sorted(ports), network.CUT if verb == "cut" else slow)
        return Hit(f"{len(ports)} ports between ingress and {other}", at_s, network.heal)

    def _kill_node(self, pick: float) -> Hit:
        workers = self._service.nodes[1:]
        raylets = [one for one in self._service.processes.of(processes.RAYLET) if one.node in workers]
        target = one_of(raylets, pick)
        hit = self._kill(target)
        return replace(hit, target=f"the raylet of {target.node}", undo=lambda: self._start_node(target.node))

    def _start_node(self, node: str) -> None:
        # Who finds that a node is missing says so.
        with contextlib.suppress(NotReadyError):
            self._service.start_node(node)

    def _full_disk(self, pick: float) -> Hit:
        filling = self._service.staging / "filling"
        fill(filling)
        hit = self._kill_ingress(pick)
        return replace(hit, target=f"the staging folder, and {hit.target}", undo=filling.unlink)

    def _s3_away(self, pick: float) -> Hit:
        self._service.stop_s3()
        hit = self._kill_ingress(pick)
        return replace(hit, target=f"S3, and {hit.target}", undo=self._service.start_s3)

    def _kill_ingress(self, pick: float) -> Hit:
        return self._kill(one_of(self._service.processes.of(processes.INGRESS), pick))


def one_of(targets: Sequence[Process], pick: float) -> Process:
    """Returns the one that `pick`, a share of their number, says. Raises `NoTargetError`."""
    if not targets:
        raise NoTargetError("none is there")
    return targets[int(pick * len(targets))]


def words(target: Process) -> str:
    """Names a process."""
    return f"{target.role} {target.pid}"


def kill(pid: int) -> None:
    """Returns when the process has ended: one that has taken much memory needs a moment for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(POLL_S)  # it is not our child, and nobody tells


def resume(pid: int) -> None:
    """Lets a stopped process go on, if there still is one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def fill(path: Path) -> None:
    """Fills the disk that `path` is on."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
