"""Threads of an engine core that compile grammars: each request has its own, and a limit on its time.

vLLM compiles in a few threads and waits for ever. One grammar that takes minutes then holds up all others,
and with as many of them as there are threads, no request with a grammar begins any more.

A compilation cannot be stopped. `grammars.checker` keeps away, in the ingresses, what takes longer than half
a minute by its estimate; this is for what it has not foreseen. The request ends with an error, alone, and the
thread goes on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from typing import Any

from serve_app import private_names
from serve_app.stall import MAX_GRAMMAR_WAIT_S

logger = logging.getLogger(__name__)

# A compilation that takes longer is slow: the next one begins beside it.
SLOW_AFTER_S = 5.0
# So many slow ones at once; then others wait, so that they do not take all processors and memory.
MAX_SLOW = 4
# The loop that feeds the GPU comes first, also where a compilation takes eight threads: they inherit it.
NICENESS = 10


class GrammarTimeoutError(Exception):
    """A grammar has not been compiled in time."""


class LimitedFuture(Future[Any]):
    """A future that fails when its time is up, as soon as somebody asks whether it is done.

    vLLM's scheduler asks in each round for which the request waits.
    """

    def __init__(self, deadline: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._deadline, self._clock = deadline, clock

    def done(self) -> bool:
        """Whether there is a result, or has to be one."""
        if not super().done() and self._clock() >= self._deadline:
            self.settle(
                lambda: self.set_exception(
                    GrammarTimeoutError(f"the grammar was not compiled within {MAX_GRAMMAR_WAIT_S:.0f} s")
                )
            )
        return super().done()

    def settle(self, how: Callable[[], None]) -> None:
        """Sets what comes first, and leaves out what comes afterwards."""
        with contextlib.suppress(InvalidStateError):
            how()


class CompileThreads:
    """Stands in for the `ThreadPoolExecutor` of vLLM's `StructuredOutputManager`: a thread for each call."""

    def __init__(
        self, max_wait_s: float = MAX_GRAMMAR_WAIT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_wait_s, self._clock = max_wait_s, clock

    def submit(self, function: Callable[..., Any], *args: Any) -> LimitedFuture:
        """Calls the function, and returns a future that fails when that takes too long."""
        future = LimitedFuture(self._clock() + self._max_wait_s, self._clock)

        def run() -> None:
            try:
                result = function(*args)
            except BaseException as error:
                failure = error
                future.settle(lambda: future.set_exception(failure))
            else:
                future.settle(lambda: future.set_result(result))

        # A daemon: nothing waits for it when the engine ends.
        threading.Thread(target=run, name="compile-grammar", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Does nothing: nobody asks for the futures any more."""


class CompileSlots:
    """How many compilations run at once: some, and some slow ones beside them."""

    def __init__(
        self,
        num_slots: int,
        *,
        max_slow: int = MAX_SLOW,
        slow_after_s: float = SLOW_AFTER_S,
        max_wait_s: float = MAX_GRAMMAR_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_slots, self._max_slow = num_slots, max_slow
        self._slow_after_s, self._max_wait_s = slow_after_s, max_wait_s
        self._clock = clock
        self._changed = threading.Condition()
        self._begins: dict[object, float] = {}

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Waits for a slot and holds it. Raises `GrammarTimeoutError` when none becomes free in time."""
        place = object()
        with self._changed:
            self._wait(self._clock() + self._max_wait_s)
            self._begins[place] = self._clock()
        try:
            yield
        finally:
            with self._changed:
                del self._begins[place]
                self._changed.notify_all()

    def _wait(self, deadline: float) -> None:
        while (now := self._clock()) < deadline:
            becomes_slow = [at for begin in self._begins.values() if (at := begin + self._slow_after_s) > now]
            if len(self._begins) < self._num_slots + self._max_slow and len(becomes_slow) < self._num_slots:
                return
            self._changed.wait(min([deadline, *becomes_slow]) - now)
        logger.error(
            "a grammar was not compiled: %d others have been compiling for too long. Only the end of this "
            "engine ends them: if that repeats, replace its replica, and find out whose grammars they are",
            len(self._begins),
        )
        raise GrammarTimeoutError(f"no thread for the grammar became free within {self._max_wait_s:.0f} s")


def num_slots() -> int:
    """Returns how many compilations run at once on this machine: as many as vLLM has threads for them."""
    return (len(os.sched_getaffinity(0)) + 1) // 2


def yield_to_others() -> None:
    """Gives this thread, and those that it starts, a lower priority."""
    # Not every sandbox knows priorities of threads.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def install() -> None:
    """Lets vLLM compile in such threads, in this process (an engine core).

    Raises `PrivateNameError` where vLLM would not use them.
    """
    private_names.check(__name__)
    from vllm.v1.structured_output import StructuredOutputManager

    original = StructuredOutputManager.grammar_init

    @functools.wraps(original)
    def grammar_init(self: Any, request: Any) -> None:
        # One thread of the engine core calls it. A vLLM without a tokenizer has no threads, and no grammars.
        threads = getattr(self, "executor", None)
        if threads is not None and not isinstance(threads, CompileThreads):
            threads.shutdown()
            self.executor = CompileThreads()
        original(self, request)

    StructuredOutputManager.grammar_init = grammar_init
