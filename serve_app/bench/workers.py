"""The worker processes, from the program's side."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from serve_app.bench.load import BenchError, Load
from serve_app.bench.protocol import Prepare, Progress, Ready, Setting, Share, Start
from serve_app.bench.target import Target

ROOT = Path(__file__).parents[2]
# A worker for so many cores, and no more than so many workers: the service is often on the same machine.
CORES_PER_WORKER = 4
MAX_WORKERS = 8
# From "all are ready" to the start, for the message to reach all of them.
START_DELAY_NS = 50_000_000
STOP_TIMEOUT_S = 5.0

_Reply = TypeVar("_Reply", Ready, Share)


def default_processes() -> int:
    """Workers for the cores that this process may use."""
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // CORES_PER_WORKER))


class Workers:
    """Processes that send a load together; a context manager, at whose end they are gone."""

    def __init__(self, load: Load, model: str, target: Target, processes: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        for part in range(processes):
            ours, theirs = Pipe()
            with theirs:
                command = [sys.executable, "-m", "serve_app.bench.worker", str(theirs.fileno())]
                self._processes.append(
                    subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment())
                )
            self._pipes.append(ours)
            ours.send(Setting(load, model, target, part, processes))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            # A worker that waits for a command leaves by itself; one in a round that nobody wants does not.
            if kind is not None:
                process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def round(self, plan: Prepare, show: Callable[[float, Progress], None]) -> tuple[int, list[Share]]:
        """Runs a round; returns when it began, in ns, and what each worker did.

        Calls `show` with the seconds since the start and the sum of all workers, about twice a second. Raises
        `BenchError` when a worker dies.
        """
        for pipe in self._pipes:
            pipe.send(plan)
        self._gather(Ready, lambda _part, _progress: None)
        start_ns = time.monotonic_ns() + START_DELAY_NS
        for pipe in self._pipes:
            pipe.send(Start(start_ns))
        latest = [Progress(0, 0, 0)] * len(self._pipes)

        def update(part: int, progress: Progress) -> None:
            latest[part] = progress
            if part == len(latest) - 1:
                show((time.monotonic_ns() - start_ns) / 1e9, _sum(latest))

        return start_ns, self._gather(Share, update)

    def _gather(self, kind: type[_Reply], on_progress: Callable[[int, Progress], None]) -> list[_Reply]:
        replies: dict[int, _Reply] = {}
        while len(replies) < len(self._pipes):
            waiting = [pipe for part, pipe in enumerate(self._pipes) if part not in replies]
            for pipe in wait(waiting):
                assert isinstance(pipe, Connection)
                part = self._pipes.index(pipe)
                try:
                    message: Any = pipe.recv()
                except (EOFError, ConnectionResetError):
                    status = self._processes[part].wait()
                    raise BenchError(f"a worker process died with status {status}") from None
                if isinstance(message, Progress):
                    on_progress(part, message)
                else:
                    assert isinstance(message, kind)
                    replies[part] = message
        return [replies[part] for part in range(len(self._pipes))]


def environment() -> dict[str, str]:
    """The environment in which another Python finds this package, wherever it starts."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def _sum(parts: Sequence[Progress]) -> Progress:
    return Progress(
        sum(part.num_open for part in parts),
        sum(part.num_done for part in parts),
        sum(part.num_failed for part in parts),
    )
