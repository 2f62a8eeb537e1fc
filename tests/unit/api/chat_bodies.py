"""Requests of Chat Completions, for the tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.answers.offer import Offer
from serve_app.api.chat import exchange as chat
from serve_app.api.chat.response import ChatEvent
from serve_app.api.exchange import Exchange, Start
from serve_app.errors import BadRequestError, body_of
from serve_app.harmony.conversation import Conversation, Turn

HI: dict[str, Any] = {"role": "user", "content": "hi"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"name": "weather", "description": "Of a city.", "parameters": CITY}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "now"}},
]
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
PERSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "The answer"}
START = Start("gpt-oss", 1700000000, [1, 2, 3], lambda token_id: b"x")


def exchange(**fields: Any) -> Exchange[ChatEvent]:
    return chat.exchange({"messages": [HI]} | fields)


def conversation_of(asked: Exchange[ChatEvent]) -> Conversation:
    assert asked.conversation
    return asked.conversation


def offer_of(asked: Exchange[ChatEvent]) -> Offer:
    assert isinstance(asked.offer, Offer)
    return asked.offer


def turns(*messages: dict[str, Any]) -> list[Turn]:
    return list(conversation_of(exchange(messages=list(messages))).turns)


def refusal(**fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        exchange(**fields)
    assert caught.value.param
    assert "\n" not in str(caught.value)
    assert len(json.dumps(body_of(caught.value))) < 2048
    return caught.value


def called(name: str, call_id: str | None = None, arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLED: dict[str, Any] = {"role": "assistant", "tool_calls": [called("now", "a")]}
