"""What the start of an engine replica has spent its time on, written down as it goes.

A start is a file of JSON lines, `FOLDER/starts/REPLICA.jsonl`, to which the replica and the processes of its
engine append: whatever hangs or dies, what came before is there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from serve_app.staging.locks import Lock

logger = logging.getLogger("ray.serve")

# Leads the engine's processes to the file of their replica's start.
VARIABLE = "SERVE_APP_START"
# Starts that a node remembers.
MAX_STARTS = 50

STAGING = "staging"
IMPORTS = "imports"
CACHE_RESTORE = "cache restore"
# From the first process of vLLM to the last, as the replica sees it; made up of those that follow.
ENGINE = "engine"
PROCESSES = "processes"
WEIGHTS = "weights"
COMPILE = "compile"
PROFILE = "profile"
KERNELS = "kernels"
CAPTURE = "capture"
WARM_UP = "warm-up"
# In the order in which they end.
PHASES = (
    STAGING,
    IMPORTS,
    CACHE_RESTORE,
    PROCESSES,
    WEIGHTS,
    COMPILE,
    PROFILE,
    CAPTURE,
    KERNELS,
    WARM_UP,
)


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line. `seconds` is what a phase took without those inside it, or what the whole start took."""

    at: float
    kind: Literal["start", "begin", "end", "note", "ready", "failed"]
    phase: str = ""
    seconds: float = 0.0
    about: dict[str, Any] = {}


def append(path: Path, event: Event) -> None:
    """Adds `event` to the file. A file that cannot be written costs a line of the report, no more."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(file, msgspec.json.encode(event, enc_hook=str) + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        logger.debug("%s: %s", path, error)


class Recorder:
    """Appends phases to the file at `path`. What happens inside a phase can be a phase of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Seconds of the phases inside each open one.
        self._inner_s = [0.0]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Records the block as the phase `name`, also when it raises."""
        self._append("begin", name)
        start = time.perf_counter()
        self._inner_s.append(0.0)
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._append("end", name, max(0.0, seconds - self._inner_s.pop()))
            self._inner_s[-1] += seconds

    def measured(self, name: str, seconds: float) -> None:
        """Records a phase that has passed inside the open one, and that somebody else has timed."""
        self._append("end", name, seconds)
        self._inner_s[-1] += seconds

    def _append(self, kind: Literal["begin", "end"], name: str, seconds: float = 0.0) -> None:
        append(self.path, Event(time.time(), kind, name, round(seconds, 3)))


class Timeline(Recorder):
    """The start of the replica `replica`, as a context: when it is left, the replica is ready or has failed.

    Sets the variable that leads the processes of the engine to the file. Nothing here fails a start.
    """

    def __init__(self, folder: Path, replica: str, about: Mapping[str, Any]) -> None:
        super().__init__(folder / "starts" / f"{replica}.jsonl")
        self._about = dict(about)
        self._lock: Lock | None = None
        self._start = 0.0

    def __enter__(self) -> Timeline:
        self._start = time.perf_counter()
        try:
            _forget_old(self.path.parent)
            # Held while starting, so that a start that died can be told from one that goes on.
            self._lock = Lock(self.path)
            self._lock.try_exclusive()
        except OSError as error:
            logger.warning("%s: %s; `stage report` will not show this start", self.path, error)
        os.environ[VARIABLE] = str(self.path)
        append(self.path, Event(time.time(), "start", about=self._about))
        return self

    def note(self, **about: Any) -> None:
        """Adds to what is known about the start."""
        append(self.path, Event(time.time(), "note", about=about))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = round(time.perf_counter() - self._start, 3)
        if kind is None:
            append(self.path, Event(time.time(), "ready", seconds=seconds))
        else:
            about = {"error": f"{kind.__name__}: {error}"[:500]}
            append(self.path, Event(time.time(), "failed", seconds=seconds, about=about))
        if self._lock:
            self._lock.close()


def _forget_old(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    starts = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in starts[MAX_STARTS - 1 :]:
        path.unlink(missing_ok=True)
