"""Clients that stream chats, and look whether they came whole."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.services import MODEL, Service


@dataclass(frozen=True)
class Answer:
    """A streamed chat. `first_at` is when the first token came, None for none."""

    status: int
    headers: httpx.Headers
    num_tokens: int
    finish_reason: str | None
    is_whole: bool
    first_at: float | None
    error: Any

    @property
    def is_good(self) -> bool:
        """Whether it was served, to its end."""
        return self.is_whole and self.error is None and self.finish_reason is not None


def chat(
    service: Service, num_tokens: int, *, key: str | None = None, name: str | None = None, **body: Any
) -> Answer:
    """Streams one chat of this many tokens; `name` becomes part of its id."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    } | body
    first_at, reason, count, error, last = None, None, 0, None, ""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if name:
        headers["X-Request-Id"] = name
    with httpx.stream(
        "POST", f"{service.v1}/chat/completions", json=body, headers=headers, timeout=180
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
                if choice["delta"].get("content") and first_at is None:
                    first_at = time.monotonic()
                reason = choice["finish_reason"] or reason
    return Answer(response.status_code, response.headers, count, reason, last == "[DONE]", first_at, error)


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
