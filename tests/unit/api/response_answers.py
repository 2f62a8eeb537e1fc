"""Answers to Responses requests, written by hand or at random, as the encoder gets them; what clients see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve_app.answers.items import (
    AnswerEnded,
    CallBegan,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
    TokenLogprob,
)
from serve_app.answers.usage import Usage
from serve_app.api.exchange import Encoder, Start
from serve_app.api.responses.exchange import exchange
from serve_app.api.sealing import Sealer

SEALER = Sealer(b"the key of these tests")
USAGE = Usage(prompt_tokens=7, completion_tokens=5, reasoning_tokens=2, cached_tokens=4)
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
    {
        "type": "namespace",
        "name": "files",
        "description": "Files of the user.",
        "tools": [{"type": "function", "name": "read", "description": None, "parameters": None}],
    },
]

THOUGHT = (ReasoningBegan(), Delta("I must "), Delta("look."), ItemEnded(True))
PREAMBLE = (TextBegan("commentary"), Delta("Let me look."), ItemEnded(True))
CALL = (CallBegan("weather"), Delta('{"city": '), Delta('"Oslo"}'), ItemEnded(True))
FINAL = (TextBegan("final"), Delta("It is "), Delta("3 °C."), ItemEnded(True))
CUT_FINAL = (TextBegan("final"), Delta("It is"), ItemEnded(False))
CUT_CALL = (CallBegan("weather"), Delta('{"ci'), ItemEnded(False))


def ended(finish: Finish) -> AnswerEnded:
    return AnswerEnded(finish, USAGE.completion_tokens, USAGE.reasoning_tokens)


def name_token(token_id: int) -> bytes:
    return f"<{token_id}>".encode()


def new_encoder(body: dict[str, Any] | None = None) -> Encoder[Any]:
    start = Start("gpt-oss-demo", 1_700_000_000, [1, 2, 3], name_token)
    return exchange({"input": "hi", "tools": TOOLS} | (body or {}), SEALER).new_encoder(start)


def answer(
    items: Sequence[ItemEvent], finish: Finish, body: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The data of all events of an answer; checks their bytes, and that OpenAI's package knows them."""
    encoder = new_encoder(body)
    events = [*encoder.begin(), *encoder.feed(0, [*items, ended(finish)], []), *encoder.end(USAGE)]
    seen = [data_of(encoder.to_bytes(event)) for event in events]
    assert [data["sequence_number"] for data in seen] == list(range(len(seen)))
    assert encoder.fold(events) == seen[-1]["response"]
    Response.model_validate(seen[-1]["response"], strict=True)
    return seen


def body_of(items: Sequence[ItemEvent], finish: Finish, body: dict[str, Any] | None = None) -> dict[str, Any]:
    response: dict[str, Any] = answer(items, finish, body)[-1]["response"]
    return response


def data_of(event: bytes) -> dict[str, Any]:
    """The data of one server-sent event."""
    name, data = event.decode().removesuffix("\n\n").split("\n")
    assert name.startswith("event: ")
    assert data.startswith("data: ")
    parsed: dict[str, Any] = json.loads(data[6:])
    assert parsed["type"] == name[7:]
    STREAM_EVENT.validate_python(parsed, strict=True)
    return parsed


def _deltas(texts: list[str]) -> list[ItemEvent]:
    return [Delta(text) for text in texts if text]


_NAMES = st.sampled_from(["weather", "files__read", "browser.search", "python", "no tool"])
_TEXTS = st.lists(st.text(max_size=8), max_size=3).map(_deltas)
_LOGPROBS = st.builds(
    TokenLogprob,
    st.integers(0, 200_000),
    st.floats(-20, 0),
    st.lists(st.tuples(st.integers(0, 200_000), st.floats(-20, 0)), max_size=4).map(tuple),
)


def _item(begin: ItemEvent, deltas: list[ItemEvent]) -> list[ItemEvent]:
    return [begin, *deltas, ItemEnded(True)]


ITEMS = st.lists(
    st.builds(_item, st.builds(ReasoningBegan), _TEXTS)
    | st.builds(_item, st.builds(TextBegan, st.sampled_from(["commentary", "final"])), _TEXTS)
    | st.builds(_item, st.builds(CallBegan, _NAMES), _TEXTS),
    max_size=5,
)


def _flat(items: list[list[ItemEvent]], is_cut: bool) -> tuple[list[ItemEvent], Finish]:
    flat = [event for item in items for event in item]
    if is_cut:
        return [*flat[:-1], ItemEnded(False)] if flat else [], Finish.LENGTH
    return flat, Finish.CALLS if any(isinstance(event, CallBegan) for event in flat) else Finish.STOP


ANSWERS = st.builds(_flat, ITEMS, st.booleans())
"""Events of random answers but the last, and why they ended."""
