"""Clients that leave at any moment, among others and what fails: all that was opened is closed, and once.

Each example is a few requests, and a schedule: what happens next is drawn, and how far the event loop comes
before. A client goes as ASGI says it, by a message, or as Serve does, which cancels the task.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from serve_app.admission.protocol import Ask, Close, Message, Release
from serve_app.api import long_bodies
from serve_app.api.generation import Generator
from serve_app.errors import BadRequestError, EngineLostError
from tests.asgi import Exchange, body_of, scope_of
from tests.examples import num_examples
from tests.unit.api.scripted import BODIES, CHAT, COMPLETIONS, PATHS, REPLY, Part, Service, scripted_service
from tests.waiting import pass_until

pytestmark = pytest.mark.timeout(300)

NUM_EXAMPLES = num_examples(300)
BEGIN = "<|channel|>final<|message|>Hello there"
SCRIPTS: list[list[Part]] = [
    [REPLY],
    [BEGIN, None],
    [None],
    [EngineLostError("the replica has died")],
    [BEGIN, EngineLostError("the replica has died")],
    [BEGIN, RuntimeError("a wire broke")],
    # More than a client may leave unread.
    [BEGIN + " word" * 600, None],
]
WITH_A_GRAMMAR = {"response_format": {"type": "json_object"}}
# In a thread.
LONG = [{"role": "user", "content": "word " * (long_bodies.MAX_INLINE_BYTES // 4)}]


class Example:
    """Some requests of one service, whose course is drawn."""

    def __init__(self, service: Service, choices: random.Random) -> None:
        self.service, self.choices = service, choices
        self.grammars_are_checked, self.may_render = asyncio.Event(), threading.Event()
        self.grammar_error: Exception | None = choices.choice(
            [None, None, BadRequestError("no grammar", "response_format"), RuntimeError("a wire broke")]
        )
        self.messages: list[Message] = []
        self.exchanges: list[Exchange] = []
        self.told: set[int] = set()
        service.check_grammar = self._check_grammar
        service.engines.script = lambda _: choices.choice(SCRIPTS)
        send = service.gate.send

        def noted(message: Message) -> None:
            self.messages.append(message)
            send(message)

        service.gate.send = noted  # type: ignore[method-assign]

    async def _check_grammar(self, *_: str) -> None:
        await self.grammars_are_checked.wait()
        if self.grammar_error:
            raise self.grammar_error

    def begin(self) -> None:
        """One more request, perhaps with a part of its body only."""
        choices = self.choices
        path = choices.choice(PATHS)
        body = BODIES[path] | {"stream": choices.random() < 0.5}
        if path in (CHAT, COMPLETIONS):
            body["n"] = choices.choice([1, 1, 2, 5])
            body |= choices.choice([{}, WITH_A_GRAMMAR])
        if path == CHAT and choices.random() < 0.3:
            body["messages"] = LONG
        content = json.dumps(body).encode()
        middle = choices.randrange(len(content))
        is_whole = choices.random() < 0.8
        pieces = [content[:middle], content[middle:]] if is_whole else [content[:middle]]
        exchange = Exchange(self.service.app, scope_of(path), body_of(*pieces, is_whole=is_whole))
        if choices.random() < 0.3:
            exchange.reads.clear()
        self.exchanges.append(exchange)

    def go_on(self) -> None:
        """The next thing that happens."""
        choices = self.choices
        match choices.choice(["begin", "begin", "leave", "leave", "cancel", "check", "render", "read"]):
            case "begin":
                self.begin()
            case "leave" if self.exchanges:
                choices.choice(self.exchanges).leave()
            case "cancel" if self.exchanges:
                choices.choice(self.exchanges).task.cancel()
            case "check":
                self.grammars_are_checked.set()
            case "render":
                self.may_render.set()
            case "read" if self.exchanges:
                choices.choice(self.exchanges).reads.set()

    async def end(self) -> None:
        """All leave who have not had their answer, some of them twice."""
        waiting = [exchange for exchange in self.exchanges if not exchange.task.done()]
        self.choices.shuffle(waiting)
        for exchange in waiting:
            exchange.leave()
            if self.choices.random() < 0.3:
                exchange.task.cancel()
        # A client that has gone reads nothing, and the server's `send` returns.
        for exchange in self.exchanges:
            exchange.reads.set()
        self.may_render.set()
        ends = await asyncio.gather(*(exchange.task for exchange in self.exchanges), return_exceptions=True)
        assert not [end for end in ends if end and not isinstance(end, asyncio.CancelledError)]

    def check(self) -> None:
        """Each request that has asked is closed once, and each of its slots given back once at most."""
        said = Counter(
            (type(message).__name__, message.request, getattr(message, "sequence", None))
            for message in self.messages
            if isinstance(message, Ask | Release | Close)
        )
        assert not said or max(said.values()) == 1
        asked = {request for kind, request, _ in said if kind == "Ask"}
        closed = {request for kind, request, _ in said if kind == "Close"}
        # What the gate has refused it has forgotten.
        assert closed <= asked
        refused = {ask.request for ask in self.service.asked} - closed
        assert not [
            message
            for message in self.messages
            if isinstance(message, Release) and message.request in refused
        ]


@contextmanager
def rendering_that_waits(patch: pytest.MonkeyPatch) -> Iterator[list[threading.Event]]:
    """In threads, rendering waits for the event that is in the list."""
    may_render: list[threading.Event] = []
    prompts = Generator.prompts

    def waiting(self: Generator, *arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            may_render[-1].wait()
        return prompts(self, *arguments)

    with patch.context() as inner:
        inner.setattr(Generator, "prompts", waiting)
        yield may_render


async def test_what_was_opened_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: Counter[int] = Counter()
    with rendering_that_waits(monkeypatch) as may_render:
        for seed in range(NUM_EXAMPLES):
            choices = random.Random(seed)
            tasks = asyncio.all_tasks()
            rules = {"max_concurrent_requests": 3, "max_queued": choices.randrange(8)}
            async with scripted_service(**rules) as service:
                example = Example(service, choices)
                may_render.append(example.may_render)
                example.begin()
                for _ in range(choices.randrange(25)):
                    for _ in range(choices.choice([0, 1, 2, 5, 20])):
                        await asyncio.sleep(0)
                    example.go_on()
                await example.end()
                await pass_until(lambda: service.engines.num_open == 0)
                example.check()
                statuses.update(one.status for one in example.exchanges if one.sent)
                # The tasks of the gate's client are the service's.
                own = {task for task in asyncio.all_tasks() - tasks if task is not service.gate.task}
                assert not own, seed
    assert {200, 400, 429, 500, 503} <= set(statuses)
