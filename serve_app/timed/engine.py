"""The timed engine: an engine replica without a model, which generates at a set rate.

For measuring what is around engines, on machines without a GPU. Its answers take the real path: harmony
tokens, encoded as vLLM's engine core outputs, in step frames to the ingress that asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from serve_app.config import AppConfig
from serve_app.engine_health import EngineHealth
from serve_app.errors import IngressBlockedError, IngressLostError
from serve_app.stall import EngineWatch
from serve_app.timed.answers import Answer, Output, Vocabulary, encode, merge
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameLink, FrameSender
from serve_app.watchdog import Watchdog

RECORD_BUFFER_BYTES = 1 << 20


class TimedEngine:
    """In place of `Engine` where the config has `engine.timed`, with the same methods."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: AppConfig, *, new_watchdog: Callable[[], Watchdog | None] = Watchdog
    ) -> None:
        timed = config.engine.timed
        assert timed is not None
        self._max_running = config.engine.max_concurrent_requests
        self._tokens_per_step = timed.tokens_per_step
        self._prefill_s = 1 / timed.prefill_tokens_per_second if timed.prefill_tokens_per_second else 0.0
        self._vocabulary = Vocabulary(config.engine.max_model_len)
        self._sender: FrameSender[Output] = FrameSender(encode, merge)
        self._step_s = 1 / timed.steps_per_second
        self._clock = StepClock(timed.steps_per_second)
        self._record = StepRecord(timed.record_path) if timed.record_path else None
        self._waiting: deque[_Request] = deque()
        self._running: dict[_Request, None] = {}  # in the order in which they began
        self._prefill_end = 0.0
        self.watch = EngineWatch()
        self._can_step = asyncio.Event()
        self._can_step.set()
        self._stepper: asyncio.Task[None] | None = None
        self._health = EngineHealth(self, config.engine.stall_timeout_s, watchdog=new_watchdog())

    async def generate(self, request: GenerateRequest) -> int:
        """Sends the tokens of `request` to its ingress, returns their number. Cancelling the call aborts.

        Returns early when the ingress is gone: see `TokenEngine.generate`.
        """
        answer = Answer(request, self._vocabulary)
        with contextlib.suppress(IngressLostError):
            async with self._sender.link(request.reply_to) as link:
                await self._generate(_Request(request, answer, link))
        return answer.position

    async def _generate(self, ours: _Request) -> None:
        self._waiting.append(ours)
        self.watch.begin()
        if self._stepper is None:
            self._stepper = asyncio.create_task(self._run())
        try:
            await ours.done
        finally:
            self.watch.end()
            self._running.pop(ours, None)
            with contextlib.suppress(ValueError):
                self._waiting.remove(ours)
            if self._record:
                self._record.write(ours, self._clock)
                if not self._running and not self._waiting:
                    self._record.flush()

    async def _run(self) -> None:
        """Makes steps for as long as there are requests."""
        self._clock.resume()
        while self._waiting or self._running:
            await self._clock.wait()
            await self._can_step.wait()
            self._step()
        self._stepper = None

    def _step(self) -> None:
        now, now_ns = time.monotonic(), time.monotonic_ns()
        while self._waiting and len(self._running) < self._max_running:
            self._begin(self._waiting.popleft(), now)
        ended: list[_Request] = []
        for request in self._running:
            if request.begins_at > now:
                continue
            answer, position = request.answer, request.answer.position
            # 2.5 tokens a step are 2 and 3 in turn.
            request.num_steps += 1
            num_due = request.begins_with + math.floor(request.num_steps * self._tokens_per_step)
            output = answer.take(num_due - position)
            try:
                request.link.add(request.sequence, position, output, answer.position - position)
            except IngressBlockedError as error:
                request.error = error
                ended.append(request)
                continue
            if self._record:
                request.emissions += (now_ns, answer.position - position)
            if answer.is_complete:
                ended.append(request)
            self.watch.progress()
        self._sender.flush()
        for request in ended:
            request.end()
            del self._running[request]

    def _begin(self, request: _Request, now: float) -> None:
        self._running[request] = None
        if self._prefill_s:
            self._prefill_end = max(self._prefill_end, now) + self._prefill_s * request.num_prefill_tokens
            request.begins_at = self._prefill_end

    async def num_unfinished_requests(self) -> int:
        """Requests that the engine is running or holds in its queue."""
        return len(self._running) + len(self._waiting)

    async def num_steps(self) -> tuple[int, int]:
        """How many steps were made while there were requests, and how many were left out for being late."""
        return self._clock.num_steps, self._clock.num_skipped

    async def hang(self) -> None:
        """Makes no step any more, as an engine whose GPU does not answer. For tests of what then happens."""
        self._can_step.clear()

    async def check_health(self) -> None:
        """Serve calls this; raising makes it replace the replica."""
        self._health.check()
        if self._stepper and self._stepper.done():
            self._stepper.result()

    async def ping(self) -> None:
        """Returns when a step can be made."""
        await self._can_step.wait()

    async def generate_token(self) -> None:
        """Generates one token, for nobody."""
        await asyncio.sleep(self._step_s)
        await self._can_step.wait()

    def kill(self) -> None:
        """Ends the engine's processes, which are this one."""
        self.close()

    def close(self) -> None:
        """Makes no more steps, and closes what is open."""
        self._health.close()
        if self._stepper:
            self._stepper.cancel()
        self._sender.close()
        if self._record:
            self._record.close()

    def __del__(self) -> None:
        # Serve's way of saying that the replica has drained. The constructor may not have come this far.
        if hasattr(self, "_health"):
            self.close()


class _Request:
    """A request in the engine."""

    def __init__(self, request: GenerateRequest, answer: Answer, link: FrameLink[Output]) -> None:
        self.request_id, self.sequence = request.request_id, request.sequence
        self.begins_with = len(request.output_token_ids)
        self.num_prefill_tokens = len(request.prompt_token_ids) + self.begins_with
        self.answer, self.link = answer, link
        self.received_ns = time.monotonic_ns()
        self.begins_at = 0.0
        self.num_steps = 0
        self.emissions: list[int] = []  # in turn: when, how many tokens
        self.error: Exception | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """Wakes `generate`, unless it has been cancelled."""
        if self.done.done():
            return
        if self.error:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(None)


class StepClock:
    """Steps at fixed points in time, `1 / rate` apart; those that have passed already are skipped.

    So a late step delays no later one, and `num_skipped` says whether the rate was kept.
    """

    def __init__(self, rate: float) -> None:
        self.num_steps = self.num_skipped = 0
        self._rate = rate
        self._zero = time.monotonic()
        self._next = 0

    def resume(self) -> None:
        """Goes on after a pause, which is no delay."""
        self._next = self._first_after(time.monotonic())

    async def wait(self) -> None:
        """Returns when the next step is due."""
        first = self._first_after(time.monotonic())
        if first > self._next:
            self.num_skipped += first - self._next
            self._next = first
        await asyncio.sleep(self._zero + self._next / self._rate - time.monotonic())
        self._next += 1
        self.num_steps += 1

    def _first_after(self, moment: float) -> int:
        return math.ceil((moment - self._zero) * self._rate)


class StepRecord:
    """Writes what each request got and when: JSON lines, in a file of this process in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = (folder / f"{os.getpid()}.jsonl").open("ab", RECORD_BUFFER_BYTES)

    def write(self, request: _Request, clock: StepClock) -> None:
        """Adds a request that has ended; times are of the machine's monotonic clock, in ns."""
        line = {
            "request_id": request.request_id,
            "received_ns": request.received_ns,
            "emissions": list(zip(request.emissions[::2], request.emissions[1::2], strict=True)),
            "steps": clock.num_steps,
            "skipped": clock.num_skipped,
        }
        self._file.write(msgspec.json.encode(line) + b"\n")

    def flush(self) -> None:
        """Hands everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
