"""Clients: each asks one question after another; some leave, and some do not read for a while."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import httptools

from benchmarks.chaos.answers import Answer
from benchmarks.chaos.exchange import Received, judge, request
from benchmarks.chaos.questions import Question
from benchmarks.chaos.verdicts import Attempt, End

# The longest that a migration takes, or an answer that comes as a whole on a busy machine, and more: whoever
# waits longer has been forgotten. A comment that keeps a connection alive says nothing.
SILENCE_S = 240.0
# Small, so that what a client does not read stays with the service.
UNREAD_BYTES = 4096
LEAVES, PAUSES = "leaves", "does not read"
LEAVE_AFTER_S, PAUSE_AFTER_S, PAUSE_S = (0.0, 6.0), (0.0, 3.0), (2.0, 8.0)
# After an error, as the clients of OpenAI and Anthropic wait before they try again.
AFTER_ERROR_S = 0.5


class Clients:
    """A number of clients, until they are told that it is enough. `attempts` are all that have ended."""

    def __init__(
        self,
        url: str,
        questions: Sequence[Question],
        seed: int,
        expected: Mapping[str, Answer],
        *,
        leaving: float,
        pausing: float,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`leaving` and `pausing` are shares of the requests; `expected` are the right answers by name."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._address = parts.hostname, parts.port
        self._questions = questions
        self._seed = seed
        self._shares = leaving, pausing
        self._expected = expected
        self._silence_s = silence_s
        self._began = time.monotonic()
        self._enough = asyncio.Event()
        self.attempts: list[Attempt] = []

    def begin(self) -> None:
        """Time is counted from here."""
        self._began = time.monotonic()

    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    async def run(self, number: int) -> None:
        """Returns when `stop` has been called and the last answers are there."""
        await asyncio.gather(*(self._client(index) for index in range(number)))

    def stop(self) -> None:
        """Begins no further request."""
        self._enough.set()

    async def _client(self, index: int) -> None:
        drawn = random.Random(f"{self._seed} {index}")
        while not self._enough.is_set():
            question = drawn.choice(self._questions)
            leaving, pausing = self._shares
            draw = drawn.random()
            behaviour = LEAVES if draw < leaving else PAUSES if draw < leaving + pausing else ""
            attempt = await self.ask(question, behaviour, drawn)
            if attempt.end is not End.ANSWER and attempt.end is not End.LEFT:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), AFTER_ERROR_S)

    async def ask(self, question: Question, behaviour: str, drawn: random.Random) -> Attempt:
        """Sends a question; returns what came of it, which is among `attempts` then."""
        attempt = Attempt(question, self.now_s(), behaviour)
        received = Received()
        asking = self._exchange(attempt, received, drawn)
        try:
            if behaviour == LEAVES:
                async with asyncio.timeout(drawn.uniform(*LEAVE_AFTER_S)):
                    await asking
            else:
                await asking
        except TimeoutError:
            attempt.end = End.LEFT if behaviour == LEAVES else End.SILENT
        except ConnectionRefusedError as error:
            attempt.end, attempt.detail = End.REFUSED, str(error)
        except OSError as error:
            attempt.end, attempt.detail = End.CUT, str(error)
        except httptools.HttpParserError as error:
            attempt.end, attempt.detail = End.MALFORMED, f"{type(error).__name__}: {error}"
        else:
            judge(attempt, received)
        if attempt.answer == (right := self._expected.get(attempt.question.name)):
            attempt.answer = right  # kept once, and not for each request
        attempt.ended_s = self.now_s()
        self.attempts.append(attempt)
        return attempt

    async def _exchange(self, attempt: Attempt, received: Received, drawn: random.Random) -> None:
        with socket.socket() as raw:
            raw.setblocking(False)
            pauses = attempt.behaviour == PAUSES
            can_pause = attempt.question.is_steady and not pauses
            if pauses:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
            await asyncio.get_running_loop().sock_connect(raw, self._address)
            reader, writer = await asyncio.open_connection(sock=raw, limit=UNREAD_BYTES)
            try:
                writer.write(request(attempt.question))
                pause_at_s = attempt.sent_s + drawn.uniform(*PAUSE_AFTER_S) if pauses else None
                parser, last_s = httptools.HttpResponseParser(received), None
                silent_at_s = self.now_s() + self._silence_s
                while not received.is_complete:
                    async with asyncio.timeout(silent_at_s - self.now_s()):
                        data = await reader.read(1 << 16)
                    if not data:
                        return
                    parser.feed_data(data)
                    received.status = parser.get_status_code()
                    now_s = self.now_s()
                    attempt.first_s = attempt.first_s or now_s
                    if b"data: " in data or not attempt.question.is_streamed:
                        silent_at_s = now_s + self._silence_s
                        if last_s is not None and now_s - last_s > attempt.pause_s and can_pause:
                            attempt.pause_s, attempt.pause_ended_s = now_s - last_s, now_s
                        last_s = now_s
                    if pause_at_s is not None and now_s > pause_at_s:
                        pause_at_s = None
                        await asyncio.sleep(drawn.uniform(*PAUSE_S))
            finally:
                # Whoever leaves does so at once, with what it has not read.
                writer.transport.abort()
