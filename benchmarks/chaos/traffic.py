"""Clients: each asks one question after another; some leave, and some do not read for a while."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools
import msgspec

from benchmarks.chaos.answers import Answer, CutError, MalformedError, StreamError, read_body, read_stream
from benchmarks.chaos.questions import Question
from benchmarks.chaos.verdicts import Attempt, End

# The longest that a migration takes, and more: whoever waits longer has been forgotten.
SILENCE_S = 90.0
# Small, so that what a client does not read stays with the service.
UNREAD_BYTES = 4096
LEAVES, PAUSES = "leaves", "does not read"
LEAVE_AFTER_S, PAUSE_AFTER_S, PAUSE_S = (0.0, 6.0), (0.0, 3.0), (2.0, 8.0)
# After an error, as the clients of OpenAI and Anthropic wait before they try again.
AFTER_ERROR_S = 0.5


@dataclass
class Received:
    """An HTTP response, as far as it has come."""

    status: int | None = None
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: list[bytes] = field(default_factory=list)
    is_complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser calls this and the others."""
        self.headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """Of the body, without the marks of its chunks."""
        self.content.append(data)

    def on_message_complete(self) -> None:
        """At the end."""
        self.is_complete = True


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
            if pauses:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
            await asyncio.get_running_loop().sock_connect(raw, self._address)
            reader, writer = await asyncio.open_connection(sock=raw, limit=UNREAD_BYTES)
            try:
                writer.write(_head_and_body(attempt.question))
                pause_at_s = attempt.sent_s + drawn.uniform(*PAUSE_AFTER_S) if pauses else None
                parser, last_s = httptools.HttpResponseParser(received), None
                while not received.is_complete:
                    async with asyncio.timeout(SILENCE_S):
                        data = await reader.read(1 << 16)
                    if not data:
                        return
                    parser.feed_data(data)
                    received.status = parser.get_status_code()
                    now_s = self.now_s()
                    attempt.first_s = attempt.first_s or now_s
                    if attempt.question.is_streamed and not pauses and b"data: " in data:
                        if last_s is not None and now_s - last_s > attempt.pause_s:
                            attempt.pause_s, attempt.pause_ended_s = now_s - last_s, now_s
                        last_s = now_s
                    if pause_at_s is not None and now_s > pause_at_s:
                        pause_at_s = None
                        await asyncio.sleep(drawn.uniform(*PAUSE_S))
            finally:
                # Whoever leaves does so at once, with what it has not read.
                writer.transport.abort()


def judge(attempt: Attempt, received: Received) -> None:
    """Notes how an exchange has ended that no error of the connection has ended."""
    attempt.status = received.status
    content = b"".join(received.content)
    if received.status is None:
        attempt.end, attempt.detail = End.CUT, "before the status"
    elif received.status != 200:
        attempt.end = End.STATUS
        message = message_of(content)
        attempt.is_of_service = message is not None
        attempt.detail = f"{received.status}: {message or content[:200].decode(errors='replace')}"
    else:
        _judge_answer(attempt, received, content)


def _judge_answer(attempt: Attempt, received: Received, content: bytes) -> None:
    question = attempt.question
    try:
        if question.is_streamed:
            lines = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: ")]
            if not received.is_complete:
                raise CutError(f"after {len(lines)} events")
            attempt.answer = read_stream(question.api, lines)
        elif not received.is_complete:
            raise CutError(f"after {len(content)} bytes")
        else:
            attempt.answer = read_body(question.api, content)
    except StreamError as error:
        attempt.end, attempt.detail = End.EVENT, str(error)
    except CutError as error:
        attempt.end, attempt.detail = End.CUT, str(error)
    except MalformedError as error:
        attempt.end, attempt.detail = End.MALFORMED, str(error)


def message_of(content: bytes) -> str | None:
    """Returns the message of an error as the APIs have it; None of what is no such error."""
    try:
        return str(msgspec.json.decode(content)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None


def _head_and_body(question: Question) -> bytes:
    body = msgspec.json.encode(question.body)
    head = (
        f"POST {question.path} HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
