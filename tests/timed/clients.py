"""Clients that stream chats, and look whether they came whole."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import httpx

from tests.services import MODEL, Service

# At the rate of these engines, ten minutes: whoever asks for as many leaves before they have come.
NUM_TOKENS_WITHOUT_END = 30_000
# Between two pieces of an answer. Only a request that was forgotten takes as long.
TIMEOUT_S = 300


@dataclass(frozen=True)
class Answer:
    """A streamed chat."""

    status: int
    headers: httpx.Headers
    num_tokens: int
    finish_reason: str | None
    is_whole: bool
    error: Any

    @property
    def is_good(self) -> bool:
        """Whether it was served, to its end."""
        return self.is_whole and self.error is None and self.finish_reason is not None


def body_of(num_tokens: int, **body: Any) -> dict[str, Any]:
    """A chat of exactly this many tokens."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "stream": True,
    } | body


def chat(
    service: Service,
    num_tokens: int,
    *,
    key: str | None = None,
    name: str | None = None,
    enough: threading.Event | None = None,
    **body: Any,
) -> Answer:
    """Streams one chat of this many tokens; `name` becomes part of its id.

    The client leaves with the next token that it gets when `enough` is set.
    """
    body = body_of(num_tokens, stream_options={"include_usage": True}, **body)
    reason, count, error, last = None, 0, None, ""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if name:
        headers["X-Request-Id"] = name
    with httpx.stream(
        "POST", f"{service.v1}/chat/completions", json=body, headers=headers, timeout=TIMEOUT_S
    ) as response:
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line.removeprefix("data: ")
            if last == "[DONE]":
                continue
            chunk = json.loads(last)
            error = chunk.get("error", error)
            if chunk.get("usage"):
                count = chunk["usage"]["completion_tokens"]
            for choice in chunk.get("choices", ()):
                reason = choice["finish_reason"] or reason
            if enough and enough.is_set() and error is None:
                break
    return Answer(response.status_code, response.headers, count, reason, last == "[DONE]", error)


class HeldRequest:
    """A stream without end, which nobody reads. It keeps its slot, or its place in the queue."""

    def __init__(
        self, service: Service, *, key: str | None = None, name: str | None = None, **body: Any
    ) -> None:
        self._connection = HTTPConnection(service.url.removeprefix("http://"))
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if name:
            headers["X-Request-Id"] = name
        content = json.dumps(body_of(NUM_TOKENS_WITHOUT_END, **body))
        self._connection.request("POST", "/v1/chat/completions", content, headers)
        self._status: int | None = None

    @property
    def status(self) -> int | None:
        """Of the response, None for as long as nothing has come."""
        if self._status is None and select.select([self._connection.sock], [], [], 0)[0]:
            self._status = self._connection.getresponse().status
        return self._status

    def leave(self) -> None:
        """The client closes its connection."""
        self._connection.close()


@contextmanager
def held(service: Service, number: int, **options: Any) -> Iterator[list[HeldRequest]]:
    """So many requests that keep what they have got until they leave, at the end of the block or before."""
    with ExitStack() as stack:
        requests = []
        for _ in range(number):
            requests.append(HeldRequest(service, **options))
            stack.callback(requests[-1].leave)
        yield requests


@contextmanager
def clients(service: Service, number: int, num_tokens: int) -> Iterator[Callable[[], list[Answer]]]:
    """So many clients at a time, one chat after another. Yields what stops them and returns all answers."""
    enough = threading.Event()

    def keep_chatting() -> list[Answer]:
        answers = []
        while not enough.is_set():
            answers.append(chat(service, num_tokens))
        return answers

    with ThreadPoolExecutor(number) as pool:
        running = [pool.submit(keep_chatting) for _ in range(number)]

        def stop() -> list[Answer]:
            enough.set()
            return [answer for client in running for answer in client.result()]

        try:
            yield stop
        finally:
            enough.set()
