"""What is seen of an engine: whether it hangs, and whether it has been idle for so long that nobody knows.

Neither Serve nor vLLM notices a hang. The replica answers Serve's health checks, since its event loop is
well, and vLLM watches whether its engine process lives, which a process that waits for its GPU for ever does.

No token for a while is no hang yet: a request waits for its grammar to be compiled, and the loop of the
engine core goes round beside that. A ping is answered between two rounds. A core that waits for its GPU
answers none.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

logger = logging.getLogger("ray.serve")

# Of the time between two looks, so much counts. Serve checks every two seconds; a longer gap means that this
# very process did not run (its node slept, its loop was busy), and then nobody has looked for tokens either.
MAX_GAP_S = 5.0
# An engine core ends a request whose grammar is not compiled after so long: `vllm_worker.compile_threads`. So
# one that goes round has made a token or ended a request by then.
MAX_GRAMMAR_WAIT_S = 60.0
# An engine that has had no request for so long generates a token by itself, a canary. Longer than the pauses
# of a service in use, and short beside the time that an idle replica is kept.
CANARY_AFTER_S = 30.0
# Where tokens come, they say that the core goes round.
PING_AFTER_S = 1.0


class EngineWatch:
    """How long an engine has made no progress although requests run, or how long none have.

    A canary counts as a request that runs. Time counts in events and looks: what passes while this process
    does nothing is not held against the engine.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.num_running = 0
        self._cancel_canary: Callable[[], object] | None = None
        self._seen = clock()
        self._watched_s = 0.0
        self._progress = self._round = self._ended = 0.0  # when last, in watched time

    def begin(self) -> None:
        """A request has begun. A canary makes way for it."""
        if cancel := self._cancel_canary:
            self._cancel_canary = None
            cancel()
        self._begin()

    def begin_canary(self, cancel: Callable[[], object]) -> None:
        """A canary has begun. `cancel` is called when a request begins before it has ended."""
        self._cancel_canary = cancel
        self._begin()

    def _begin(self) -> None:
        if not self.num_running:
            self.progress()
        self.num_running += 1

    def end(self) -> None:
        """A request has ended, in whatever way."""
        self.num_running -= 1
        self._ended = self._now()

    def end_canary(self) -> None:
        """A canary has ended, in whatever way."""
        self._cancel_canary = None
        self.end()

    @property
    def is_canary_running(self) -> bool:
        """Whether a canary runs, and then nothing else does."""
        return self._cancel_canary is not None

    def progress(self) -> None:
        """Tokens have come, or the end of a request."""
        self._progress = self._round = self._now()

    def went_round(self) -> None:
        """The loop of the engine core has come round once more."""
        self._round = self._now()

    def silent_s(self) -> float:
        """Returns the seconds without progress; none where no request runs."""
        now = self._now()
        return now - self._progress if self.num_running else 0.0

    def is_ping_due(self) -> bool:
        """Whether only an answer to a ping can say that the engine core goes round."""
        return self.silent_s() >= PING_AFTER_S

    def is_canary_due(self) -> bool:
        """Whether there has been no request for so long that one must be made."""
        return not self.num_running and self._now() - max(self._ended, self._progress) >= CANARY_AFTER_S

    def hang(self, timeout_s: float) -> str | None:
        """Returns what the engine core does if the engine hangs, or None. To be asked regularly."""
        silent_s = self.silent_s()
        if silent_s < timeout_s:
            return None
        if self._now() - self._round >= timeout_s:
            return "does not answer"
        if silent_s >= timeout_s + MAX_GRAMMAR_WAIT_S:
            return "goes round and makes none"
        return None

    def _now(self) -> float:
        now = self._clock()
        self._watched_s += min(now - self._seen, MAX_GAP_S)
        self._seen = now
        return self._watched_s


def leave_if_stalled(
    watch: EngineWatch,
    timeout_s: float,
    kill: Callable[[], None],
    leave: Callable[[int], object] = os._exit,
) -> None:
    """Ends this process, by `leave`, if `EngineWatch.hang` says so. `kill` ends the engine's processes first.

    At once, as when an engine has died: a replica that hangs would draw requests until Serve has noticed,
    and its callers learn of its end within milliseconds.
    """
    problem = watch.hang(timeout_s)
    if problem is None:
        return
    logger.critical(
        "the vLLM engine hangs: no token for %.0f s with %s running, and its core %s "
        "(engine.stall_timeout_s is %g). "
        "Its processes are killed, which frees the GPU, and this replica leaves; Serve starts another. "
        "If that repeats, look at the GPU (nvidia-smi, dmesg) and at what vLLM logged before",
        watch.silent_s(),
        "only a canary" if watch.is_canary_running else f"{watch.num_running} requests",
        problem,
        timeout_s,
    )
    try:
        kill()
    finally:
        leave(1)
