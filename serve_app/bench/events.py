"""Reads what was received, after the clock has stopped: server-sent events, usage, errors."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np

from serve_app.bench.request_record import MALFORMED, TRUNCATED, Raw, RequestRecord
from serve_app.client.stream import error_message

# An event ends with an empty line, however lines end.
_BLANK_LINE = re.compile(rb"\n\n|\r\n\r\n|\r\r")
_MESSAGE_CHARS = 300


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    id: str | None = None
    object: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def read(raw: Raw) -> RequestRecord:
    """Returns the record that `raw` holds; a failure on the way comes before what the answer says."""
    record = RequestRecord(
        raw.request_id, raw.due_ns, raw.sent_ns, raw.end_ns, raw.status, raw.failure, raw.message
    )
    content = b"".join(raw.pieces)
    if raw.status != 200 and raw.failure is None:
        record.error, record.message = _refusal(raw.status, content)
        if raw.retry_after is not None:
            with suppress(ValueError):
                record.retry_after_s = float(raw.retry_after)
    elif content.lstrip()[:1] == b"{":
        _read_document(record, raw, content)
    elif raw.status == 200:
        _read_stream(record, raw, content)
    return record


def _read_stream(record: RequestRecord, raw: Raw, content: bytes) -> None:
    ends = list(accumulate(map(len, raw.pieces)))
    receipts: list[list[int]] = []
    piece = begin = 0
    is_done = False
    for end in [*(match.end() for match in _BLANK_LINE.finditer(content)), len(content)]:
        data = _data(content[begin:end])
        begin = end
        if not data:
            continue
        if data == b"[DONE]":
            is_done = True
            continue
        try:
            event = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if end < len(content) and record.error is None:
                record.error, record.message = MALFORMED, str(error)
            continue
        num_chars = _take(record, event, data)
        if num_chars:
            while ends[piece] < end:
                piece += 1
            # One receipt can bring several pieces; they have one stamp.
            if receipts and receipts[-1][0] == raw.stamps[piece]:
                receipts[-1][1] += num_chars
                receipts[-1][2] += 1
            else:
                receipts.append([raw.stamps[piece], num_chars, 1])
    if receipts:
        record.arrivals_ns, record.num_chars, record.num_events = np.array(receipts, np.int64).T.copy()
    if record.error is None and not is_done:
        record.error, record.message = TRUNCATED, "the stream ended without [DONE]"


def _read_document(record: RequestRecord, raw: Raw, content: bytes) -> None:
    try:
        _take(record, _decode(content), content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        record.error = record.error or (MALFORMED if raw.is_complete else TRUNCATED)
        record.message = record.message or str(error)


def _data(event: bytes) -> bytes:
    if event.startswith(b"data:") and b"\n" not in (line := event[5:].strip()):
        return line
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def _take(record: RequestRecord, event: _Event, data: bytes) -> int:
    """Takes in what an event says; returns the characters of its content."""
    if (event.error is not None or event.object == "error") and record.error is None:
        body: Any = msgspec.json.decode(data)
        code, record.message = _code(body)
        record.error = f"error event {code}".strip()
    record.response_id = record.response_id or event.id
    if event.usage is not None:
        record.prompt_tokens = event.usage.prompt_tokens
        record.completion_tokens = event.usage.completion_tokens
    num_chars = 0
    for choice in event.choices:
        record.finish_reason = choice.finish_reason or record.finish_reason
        num_chars += len(choice.text or "")
        if delta := choice.delta:
            # Servers name the chain of thought either way; one that sends both means the same text.
            num_chars += len(delta.content or "") + len(delta.reasoning or delta.reasoning_content or "")
            for call in delta.tool_calls or ():
                if call.function:
                    num_chars += len(call.function.name or "") + len(call.function.arguments or "")
    return num_chars


def _refusal(status: int, content: bytes) -> tuple[str, str]:
    try:
        code, message = _code(msgspec.json.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError):
        code, message = "", None
    code = "" if code == str(status) else code
    text = message or " ".join(content.decode(errors="replace").split())
    return f"HTTP {status} {code}".strip(), text[:_MESSAGE_CHARS]


def _code(body: Any) -> tuple[str, str | None]:
    """The error's code, or its type where there is none, and its message."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return "", error_message(body)
    code = inner.get("code") or inner.get("type") or ""
    return str(code), error_message({"error": inner})
