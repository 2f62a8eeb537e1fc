"""Ordinary clients: short requests, one after the other, all the time; when each piece of an answer came."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httptools

from benchmarks.chaos.answers import Answer
from benchmarks.chaos.exchange import Received, judge, request
from benchmarks.chaos.questions import COMPLETIONS, PATHS, Question, plain
from benchmarks.chaos.verdicts import Attempt, End

TIMEOUT_S = 120.0
MIN_TOKENS, MAX_TOKENS = 15, 30
# A conversation of an agent: read in a thread of the ingress.
LONG_WORDS = 20_000


@dataclass
class Asked:
    """A request, and when its answer came, in seconds."""

    name: str
    sent_s: float
    first_s: float | None = None  # after it was sent: the first piece of its stream
    gaps_s: list[float] = field(default_factory=list)  # between the pieces of a stream
    whole_s: float = 0.0
    problem: str = ""


def questions(seed: int) -> list[Question]:
    """Returns short requests of all APIs, streamed and not, and one with a long prompt."""
    drawn = random.Random(seed)
    found = []
    for index, api in enumerate([*PATHS] * 2):
        streamed = index < 6
        words = f"{index} " + "word " * drawn.randint(3, 60)
        sent = plain(api, words, drawn.randint(MIN_TOKENS, MAX_TOKENS), streamed=streamed)
        found.append(Question(f"{index} {api}", api, sent))
    sent = plain(COMPLETIONS, "word " * LONG_WORDS, MIN_TOKENS, streamed=True)
    return [*found, Question("long", COMPLETIONS, sent)]


class Ordinary:
    """As many clients as there are questions, each with its own. `asked` are all that have ended."""

    def __init__(self, address: tuple[str, int], asked: Sequence[Question]) -> None:
        self._address, self._questions = address, asked
        self._enough = asyncio.Event()
        self.expected: Mapping[str, Answer] = {}
        self.asked: list[Asked] = []

    async def learn(self) -> None:
        """Asks each question once, alone: what the answers have to equal."""
        found = {}
        for question in self._questions:
            attempt = Attempt(question, 0.0)
            await self._ask(question, attempt, Asked(question.name, time.monotonic()))
            if attempt.answer is None:
                raise RuntimeError(f"{question.name}: {attempt.end} {attempt.detail}")
            found[question.name] = attempt.answer
        self.expected = found

    async def run(self) -> None:
        """Returns when `stop` has been called and the last answers are there."""
        await asyncio.gather(*map(self._client, self._questions))

    def stop(self) -> None:
        """Begins no further request."""
        self._enough.set()

    async def _client(self, question: Question) -> None:
        while not self._enough.is_set():
            attempt, asked = Attempt(question, 0.0), Asked(question.name, time.monotonic())
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._ask(question, attempt, asked)
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                attempt.end, attempt.detail = End.CUT, f"{type(error).__name__}: {error}"
            asked.whole_s = time.monotonic() - asked.sent_s
            expected = self.expected[question.name]
            if attempt.answer is None:
                asked.problem = f"{attempt.end}: {attempt.detail}"[:300]
            elif attempt.answer != expected:
                asked.problem = expected.difference(attempt.answer)[:300]
            self.asked.append(asked)
            if asked.problem:
                await asyncio.sleep(0.5)  # as clients wait before they try again

    async def _ask(self, question: Question, attempt: Attempt, asked: Asked) -> None:
        received = Received()
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(_with_key(request(question), question.name))
            parser, last_s = httptools.HttpResponseParser(received), 0.0
            while not received.is_complete and (data := await reader.read(1 << 16)):
                parser.feed_data(data)
                received.status = parser.get_status_code()
                if question.is_streamed and b"data: " in data:
                    now_s = time.monotonic() - asked.sent_s
                    if asked.first_s is None:
                        asked.first_s = now_s
                    else:
                        asked.gaps_s.append(now_s - last_s)
                    last_s = now_s
        finally:
            writer.transport.abort()
        judge(attempt, received)


def _with_key(content: bytes, name: str) -> bytes:
    """Strangers have no key in common: turns and limits are of keys."""
    key = f"\r\nAuthorization: Bearer {name.replace(' ', '-')}\r\n"
    return content.replace(b"\r\n", key.encode(), 1)
