"""What an answer says, whichever API it is of: to be compared with the one of an unbroken run.

Ids and times are left out, which differ from answer to answer. A stream is read by its pieces, and its last
event, where that repeats them, has to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks.chaos.questions import CHAT, COMPLETIONS, MESSAGES, RESPONSES

Json = dict[str, Any]


class StreamError(Exception):
    """A stream that an error event has ended; the text is its message."""


class CutError(Exception):
    """An answer that ended before its end."""


class MalformedError(Exception):
    """An answer that no client could read."""


@dataclass
class Choice:
    """One of the answers to a request. `calls` are names and arguments of functions.

    `logprobs` are the tokens that have come with log probabilities, as many alternatives each, and not these
    themselves: their last digits differ between batches.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    finish: str | None = None
    logprobs: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Answer:
    """All choices, in order, and how many tokens of output were counted."""

    choices: list[Choice]
    num_tokens: int | None

    def difference(self, other: Answer) -> str:
        """Returns in a few words where `other`, which is not equal, differs first."""
        if len(self.choices) != len(other.choices):
            return f"{len(other.choices)} choices, not {len(self.choices)}"
        for ours, theirs in zip(self.choices, other.choices, strict=True):
            for name in ("text", "reasoning", "calls", "logprobs", "finish"):
                expected, found = getattr(ours, name), getattr(theirs, name)
                if expected != found:
                    return f"{name}: {_contrast(expected, found)}"
        return f"{other.num_tokens} tokens counted, not {self.num_tokens}"


def read_body(api: str, content: bytes) -> Answer:
    """Returns the answer in a body. Raises `MalformedError`."""
    with _reading():
        return _BODIES[api](msgspec.json.decode(content))


def read_stream(api: str, data: Sequence[bytes]) -> Answer:
    """Returns the answer in the data of a stream's events.

    Raises `StreamError`, `CutError` or `MalformedError`.
    """
    is_ended = bool(data) and data[-1] == b"[DONE]"
    with _reading():
        events = [msgspec.json.decode(line) for line in data if line != b"[DONE]"]
        for event in events:
            if (error := event.get("error")) or event.get("type") == "error":
                raise StreamError(str((error or event).get("message")))
        if api == MESSAGES:
            is_ended = bool(events) and events[-1]["type"] == "message_stop"
        if not is_ended:
            raise CutError(f"after {len(events)} events")
        return _STREAMS[api](events)


class _reading:  # noqa: N801  # a context manager, as contextlib's are
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(
            error, (KeyError, TypeError, IndexError, AttributeError, ValueError, msgspec.DecodeError)
        ):
            raise MalformedError(f"{type(error).__name__}: {error}") from error


def _chat_body(body: Json) -> Answer:
    choices = []
    for one in sorted(body["choices"], key=lambda one: one["index"]):
        message = one["message"]
        calls = [[c["function"]["name"], c["function"]["arguments"]] for c in message.get("tool_calls") or ()]
        reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
        logprobs = _chat_logprobs(one)
        choices.append(Choice(message.get("content") or "", reasoning, calls, one["finish_reason"], logprobs))
    return Answer(choices, body["usage"]["completion_tokens"])


def _completions_body(body: Json) -> Answer:
    ordered = sorted(body["choices"], key=lambda one: one["index"])
    choices = [
        Choice(one["text"], finish=one["finish_reason"], logprobs=_completions_logprobs(one))
        for one in ordered
    ]
    return Answer(choices, body["usage"]["completion_tokens"])


def _responses_body(body: Json) -> Answer:
    choice = Choice(finish=body["status"])
    for item in body["output"]:
        if item["type"] == "message":
            choice.text += "".join(part["text"] for part in item["content"])
            for part in item["content"]:
                choice.logprobs += _logprobs(part.get("logprobs"))
        elif item["type"] == "reasoning":
            choice.reasoning += "".join(part["text"] for part in item.get("content") or ())
        else:
            choice.calls.append([item["name"], item["arguments"]])
    return Answer([choice], body["usage"]["output_tokens"])


def _messages_body(body: Json) -> Answer:
    choice = Choice(finish=body["stop_reason"])
    for block in body["content"]:
        if block["type"] == "text":
            choice.text += block["text"]
        elif block["type"] == "thinking":
            choice.reasoning += block["thinking"]
        else:
            choice.calls.append([block["name"], msgspec.json.encode(block["input"]).decode()])
    return Answer([choice], body["usage"]["output_tokens"])


def _chat_stream(events: Iterable[Json]) -> Answer:
    choices: dict[int, Choice] = {}
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for one in event["choices"]:
            choice, delta = choices.setdefault(one["index"], Choice()), one["delta"]
            choice.text += delta.get("content") or ""
            choice.reasoning += delta.get("reasoning") or delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                if call["index"] == len(choice.calls):
                    choice.calls.append(["", ""])
                ours, function = choice.calls[call["index"]], call["function"]
                ours[0] += function.get("name") or ""
                ours[1] += function.get("arguments") or ""
            choice.logprobs += _chat_logprobs(one)
            choice.finish = one.get("finish_reason") or choice.finish
    return Answer([choices[index] for index in sorted(choices)], usage and usage["completion_tokens"])


def _completions_stream(events: Iterable[Json]) -> Answer:
    choices: dict[int, Choice] = {}
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for one in event["choices"]:
            choice = choices.setdefault(one["index"], Choice())
            choice.text += one["text"]
            choice.logprobs += _completions_logprobs(one)
            choice.finish = one.get("finish_reason") or choice.finish
    return Answer([choices[index] for index in sorted(choices)], usage and usage["completion_tokens"])


def _responses_stream(events: Sequence[Json]) -> Answer:
    text = reasoning = arguments = ""
    logprobs: list[tuple[str, int]] = []
    for event in events:
        if event["type"] == "response.output_text.delta":
            text += event["delta"]
            logprobs += _logprobs(event.get("logprobs"))
        elif event["type"] == "response.reasoning_text.delta":
            reasoning += event["delta"]
        elif event["type"] == "response.function_call_arguments.delta":
            arguments += event["delta"]
    answer = _responses_body(events[-1]["response"])
    [whole] = answer.choices
    said = text, reasoning, arguments, logprobs
    if said != (whole.text, whole.reasoning, "".join(call[1] for call in whole.calls), whole.logprobs):
        raise MalformedError("the last event says something else than those before it")
    return answer


def _messages_stream(events: Iterable[Json]) -> Answer:
    choice, num_tokens = Choice(), None
    for event in events:
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            choice.calls.append([event["content_block"]["name"], ""])
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            choice.text += delta.get("text", "")
            choice.reasoning += delta.get("thinking", "")
            if "partial_json" in delta:
                choice.calls[-1][1] += delta["partial_json"]
        elif event["type"] == "message_delta":
            choice.finish = event["delta"]["stop_reason"]
            num_tokens = event["usage"]["output_tokens"]
    return Answer([choice], num_tokens)


def _logprobs(entries: Iterable[Json] | None) -> list[tuple[str, int]]:
    return [(entry["token"], len(entry["top_logprobs"])) for entry in entries or ()]


def _chat_logprobs(choice: Json) -> list[tuple[str, int]]:
    return _logprobs((choice.get("logprobs") or {}).get("content"))


def _completions_logprobs(choice: Json) -> list[tuple[str, int]]:
    logprobs = choice.get("logprobs") or {"tokens": (), "top_logprobs": ()}
    return [
        (token, len(top)) for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
    ]


def _contrast(expected: Any, found: Any) -> str:
    if not (isinstance(expected, str) and isinstance(found, str)):
        return f"{found!r}, not {expected!r}"
    pairs = zip(expected, found, strict=False)
    same = next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))
    return f"{len(found)} characters, not {len(expected)}; equal for {same}, then {found[same : same + 30]!r}"


_BODIES: dict[str, Callable[[Json], Answer]] = {
    CHAT: _chat_body,
    COMPLETIONS: _completions_body,
    RESPONSES: _responses_body,
    MESSAGES: _messages_body,
}
_STREAMS: dict[str, Callable[[Sequence[Json]], Answer]] = {
    CHAT: _chat_stream,
    COMPLETIONS: _completions_stream,
    RESPONSES: _responses_stream,
    MESSAGES: _messages_stream,
}
