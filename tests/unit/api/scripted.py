"""The API over engines that are a script: all of an ingress but Serve, vLLM and sockets, in one event loop.

A script says what the model does: text with harmony's markers spelled, None for ever waiting, an exception.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx2
from fastapi import FastAPI

from serve_app.admission.client import GateClient
from serve_app.admission.protocol import Ask
from serve_app.admission.slot_grants import SlotGrant
from serve_app.answers.items import TokenLogprob
from serve_app.api.application import new_app
from serve_app.api.generation import Generator, Limits
from serve_app.api.inbox import Inbox
from serve_app.api.repair_report import RepairReport
from serve_app.api.routes import Service as ServiceFacts
from serve_app.api.routes import add_routes
from serve_app.api.sampling import Sampling
from serve_app.api.sealing import Sealer
from serve_app.errors import UNFORESEEN, EngineFailedError, ServiceError
from serve_app.harmony import tokens
from serve_app.harmony.tokens import Vocabulary
from tests import asgi
from tests.unit.admission.gates import client_of
from tests.waiting import pass_until

MAX_MODEL_LEN = 4096
MODEL = "gpt-oss-demo"
NAMES = (MODEL, "openai/gpt-oss-20b")
REPLY = (
    "<|channel|>analysis<|message|>Just greet.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Hello there, friend.<|return|>"
)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
USER = [{"role": "user", "content": "Say hello."}]
# A small request of each API.
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": USER},
    COMPLETIONS: {"model": MODEL, "prompt": "a"},
    RESPONSES: {"model": MODEL, "input": "Say hello."},
    MESSAGES: {"model": MODEL, "messages": USER, "max_tokens": 500},
}
PATHS = sorted(BODIES)

Part = str | Exception | None
Script = Callable[["Started"], Sequence[Part]]
_SPECIAL = re.compile(r"(<\|[a-z]+\|>)")


@cache
def special_tokens() -> dict[str, int]:
    return {
        f"<|{name.lower()}|>": getattr(tokens, name)
        for name in ("START", "END", "MESSAGE", "CHANNEL", "CONSTRAIN", "RETURN", "CALL", "ENDOFTEXT")
    }


def token_ids(text: str) -> list[int]:
    """Harmony's markers become special tokens, all else ordinary ones."""
    ids: list[int] = []
    for piece in _SPECIAL.split(text):
        if piece in special_tokens():
            ids.append(special_tokens()[piece])
        elif piece:
            ids += Vocabulary.load().encode(piece)
    return ids


@dataclass
class Started:
    """A sequence as the engine was asked for it."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: Sampling
    structural_tag: str | None
    grant: SlotGrant
    choice: int
    seed_offset: int

    @property
    def prompt(self) -> str:
        vocabulary = Vocabulary.load()
        return b"".join(map(vocabulary.bytes_of, self.prompt_token_ids)).decode()


class ScriptedSequence:
    num_lost = 0

    def __init__(self) -> None:
        self.task: asyncio.Task[None]

    def cancel(self) -> None:
        self.task.cancel()


@dataclass
class ScriptedEngines:
    """In place of `RemoteEngine`: waits for its slot, then says what the script has for the sequence."""

    script: Script = lambda _: [REPLY]
    tokens_per_step: int = 3
    finish: str = "stop"
    num_cached_tokens: int = 0
    started: list[Started] = field(default_factory=list)
    inboxes: list[Inbox] = field(default_factory=list)
    num_open: int = 0
    num_left_early: int = 0
    is_left: asyncio.Event = field(default_factory=asyncio.Event)
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    params_error: Exception | None = None
    has_started: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_started(self, num_sequences: int) -> None:
        """Until that many have been started."""
        while len(self.started) < num_sequences:
            self.has_started.clear()
            await self.has_started.wait()

    def sampling_params(self, sampling: Sampling, structural_tag: str | None) -> Any:
        if self.params_error:
            raise self.params_error
        return structural_tag

    def start(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: Any,
        sampling: Sampling,
        grant: SlotGrant,
        inbox: Inbox,
        choice: int,
        seed_offset: int,
    ) -> ScriptedSequence:
        one = Started(request_id, list(prompt_token_ids), sampling, params, grant, choice, seed_offset)
        self.started.append(one)
        self.inboxes.append(inbox)
        self.has_started.set()
        sequence = ScriptedSequence()
        self.num_open += 1
        sequence.task = asyncio.create_task(self._run(one, inbox))
        # A task that is cancelled before it has begun runs none of its own code.
        sequence.task.add_done_callback(lambda task: self._ended(one, task.cancelled()))
        return sequence

    def _ended(self, one: Started, is_cancelled: bool) -> None:
        self.num_open -= 1
        one.grant.release(len(one.prompt_token_ids))
        if is_cancelled:
            self.num_left_early += 1
            self.is_left.set()

    async def _run(self, one: Started, inbox: Inbox) -> None:
        try:
            await one.grant.granted()
            parts = list(self.script(one))
            for part in parts:
                if part is None:
                    self.waits.set()
                    await asyncio.Event().wait()
                elif isinstance(part, Exception):
                    raise part
                else:
                    await self._say(one, inbox, token_ids(part))
            self._end(one, inbox)
        except ServiceError as error:
            inbox.fail(error)
        except Exception:
            inbox.fail(EngineFailedError(UNFORESEEN))

    async def _say(self, one: Started, inbox: Inbox, ids: list[int]) -> None:
        for begin in range(0, len(ids), self.tokens_per_step):
            step, new = inbox.step(one.choice), ids[begin : begin + self.tokens_per_step]
            step.token_ids += new
            step.num_cached_tokens = self.num_cached_tokens
            if one.sampling.logprobs is not None:
                alternatives = tuple((200 + i, -1.0 - i) for i in range(one.sampling.logprobs))
                step.logprobs = (step.logprobs or []) + [TokenLogprob(t, -0.5, alternatives) for t in new]
            inbox.added(len(new), is_last=False)
            await asyncio.sleep(0)

    def _end(self, one: Started, inbox: Inbox) -> None:
        step = inbox.step(one.choice)
        step.finish = "length" if self.finish == "length" else "stop"
        inbox.added(0, is_last=True)


class Service:
    """The application of an ingress over `ScriptedEngines`, and the requests that the gate was asked for."""

    def __init__(self, gate: GateClient, **app: Any) -> None:
        self.gate, self.engines = gate, ScriptedEngines()
        self.asked: list[Ask] = []
        self.repairs: list[tuple[str, str, int]] = []
        self.checked: list[tuple[str, str]] = []
        self.check_grammar: Callable[[str, str], Awaitable[None]] = self._note_grammar
        self.app = self._new_app(**app)
        ask = gate.ask

        def noted(*arguments: Any) -> Any:
            request = ask(*arguments)
            self.asked.append(request.ask)
            return request

        gate.ask = noted  # type: ignore[method-assign, assignment]

    async def _note_grammar(self, structural_tag: str, param: str) -> None:
        self.checked.append((structural_tag, param))

    def _new_app(
        self,
        keep_alive_s: float = 60.0,
        max_body_bytes: int = 1 << 20,
        max_unread_tokens: int = 500,
        origins: Sequence[str] = (),
        num_ready_engines: Callable[[], int] = lambda: 1,
    ) -> FastAPI:
        vocabulary = Vocabulary.load()
        generator = Generator(
            self.engines,
            vocabulary,
            NAMES,
            Limits(MAX_MODEL_LEN, max_unread_tokens),
            lambda tag, param: self.check_grammar(tag, param),
            RepairReport(lambda *repair: self.repairs.append(repair)).add,
        )
        app = new_app(max_body_bytes, num_ready_engines, origins)
        facts = ServiceFacts(NAMES, MODEL, "0.32.0", keep_alive_s)
        add_routes(app, generator, self.gate, vocabulary, Sealer(bytes(32)), facts)
        return app

    def client(self) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        return asgi.client_of(self.app)

    async def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return await asgi.request(self.app, method, path, **options)

    async def post(self, path: str = CHAT, headers: Any = None, **body: Any) -> httpx2.Response:
        return await self.request("POST", path, json=BODIES.get(path, {}) | body, headers=headers)

    def exchange(self, path: str, **body: Any) -> asgi.Exchange:
        """A request whose course the test sees."""
        content = json.dumps(BODIES[path] | body).encode()
        return asgi.Exchange(self.app, asgi.scope_of(path), asgi.body_of(content))

    def check_nothing_is_left(self) -> None:
        """Of any request, in engines, gate or the stand-in for it."""
        assert self.engines.num_open == 0
        [known] = self.gate._own._ingresses.values()
        assert len(known.requests) == len(self.gate._requests) == 0
        assert (self.gate._own.num_running, self.gate._own.num_waiting) == (0, 0)


@asynccontextmanager
async def scripted_service(*replicas: str, app: Any = None, **rules: Any) -> AsyncIterator[Service]:
    """A service whose rules are those given; fails if anything of a request is left behind the block."""
    rules_ = {"max_concurrent_requests": 8} | rules
    async with client_of(None, *(replicas or ("a",)), **rules_) as (gate, _):
        service = Service(gate, **(app or {}))
        yield service
        # The last calls end after their responses.
        await pass_until(lambda: service.engines.num_open == 0)
        service.check_nothing_is_left()


def message_of(answer: Any) -> str:
    """The error's message; checks that the body is in the API's form and short."""
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.content) < 2048
    body = answer.json()
    if "type" in body:
        assert body["type"] == "error"
        assert set(body["error"]) >= {"type", "message"}
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}
    message: str = body["error"]["message"]
    return message


def events_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    """The data of a stream's events, without OpenAI's end mark."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
