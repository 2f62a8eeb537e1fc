"""The watchdog's process: kills its parent when that has given no sign of life for too long.

    python process.py PID TIMEOUT_S

Signs are bytes on standard input, whose end says that the parent has ended. It imports next to nothing, since
each replica has one.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable

LOOK_S = 1.0
# What passes while this process does not run, on a machine that sleeps or is full, is not held against the
# other.
MAX_GAP_S = 2 * LOOK_S


class Silence:
    """How long nothing has been heard, in time in which somebody listened."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._looked, self._silent_s = clock(), 0.0

    def is_too_long(self, *, has_heard: bool) -> bool:
        """To be asked regularly."""
        now = self._clock()
        gap_s, self._looked = min(now - self._looked, MAX_GAP_S), now
        self._silent_s = 0.0 if has_heard else self._silent_s + gap_s
        return self._silent_s >= self._timeout_s


def watch(pid: int, timeout_s: float, fd: int) -> None:
    """Returns when the parent `pid` has ended, by itself or killed."""
    silence = Silence(timeout_s)
    while os.getppid() == pid:
        heard = bool(select.select([fd], [], [], LOOK_S)[0])
        if heard and not os.read(fd, 4096):
            return
        if silence.is_too_long(has_heard=heard):
            os.kill(pid, signal.SIGKILL)
            # Afterwards, since a full disk may hold it up. No logger: it would have to be imported.
            sys.stderr.write(
                f"process {pid} was killed: its event loop has stood still for {timeout_s:g} s; Serve starts "
                "another replica. If that repeats, py-spy shows what such a process does\n"
            )
            sys.stderr.flush()
            return


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]), sys.stdin.fileno())
