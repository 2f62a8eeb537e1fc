"""Locks between the processes of a node. The kernel releases them when a process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_open: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """An open lock file. `with` or `close` releases it; so does the end of the process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not inherited: a child must not keep what its dead parent has locked.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _open.add(self)

    def try_exclusive(self) -> bool:
        """Takes the lock for this holder alone, or returns False when anyone has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def exclusive(self) -> None:
        """Waits until the lock is this holder's alone."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def shared(self) -> None:
        """Waits until nobody has the lock alone; others may share it."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def touch(self) -> None:
        """Sets the lock file's time of modification to now. Once it is closed, does nothing."""
        if self._file >= 0:
            os.utime(self._file)

    def close(self) -> None:
        """Releases the lock. Doing it again does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close_all() -> None:
    for lock in list(_open):
        lock.close()


# A forked child shares the parent's open files, and with them its locks, until it closes them.
os.register_at_fork(after_in_child=_close_all)


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock `path` alone for the block. `on_wait` is called once if somebody else has it."""
    with Lock(path) as lock:
        if not lock.try_exclusive():
            on_wait()
            lock.exclusive()
        yield
