"""How far a long transfer is: a bar where a person looks, lines in the log where nobody does."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from serve_app.staging.manifest import Manifest

logger = logging.getLogger("ray.serve")

LOG_PERIOD_S = 10.0
# How often a process that waits for another's download looks how far it is.
FOLLOW_PERIOD_S = 1.0


class Progress:
    """Shows one transfer of `title`, as a bar on `console` or as lines in the log."""

    def __init__(self, title: str, console: Console | None) -> None:
        self._title = title
        self._console = console

    @classmethod
    def logged(cls, title: str) -> Progress:
        """Returns one that writes a line into the log now and then."""
        return cls(title, None)

    @classmethod
    def shown(cls, title: str) -> Progress:
        """Returns one that draws a bar if standard error is a terminal, and writes lines otherwise."""
        console = Console(stderr=True)
        return cls(title, console if console.is_terminal else None)

    @contextmanager
    def of(self, total_bytes: int, verb: str = "") -> Iterator[Callable[[int], None]]:
        """Yields what is to be told of every transferred bytes; any thread may call it."""
        title = f"{verb} {self._title}".strip()
        if self._console:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(binary_units=False),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            with Bar(*columns, console=self._console) as bar:
                task = bar.add_task(title, total=total_bytes)
                yield lambda count: bar.advance(task, count)
        else:
            lines = _Lines(title, total_bytes)
            yield lines.add
            lines.end()


class _Lines:
    """A line at the start, every `LOG_PERIOD_S`, and at the end."""

    def __init__(self, title: str, total_bytes: int) -> None:
        self._title = title
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._start = self._last = time.monotonic()
        logger.info("%s: %s", title, _size(total_bytes))

    def add(self, count: int) -> None:
        """Counts transferred bytes."""
        with self._lock:
            self._done_bytes += count
            now = time.monotonic()
            if now - self._last < LOG_PERIOD_S:
                return
            self._last = now
            # What is sent again is counted back, down to nothing.
            rate = max(1.0, self._done_bytes / (now - self._start))
        left_s = (self._total_bytes - self._done_bytes) / rate
        logger.info(
            "%s: %s of %s, %s/s, %.0f s left",
            self._title,
            _size(self._done_bytes),
            _size(self._total_bytes),
            _size(rate),
            left_s,
        )

    def end(self) -> None:
        """Says what it took."""
        seconds = time.monotonic() - self._start
        rate = _size(self._done_bytes / max(seconds, 1e-9))
        logger.info("%s: %s in %.1f s, %s/s", self._title, _size(self._done_bytes), seconds, rate)


def _size(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


@contextmanager
def follow(marks: Path, manifest: Manifest, progress: Progress) -> Iterator[None]:
    """Shows, while the block lasts, another process's download, by what it writes in `marks`."""
    done = threading.Event()

    def watch() -> None:
        with progress.of(manifest.total_bytes, "another process is staging") as on_bytes:
            seen = 0
            while not done.wait(FOLLOW_PERIOD_S):
                present = min(manifest.total_bytes, _marked_chunks(marks) * manifest.chunk_bytes)
                if present > seen:
                    on_bytes(present - seen)
                    seen = present

    watcher = threading.Thread(target=watch, name="staging-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _marked_chunks(marks: Path) -> int:
    count = 0
    # Unlike `rglob`, `walk` passes over folders that vanish: the download may end just now.
    for folder, _, names in os.walk(marks):
        for name in names:
            with suppress(OSError):
                count += Path(folder, name).read_bytes().count(1)
    return count
