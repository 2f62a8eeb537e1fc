"""What does the faults to the processes of a service, and undoes them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.chaos import network, processes
from benchmarks.chaos.faults import Kind, Need
from benchmarks.chaos.processes import Process
from benchmarks.chaos.schedule import Planned
from benchmarks.chaos.service import Service
from benchmarks.chaos.shape import VLLM

SLOW_ENGINES, SLOW_GATE = "128kbit", "8kbit"
CLOCK_JUMP = "+3600"
POLL_S = 0.02
ROLES = {
    "engine": processes.ENGINE,
    "replica": processes.REPLICA,
    "ingress": processes.INGRESS,
    "gate": processes.GATE,
    "proxy": processes.PROXY,
}
Undo = Callable[[], None]


class NoTargetError(Exception):
    """There is nothing that this fault could hit: it has been hit before, and has not come back."""


def abilities(service: Service) -> set[Need]:
    """Returns what this drill has of what faults need."""
    has = {
        Need.VLLM: service.engines == VLLM,
        Need.NODES: len(service.nodes) > 1,
        Need.NETWORK: len(service.nodes) > 1 and network.is_possible(),
        Need.DISK: service.has_disk,
        Need.CLOCK: service.has_clock,
    }
    return {need for need, is_there in has.items() if is_there}


class Injection:
    """Does faults to one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def do(self, planned: Planned) -> tuple[str, Undo | None]:
        """Returns what was hit, in words, and what undoes it. Raises `NoTargetError`."""
        verb, _, what = planned.kind.name.partition("-")
        others: dict[str, Callable[[Planned], tuple[str, Undo | None]]] = {
            "kill-node": self._kill_node,
            "full-disk": self._full_disk,
            "s3-away": self._s3_away,
            "clock-jump": self._clock_jump,
        }
        if other := others.get(planned.kind.name):
            return other(planned)
        if verb in ("cut", "slow"):
            return self._network(verb, what)
        return self._signal(planned.kind, planned.pick)

    def _signal(self, kind: Kind, pick: float) -> tuple[str, Undo | None]:
        verb, _, what = kind.name.partition("-")
        target = one_of(self._service.processes.of(ROLES[what]), pick)
        if verb == "kill":
            kill(target.pid)
            return words(target), None
        os.kill(target.pid, signal.SIGSTOP)
        return words(target), lambda: resume(target.pid)

    def _network(self, verb: str, what: str) -> tuple[str, Undo]:
        of = self._service.processes.of
        other = processes.REPLICA if what == "engines" else processes.GATE
        ports = network.ports_between(
            [one.pid for one in of(processes.INGRESS)], [one.pid for one in of(other)]
        )
        if not ports:
            raise NoTargetError(f"no connections between ingress and {other}")
        slow = SLOW_ENGINES if what == "engines" else SLOW_GATE
        network.degrade(sorted(ports), network.CUT if verb == "cut" else slow)
        return f"{len(ports)} ports between ingress and {other}", network.heal

    def _kill_node(self, planned: Planned) -> tuple[str, Undo]:
        workers = self._service.nodes[1:]
        raylets = [one for one in self._service.processes.of(processes.RAYLET) if one.node in workers]
        target = one_of(raylets, planned.pick)
        kill(target.pid)
        return f"the raylet of {target.node}", lambda: self._service.start_node(target.node)

    def _full_disk(self, planned: Planned) -> tuple[str, Undo]:
        filling = self._service.staging / "filling"
        fill(filling)
        target = self._kill_ingress(planned)
        return f"the staging folder, and {target}", filling.unlink

    def _s3_away(self, planned: Planned) -> tuple[str, Undo]:
        self._service.stop_s3()
        return f"S3, and {self._kill_ingress(planned)}", self._service.start_s3

    def _kill_ingress(self, planned: Planned) -> str:
        target = one_of(self._service.processes.of(processes.INGRESS), planned.pick)
        kill(target.pid)
        return words(target)

    def _clock_jump(self, planned: Planned) -> tuple[str, Undo]:
        del planned
        clock = self._service.clock
        clock.write_text(f"{CLOCK_JUMP}\n")
        return f"the clock, {CLOCK_JUMP} s", lambda: _set_back(clock)


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


def _set_back(clock: Path) -> None:
    clock.write_text("+0\n")
