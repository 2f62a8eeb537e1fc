"""A hostile request: what is sent, how, and which statuses are right for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from benchmarks.chaos.questions import CHAT, COMPLETIONS, MESSAGES, PATHS, RESPONSES, plain

REFUSED, SERVED, EITHER = frozenset({400}), frozenset({200}), frozenset({200, 400})
# What a service that has more to do than it can may say instead: the client is to come back.
BUSY = frozenset({429, 503})
NUM_TOKENS = 4
MAX_BODY_BYTES = 4 << 20


class Conduct(StrEnum):
    """How a client behaves."""

    WAITS = "reads the answer"
    SLOW = "sends its body slowly"
    CHUNKED = "does not say how long its body is"
    LEAVES_SENDING = "leaves before its body is sent"
    LEAVES_WAITING = "leaves when it has sent its body"
    LEAVES_READING = "leaves in the middle of the answer"
    UNREAD = "does not read the answer"


@dataclass(frozen=True)
class Hostile:
    """What is sent. `name` is its form; `statuses` are none where nobody stays for one."""

    name: str
    path: str
    body: bytes
    statuses: frozenset[int]
    conduct: Conduct = Conduct.WAITS
    headers: Sequence[tuple[str, str]] = ()
    # HAProxy may answer in place of the service, in words of its own, or close the connection.
    is_for_proxy: bool = False


Form = Callable[[random.Random], Hostile]


@dataclass(frozen=True)
class Kind:
    """Requests that cost a service in one way. `forms` are drawn in turn, each with sizes of its own."""

    name: str
    what: str
    forms: Sequence[Form]
    may_be_busy: bool = False

    def draw(self, drawn: random.Random, number: int) -> Hostile:
        """Returns the one of that number, with what is random in it from `drawn`."""
        return self.forms[number % len(self.forms)](drawn)

    def is_right(self, hostile: Hostile, status: int | None) -> bool:
        """Whether a status is one that this request may get."""
        if not hostile.statuses or (status is None and hostile.is_for_proxy):
            return True
        return status in hostile.statuses or (self.may_be_busy and status in BUSY)


def encoded(body: Any) -> bytes:
    """JSON."""
    return msgspec.json.encode(body)


def chat(words: str = "Hi", **changes: Any) -> bytes:
    """Returns the body of a short chat with these fields changed."""
    return encoded(plain(CHAT, words, NUM_TOKENS, streamed=False) | changes)


def body(
    api: str, words: str, *, streamed: bool = False, num_tokens: int = NUM_TOKENS, **changes: Any
) -> bytes:
    """Returns the body of a request to any API."""
    return encoded(plain(api, words, num_tokens, streamed=streamed) | changes)


def with_schema(drawn: random.Random, schema: Any) -> tuple[str, bytes]:
    """Returns path and body of a request whose answer must be of a schema, on any of the APIs."""
    api = drawn.choice((CHAT, RESPONSES, MESSAGES))
    named = {"type": "json_schema", "name": "x", "schema": schema}
    if api == CHAT:
        return PATHS[CHAT], chat(
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        )
    if api == RESPONSES:
        return PATHS[RESPONSES], body(RESPONSES, "Hi", text={"format": named})
    del named["name"]
    return PATHS[MESSAGES], body(MESSAGES, "Hi", output_config={"format": named})


def with_outputs(drawn: random.Random, **outputs: Any) -> tuple[str, bytes]:
    """Returns path and body of a request with vLLM's `structured_outputs`, on any of OpenAI's APIs."""
    api = drawn.choice((CHAT, COMPLETIONS, RESPONSES))
    return PATHS[api], body(api, "Hi", structured_outputs=outputs)


def with_tools(
    drawn: random.Random, tools: Sequence[tuple[str, Any]], *, required: bool
) -> tuple[str, bytes]:
    """Returns path and body of a request with functions, by name and schema, on any of the APIs."""
    api = drawn.choice((CHAT, RESPONSES, MESSAGES))
    if api == CHAT:
        listed: Any = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in tools]
    elif api == RESPONSES:
        listed = [{"type": "function", "name": n, "parameters": s} for n, s in tools]
    else:
        listed = [{"name": n, "input_schema": {"type": "object"} | s} for n, s in tools]
    choice: Any = (
        {"type": "any" if required else "auto"} if api == MESSAGES else "required" if required else "auto"
    )
    return PATHS[api], body(api, "Hi", tools=listed, tool_choice=choice)


def text_of_any_api(drawn: random.Random, words: str) -> tuple[str, bytes]:
    """Returns path and body of a request with this text, on any of the APIs."""
    api = drawn.choice(tuple(PATHS))
    return PATHS[api], body(api, words)
