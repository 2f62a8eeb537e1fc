"""A worker process: `python -m serve_app.bench.worker FD`, started by `workers`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection as Pipe

import numpy as np
import numpy.typing as npt
import uvloop

from serve_app.bench import events
from serve_app.bench.arrivals import share
from serve_app.bench.protocol import Prepare, Progress, Ready, Setting, Share, Start
from serve_app.bench.traffic import Traffic, every

PROGRESS_PERIOD_S = 0.5
LAG_PERIOD_S = 0.05
# Requests of an open loop that are made ahead.
NUM_AHEAD = 16


class Round:
    """One round of a worker's part."""

    def __init__(self, setting: Setting, plan: Prepare, pipe: Pipe) -> None:
        self._setting, self._plan, self._pipe = setting, plan, pipe
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._is_sending = True
        self._stop_ns: int | None = None
        self._last_sent_ns: int | None = None
        self._lags_s: list[float] = []
        self._num_due = 0
        part, parts = setting.part, setting.num_parts
        self._concurrency = share(plan.concurrency, part, parts)
        # Requests are counted off in turn, so that the numbers do not depend on how fast each worker is.
        requests = len(plan.due_ns) if plan.due_ns is not None else plan.requests
        self._traffic = Traffic(
            setting.load,
            setting.model,
            setting.target,
            plan.seed,
            every(part, parts, requests),
            self._on_end,
        )

    async def prepare(self) -> None:
        """Open the connections."""
        first = self._concurrency or NUM_AHEAD
        await self._traffic.prepare(self._concurrency, first)

    async def run(self, start_ns: int) -> Share:
        """Send from `start_ns` on, wait for the last answer, then read them all."""
        timers = [
            self._loop.create_task(self._watch_lag()),
            self._loop.create_task(self._report()),
        ]
        if self._plan.end_after_s is not None:
            self._stop_ns = start_ns + int(self._plan.end_after_s * 1e9)
        if self._plan.due_ns is None:
            await asyncio.sleep((start_ns - time.monotonic_ns()) / 1e9)
            cpu_s = time.process_time()
            for _ in range(self._concurrency):
                self._send_next()
            self._end_if_idle()
        else:
            mine = self._plan.due_ns[self._setting.part :: self._setting.num_parts]
            self._num_due = len(mine)
            cpu_s = time.process_time()
            pacer = threading.Thread(target=self._pace, args=(mine + start_ns,), daemon=True)
            pacer.start()
            self._end_if_idle()
        await self._done.wait()
        wall_s, cpu_s = (time.monotonic_ns() - start_ns) / 1e9, time.process_time() - cpu_s
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)
        self._traffic.close()
        # The books of the last answer.
        await asyncio.sleep(0)
        records = [events.read(raw) for raw in self._traffic.spool.read()]
        return Share(records, cpu_s, wall_s, np.array(self._lags_s), self._last_sent_ns)

    def _on_end(self) -> None:
        if self._plan.due_ns is None:
            self._send_next()
        self._end_if_idle()

    def _send_next(self) -> None:
        now_ns = time.monotonic_ns()
        if self._is_sending and (self._stop_ns is None or now_ns < self._stop_ns):
            self._is_sending = self._traffic.send(now_ns)
            if self._is_sending:
                self._last_sent_ns = now_ns

    def _send_due(self, due_ns: int) -> None:
        self._num_due -= 1
        self._last_sent_ns = due_ns
        self._traffic.send(due_ns)

    def _end_if_idle(self) -> None:
        if self._traffic.num_open == 0 and self._num_due == 0:
            self._done.set()

    def _pace(self, due_ns: npt.NDArray[np.int64]) -> None:
        """Runs in a thread: the loop's own timers are as coarse as a millisecond."""
        for due in due_ns.tolist():
            wait_ns = due - time.monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            try:
                self._loop.call_soon_threadsafe(self._send_due, due)
            except RuntimeError:  # the loop is closed: nobody waits for this any more
                return

    async def _watch_lag(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_PERIOD_S)
            self._lags_s.append(max(0.0, time.monotonic() - before - LAG_PERIOD_S))

    async def _report(self) -> None:
        traffic = self._traffic
        while True:
            await asyncio.sleep(PROGRESS_PERIOD_S)
            try:
                self._pipe.send(Progress(traffic.num_open, traffic.num_done, traffic.num_failed))
            except BrokenPipeError:  # the program is gone
                self._done.set()
                return


async def _round(setting: Setting, plan: Prepare, pipe: Pipe) -> Share:
    current = Round(setting, plan, pipe)
    await current.prepare()
    pipe.send(Ready())
    start: Start = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    # Nothing that is kept during a round is a cycle, and a collection stops the clock for all streams.
    gc.collect()
    gc.disable()
    try:
        return await current.run(start.start_ns)
    finally:
        gc.enable()


def main() -> None:
    """Does rounds until the program closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Pipe(int(sys.argv[1])) as pipe, contextlib.suppress(EOFError, BrokenPipeError):
        setting: Setting = pipe.recv()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            while True:
                plan: Prepare = pipe.recv()
                pipe.send(runner.run(_round(setting, plan, pipe)))


if __name__ == "__main__":
    main()
