"""The first answers of a service: one whole, one streamed, one that must follow a JSON schema."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import httpx2 as httpx
import jsonschema

SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"enum": ["yes", "no", "unknown"]},
        "share": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["answer", "share"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
KINDS: dict[str, dict[str, Any]] = {
    "json_schema": {"response_format": FORMAT},
    "whole": {},
    "streamed": {"stream": True},
}
MAX_TOKENS = 256
MAX_CHARACTERS = 200
TIMEOUT_S = 120


def first_answers(url: str, model: str) -> dict[str, dict[str, Any]]:
    """Returns of each kind of answer the status, the time in seconds, why it ended, and how it begins."""
    found: dict[str, dict[str, Any]] = {}
    for kind, fields in KINDS.items():
        question = {"role": "user", "content": "Is this the first request?"}
        body = {"model": model, "messages": [question], "max_tokens": MAX_TOKENS, "temperature": 0} | fields
        begun = time.monotonic()
        try:
            answer = httpx.post(url + "/v1/chat/completions", json=body, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            found[kind] = {"error": repr(error)}
            continue
        found[kind] = {"status": answer.status_code, "seconds": round(time.monotonic() - begun, 3)}
        if answer.status_code != 200:
            found[kind]["error"] = answer.text[:MAX_CHARACTERS]
        elif "stream" in fields:
            found[kind] |= told(streamed(answer.text.splitlines()))
        else:
            choice = answer.json()["choices"][0]
            found[kind] |= told(choice)
            if kind == "json_schema":
                found[kind]["follows_schema"] = follows(choice["message"]["content"] or "")
    return found


def streamed(lines: Iterable[str]) -> dict[str, Any]:
    """Returns the choice that the events of a streamed chat add up to."""
    message = {"content": "", "reasoning": ""}
    choice: dict[str, Any] = {"message": message, "finish_reason": None}
    for line in lines:
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        for part in json.loads(data)["choices"]:
            for name in message:
                message[name] += part["delta"].get(name) or ""
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    return choice


def told(choice: dict[str, Any]) -> dict[str, Any]:
    """Returns why an answer ended, and how its text and its reasoning begin."""
    message = choice["message"]
    texts = {name: (message.get(name) or "")[:MAX_CHARACTERS] for name in ("content", "reasoning")}
    return {"finish_reason": choice["finish_reason"]} | texts


def follows(text: str) -> bool:
    """Whether a text is a JSON value of the schema."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(value))
