"""An engine that hangs: requests run, and no token comes. Its replica leaves, so that Serve starts another.

Neither Serve nor vLLM notices. The replica answers Serve's health checks, since its event loop is well, and
vLLM watches whether its engine process lives, which a process that waits for its GPU for ever does.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

logger = logging.getLogger("ray.serve")

# Of the time between two checks, so much counts. Serve checks every two seconds; a longer gap means that this
# very process did not run (its node slept, its loop was busy), and then nobody has looked for tokens either.
MAX_GAP_S = 5.0


class TokenWatch:
    """How long there has been no token although requests run. Quiet when none do.

    Counts in the checks: time that nobody has looked at is not held against the engine.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.num_running = 0
        self._silent_s = 0.0
        self._seen = 0.0

    def begin(self) -> None:
        """A request has begun."""
        if not self.num_running:
            self.token()
        self.num_running += 1

    def end(self) -> None:
        """A request has ended, in whatever way."""
        self.num_running -= 1

    def token(self) -> None:
        """Tokens have come, of any request."""
        self._silent_s = 0.0
        self._seen = self._clock()

    def silent_s(self) -> float:
        """Returns the seconds without a token; to be asked regularly."""
        if not self.num_running:
            return 0.0
        now = self._clock()
        self._silent_s += min(now - self._seen, MAX_GAP_S)
        self._seen = now
        return self._silent_s


def leave_if_stalled(
    watch: TokenWatch,
    timeout_s: float,
    kill: Callable[[], None],
    leave: Callable[[int], object] = os._exit,
) -> None:
    """Ends this process, by `leave`, if no token has come for `timeout_s`. `kill` ends the engine's first.

    At once, as when an engine has died: a replica that hangs would draw requests until Serve has noticed,
    and its callers learn of its end within milliseconds.
    """
    silent_s = watch.silent_s()
    if silent_s < timeout_s:
        return
    logger.critical(
        "the vLLM engine hangs: no token for %.0f s with %d requests running (engine.stall_timeout_s is %g). "
        "Its processes are killed, which frees the GPU, and this replica leaves; Serve starts another. "
        "If that repeats, look at the GPU (nvidia-smi, dmesg) and at what vLLM logged before",
        silent_s,
        watch.num_running,
        timeout_s,
    )
    try:
        kill()
    finally:
        leave(1)
