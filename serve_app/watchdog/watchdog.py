"""What ends a replica whose event loop stands still for good: a process beside it.

Serve sees it by its health checks, but has it drain first, which such a replica does not: its calls would
stay open for as long as an answer may take. Then Serve has Ray kill it, and Ray asks the process itself,
which does not hear: it would keep its GPU. Killed from beside, it ends as one that has died, and its
sequences go on elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys

from serve_app.watchdog import process

# As long as Serve's three health checks.
TIMEOUT_S = 30.0
SIGN_S = 1.0


class Watchdog:
    """Must be made in a running event loop, which is the one that is watched; `close` it at the end."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", process.__file__, str(os.getpid()), str(timeout_s)],
            stdin=subprocess.PIPE,
            # What ends a group of processes is not meant for it.
            start_new_session=True,
        )
        assert self._process.stdin
        self._signs = self._process.stdin.fileno()
        # One that does not read must not hold up the loop.
        os.set_blocking(self._signs, False)
        self._task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        # Without it, there is nobody who watches: as it is without a watchdog.
        with contextlib.suppress(BrokenPipeError):
            while True:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._signs, b".")
                await asyncio.sleep(SIGN_S)

    def close(self) -> None:
        """Ends the watch."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._task.cancel()
        assert self._process.stdin
        self._process.stdin.close()
