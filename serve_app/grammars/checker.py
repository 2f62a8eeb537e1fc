"""Whether a structural tag can become a grammar, found out in processes that may die of it.

A regular expression of a few KiB can take minutes and gigabytes to compile, and nothing in xgrammar can be
stopped. So each grammar goes to a worker (`grammars.worker`) first, whose time and memory are limited, and to
an engine only when the worker has said yes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from pathlib import Path

import msgspec

from serve_app.errors import BadRequestError, GrammarsBusyError
from serve_app.grammars import worker as grammar_worker
from serve_app.grammars.vocabulary import STOP_TOKENS, grammar_vocabulary
from serve_app.grammars.worker import CPU_RATIO, NICENESS, SAMPLING, frame
from serve_app.harmony.tokens import CHANNEL, FIRST_SPECIAL, MESSAGE, Vocabulary

logger = logging.getLogger("ray.serve")

# On all processors together, in the engine: eight threads of it compile. Ten strings of different lengths up
# to 1,000 take 18 s, a schema without limited lengths well below one.
MAX_COMPILE_CPU_S = 30.0
MAX_MEMORY_BYTES = 512 * 1024 * 1024
MAX_TAG_BYTES = 1024 * 1024
MAX_JUDGEMENTS = 4096

# Between attempts to start a worker.
_MIN_PAUSE_S, _MAX_PAUSE_S = 1.0, 30.0
# A worker has the lowest priority. It starts in half a second where the machine has nothing else to do.
_MAX_START_S = 60.0
# How long a check may take where others want the processor too.
_MIN_WALL_S, _WALL_RATIO = 5.0, 20.0

# A worker that follows one which has died has a low priority before all imports, which take most of a start:
# who sends what workers die of has them started all the time.
_FIRST = ("-m", grammar_worker.__name__)
_NEXT = (
    "-c",
    f"import os; os.nice({NICENESS}); import runpy; "
    f"runpy.run_module({grammar_worker.__name__!r}, run_name='__main__', alter_sys=True)",
)

TOO_LONG = "it takes too long to compile"
CRASHED = "it is too large or nested too deeply to compile"


class GrammarChecker:
    """Checks structural tags in worker processes. For use in one event loop; `close` it at the end."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        num_workers: int = 2,
        max_compile_cpu_s: float = MAX_COMPILE_CPU_S,
        max_wait_s: float = 10.0,
        max_waiting: int = 64,
    ) -> None:
        """`max_compile_cpu_s` is what a grammar may take in an engine, by estimate.

        At most `max_waiting` grammars wait for a worker, each for `max_wait_s` at most.
        """
        self._vocabulary = vocabulary
        self._num_workers, self._max_wait_s, self._max_waiting = num_workers, max_wait_s, max_waiting
        self._max_cpu_s = max_compile_cpu_s / CPU_RATIO
        self._workers: list[_Worker] = []
        self._free: asyncio.Queue[_Worker] = asyncio.Queue()
        self._judgements: OrderedDict[bytes, str | None] = OrderedDict()
        self._checks: dict[bytes, asyncio.Task[str | None]] = {}
        self._starts: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Starts the workers in the background, so that the first grammar need not wait for one."""
        if self._workers:
            return
        sample = msgspec.msgpack.encode(_sample(self._vocabulary))
        self._workers = [_Worker(sample, self._max_cpu_s) for _ in range(self._num_workers)]
        for worker in self._workers:
            self._start_in_background(worker)

    async def check(self, structural_tag: str, param: str) -> None:
        """Raises `BadRequestError` for a tag that cannot become a grammar within the limits.

        `param` is the field that it comes from. Raises `GrammarsBusyError` when no worker becomes free.
        """
        encoded = structural_tag.encode()
        if len(encoded) > MAX_TAG_BYTES:
            problem: str | None = f"it has {len(encoded):,} bytes and may have {MAX_TAG_BYTES:,}"
        else:
            problem = await self._judge(encoded)
        if problem:
            raise BadRequestError(f"{param} cannot become a grammar: {problem}", param)

    async def _judge(self, encoded: bytes) -> str | None:
        digest = hashlib.blake2b(encoded, digest_size=16).digest()
        if digest in self._judgements:
            self._judgements.move_to_end(digest)
            return self._judgements[digest]
        check = self._checks.get(digest)
        if check is None:
            if len(self._checks) >= self._max_waiting:
                raise GrammarsBusyError("too many grammars are being checked", retry_after_s=self._max_wait_s)
            check = self._checks[digest] = asyncio.create_task(self._check(digest, encoded))
            check.add_done_callback(lambda done: self._forget(digest, done))
        # A client that leaves does not stop it: others may wait for the same, and it ends soon.
        return await asyncio.shield(check)

    def _forget(self, digest: bytes, check: asyncio.Task[str | None]) -> None:
        self._checks.pop(digest, None)
        if not check.cancelled():
            check.exception()  # seen, also where nobody waits any more

    async def _check(self, digest: bytes, encoded: bytes) -> str | None:
        self.start()
        problem = await self._ask(encoded)
        if problem == CRASHED:
            # The worker may have died of something else.
            problem = await self._ask(encoded)
        self._judgements[digest] = problem
        if len(self._judgements) > MAX_JUDGEMENTS:
            self._judgements.popitem(last=False)
        return problem

    async def _ask(self, encoded: bytes) -> str | None:
        try:
            worker = await asyncio.wait_for(self._free.get(), self._max_wait_s)
        except TimeoutError:
            raise GrammarsBusyError(
                "no worker for grammars is free", retry_after_s=self._max_wait_s
            ) from None
        try:
            return await worker.check(encoded)
        finally:
            if worker.is_alive:
                self._free.put_nowait(worker)
            else:
                self._start_in_background(worker)

    def _start_in_background(self, worker: _Worker) -> None:
        start = asyncio.create_task(self._start(worker))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)

    async def _start(self, worker: _Worker) -> None:
        pause_s = _MIN_PAUSE_S
        while not await worker.start():
            logger.error("a worker for grammars has not started; again in %.0f s", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
        self._free.put_nowait(worker)

    async def close(self) -> None:
        """Ends the workers; checks under way fail."""
        tasks = [*self._starts, *self._checks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self._workers:
            await worker.close()


class _Worker:
    """A process that compiles one grammar after the other."""

    def __init__(self, sample: bytes, max_cpu_s: float) -> None:
        self._sample, self._max_cpu_s = sample, max_cpu_s
        self._process: Process | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> bool:
        """Returns whether it is ready for work."""
        await self.close()  # it stays known: this one is not the first
        package = str(Path(__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", *(_NEXT if self._process else _FIRST), str(self._max_cpu_s), str(MAX_MEMORY_BYTES)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # xgrammar's warnings, and what it says while it dies
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError:
            logger.exception("a worker for grammars cannot be started")
            return False
        return await self._exchange(self._sample, _MAX_START_S) is not None

    async def check(self, encoded: bytes) -> str | None:
        """Returns what is the matter with a grammar, or None. The worker may be dead afterwards."""
        assert self._process is not None
        answer = await self._exchange(encoded, _MIN_WALL_S + _WALL_RATIO * self._max_cpu_s)
        if answer is not None:
            return answer.decode() or None
        if self._process.returncode == -signal.SIGKILL:
            raise GrammarsBusyError("a grammar could not be checked in time", retry_after_s=_MIN_WALL_S)
        return TOO_LONG if self._process.returncode == -signal.SIGPROF else CRASHED

    async def _exchange(self, content: bytes, max_s: float) -> bytes | None:
        """Returns the answer; None if there is none, and then the process has ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(max_s):
                process.stdin.write(frame(content))
                await process.stdin.drain()
                length = int.from_bytes(await process.stdout.readexactly(4))
                return await process.stdout.readexactly(length)
        except TimeoutError:
            # It got too little of the processor, or the kernel's limit has failed.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it has died
        await process.wait()
        return None

    async def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


def _sample(vocabulary: Vocabulary) -> grammar_worker.Vocabulary:
    """The vocabulary as a worker gets it: single bytes, special tokens and some of the others."""
    tokens = grammar_vocabulary(vocabulary)
    return grammar_worker.Vocabulary(
        num_tokens=len(tokens),
        tokens={
            token_id: text
            for token_id, text in enumerate(tokens)
            if token_id % SAMPLING == 0 or token_id >= FIRST_SPECIAL or len(text) == 1
        },
        stop_tokens=list(STOP_TOKENS),
        first_special=FIRST_SPECIAL,
        markers=(CHANNEL, MESSAGE),
    )
