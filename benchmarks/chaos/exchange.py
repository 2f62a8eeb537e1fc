"""An exchange over HTTP, without the connection: the request, and what its response says."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from benchmarks.chaos.answers import CutError, MalformedError, StreamError, read_body, read_stream
from benchmarks.chaos.questions import Question
from benchmarks.chaos.shape import ROOT
from benchmarks.chaos.verdicts import Attempt, End

# What scripts/haproxy has HAProxy say where no ingress answers.
_HEAD, _, _BODY = (ROOT / "scripts/unavailable.http").read_bytes().partition(b"\r\n\r\n")
NO_INGRESS: str = msgspec.json.decode(_BODY)["error"]["message"]


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


def judge(attempt: Attempt, received: Received) -> None:
    """Notes how an exchange has ended that no error of the connection has ended."""
    attempt.status = received.status
    content = b"".join(received.content)
    if received.status is None:
        attempt.end, attempt.detail = End.CUT, "before the status"
    elif received.status != 200:
        attempt.end = End.STATUS
        message = message_of(content)
        attempt.is_of_service = message != NO_INGRESS
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


def request(question: Question) -> bytes:
    """Returns what asks a question."""
    body = msgspec.json.encode(question.body)
    head = (
        f"POST {question.path} HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
