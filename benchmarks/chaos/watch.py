"""What is looked at while a drill runs: processes, the gate's load, and whether everything is there again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.chaos import processes
from benchmarks.chaos.growth import Sample
from benchmarks.chaos.processes import Process
from benchmarks.chaos.service import Service
from benchmarks.chaos.shape import VLLM

PROBE_TIMEOUT_S = 60.0
RUNNING = "RUNNING"
# Between two looks at whether a fault is over.
POLL_S = 0.5


class ProbeError(Exception):
    """The service does not answer the probe."""


class Probe:
    """A process in the service's cluster that is asked (`probe.py`); another one when it has ended."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    async def ask(self, what: str) -> Any:
        """Returns what the probe finds. Raises `ProbeError`."""
        async with self._turn:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    line = await self._line(what)
            except (TimeoutError, OSError) as error:
                await self._end()
                raise ProbeError(f"{what}: {type(error).__name__}") from error
            if not line:
                await self._end()
                raise ProbeError(f"{what}: the probe has ended")
            found = json.loads(line)
            if "error" in found:
                raise ProbeError(f"{what}: {found['error']}")
            return found["answer"]

    async def close(self) -> None:
        """Ends it."""
        async with self._turn:
            await self._end()

    async def _line(self, what: str) -> bytes:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.chaos.probe",
                self._service.address,
                env=without_fast_paths(self._service.environment),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._service.log,
            )
        assert self._process.stdin
        assert self._process.stdout
        self._number += 1
        self._process.stdin.write(f"{self._number} {what}\n".encode())
        await self._process.stdin.drain()
        # Who asked before may not have waited for the answer.
        while (line := await self._process.stdout.readline()) and _number_of(line) != self._number:
            pass
        return line

    async def _end(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None


def _number_of(line: bytes) -> int:
    number: int = json.loads(line)["number"]
    return number


def without_fast_paths(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables without those by which Serve's handles can be used in coroutines only."""
    return {name: value for name, value in environment.items() if name != "RAY_SERVE_THROUGHPUT_OPTIMIZED"}


def missing_process(found: Iterable[Process], engines: int, nodes: int) -> str:
    """Returns which process is not there of those that Serve does not count, in words, or "".

    `engines` are vLLM's, which have two processes each on the CPU: when one of them dies, its replica looks
    well for a moment.
    """
    count = Counter(one.role for one in found)
    for role in (processes.CORE, processes.WORKER):
        if count[role] != engines:
            return f"{count[role]} of {role}, not {engines}"
    if not count[processes.PROXY]:
        return "no HAProxy"
    return "a node is missing" if count[processes.RAYLET] < nodes else ""


class Watch:
    """Samples of a service, for as long as `run` runs."""

    def __init__(self, service: Service, probe: Probe, now_s: Callable[[], float]) -> None:
        self._service, self._probe, self._now_s = service, probe, now_s
        self.samples: list[Sample] = []
        # The most that the gate has let run, and wait.
        self.most_running = self.most_waiting = 0
        self.silent = 0  # how often the gate did not answer

    async def run(self, interval_s: float, *, with_ingresses: bool) -> None:
        """Takes a sample in each interval."""
        while True:
            await self._load()
            self.samples.append(await self.sample(with_ingresses=with_ingresses))
            await asyncio.sleep(interval_s)

    async def sample(self, *, with_ingresses: bool = True) -> Sample:
        """What the processes hold now, and what the ingresses have open."""
        ingresses: dict[int, dict[str, int]] = {}
        if with_ingresses:
            with contextlib.suppress(ProbeError):
                ingresses = {one["pid"]: one for one in (await self._probe.ask("open work"))["ingresses"]}
        found = await asyncio.to_thread(self._service.processes.look)
        return Sample(self._now_s(), tuple(found), ingresses)

    async def _load(self) -> None:
        try:
            running, waiting = await self._probe.ask("load")
        except ProbeError:
            self.silent += 1
            return
        self.most_running = max(self.most_running, running)
        self.most_waiting = max(self.most_waiting, waiting)

    async def until_whole(self, without: int | None = None) -> str:
        """Returns "" when everything is there and ready; what is not, in words, when it has taken too long.

        The process `without` has to be gone: one that hangs may be taken for one that is there.
        """
        lacking = "it has not been looked at"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._service.shape.recovery_timeout_s):
                # Nothing tells.
                while lacking := await self._lacking(without):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        return lacking

    async def _lacking(self, without: int | None) -> str:
        found = await asyncio.to_thread(self._service.processes.look)
        alive, shape = {one.pid for one in found}, self._service.shape
        if without in alive:
            return f"process {without} is still there"
        engines = shape.engines if self._service.engines == VLLM else 0
        if missing := missing_process(found, engines, len(self._service.nodes)):
            return missing
        try:
            replicas = await self._probe.ask("replicas")
        except ProbeError as error:
            return str(error)
        wanted = {"Ingress": shape.ingresses, "Gate": 1}
        for name, found_of in replicas.items():
            running = [one for one in found_of if one["state"] == RUNNING and one["pid"] in alive]
            others = [one["state"] for one in found_of if one not in running]
            if len(running) != wanted.get(name, shape.engines) or others:
                return f"{name}: {len(running)} are running; others: {others}"
        ready = await asyncio.to_thread(self._service.ready_engines)
        return "" if ready == shape.engines else f"/health counts {ready} engines"
