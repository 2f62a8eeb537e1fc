"""Structured output at temperature 1: every answer of every API is JSON of its schema, streamed or not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

NUM_ANSWERS = 40
# What the two engines of configs/local.yaml run at once.
AT_A_TIME = 32
QUESTION = "Give me a JSON object with name and age"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": QUESTION}]
FORMAT = {"type": "json_schema", "name": "person", "schema": SCHEMA}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {
            "messages": MESSAGES,
            "max_tokens": 400,
            "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
        },
    ),
    "responses": (
        "/v1/responses",
        {"input": QUESTION, "max_output_tokens": 400, "text": {"format": FORMAT}},
    ),
    "messages": (
        "/v1/messages",
        {
            "messages": MESSAGES,
            "max_tokens": 400,
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
    ),
}


def text_of_body(body: dict[str, Any]) -> str:
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    if "output" in body:
        messages = [item for item in body["output"] if item["type"] == "message"]
        return "".join(part["text"] for item in messages for part in item["content"])
    return "".join(block["text"] for block in body["content"] if block["type"] == "text")


def text_of_stream(content: str) -> str:
    lines = [line[6:] for line in content.split("\n") if line.startswith("data: ")]
    text = ""
    for event in (json.loads(line) for line in lines if line != "[DONE]"):
        if "choices" in event:
            text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        elif event["type"] == "response.output_text.delta":
            text += event["delta"]
        elif event["type"] == "content_block_delta":
            text += event["delta"].get("text", "")
    return text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", REQUESTS)
async def test_forty_of_forty(service: Service, api: str, stream: bool) -> None:
    path, body = REQUESTS[api]
    turns = asyncio.Semaphore(AT_A_TIME)
    async with httpx.AsyncClient(base_url=service.url, timeout=600) as client:

        async def one() -> str:
            async with turns:
                answer = await client.post(
                    path, json=body | {"model": MODEL, "temperature": 1, "stream": stream}
                )
            assert answer.status_code == 200, answer.text
            return text_of_stream(answer.text) if stream else text_of_body(answer.json())

        answers = await asyncio.gather(*(one() for _ in range(NUM_ANSWERS)))
    assert len(answers) == NUM_ANSWERS
    for text in answers:
        value = json.loads(text)
        assert set(value) == {"name", "age"}
        assert isinstance(value["name"], str)
        assert isinstance(value["age"], int)
