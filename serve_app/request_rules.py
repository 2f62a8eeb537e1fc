"""What this API refuses although vLLM's handlers would take it: each is a mistake of the caller's.

Pure functions over the parsed JSON body. What is not spelt here is vLLM's to check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator

from serve_app.errors import BadRequestError

# Chat Completions and Completions, its newer name, Responses.
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")

# Content parts of Chat Completions, Responses and Messages that are not text.
NOT_TEXT = {
    "image_url", "input_audio", "video_url", "audio_url", "file",
    "input_image", "input_file",
    "image", "document",
}  # fmt: skip


def check_body(body: Any, raw: bytes, max_model_len: int) -> None:
    """Raises `BadRequestError` with the offending field for the first rule that `body` breaks.

    `raw` is the body as it came, used to skip what it cannot contain. A body that is not an object passes:
    the request model refuses it, with the right message.
    """
    if not isinstance(body, Mapping):
        return
    if b"\\u0000" in raw:
        _check_nul(body)
    for field in ("messages", "input"):
        if body.get(field) == [] and not body.get("previous_response_id"):
            raise BadRequestError(f"{field} must not be empty", field)
    for field in MAX_TOKENS_FIELDS:
        value = body.get(field)
        if isinstance(value, int) and value > max_model_len:
            raise BadRequestError(
                f"{field} is {value}; this model generates at most {max_model_len} tokens, prompt included",
                field,
            )
    for field in ("messages", "input"):
        _check_parts(body.get(field), field)
    for param, schema in _schemas(body):
        if isinstance(schema, Mapping) and (problem := _schema_problem(json.dumps(schema, sort_keys=True))):
            raise BadRequestError(f"{param} is not a JSON schema: {problem}", param)


def _check_parts(messages: Any, field: str) -> None:
    """gpt-oss reads text; vLLM would drop other parts without a word."""
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, Mapping) else None
        for part_index, part in enumerate(content if isinstance(content, list) else []):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in NOT_TEXT:
                param = f"{field}[{index}].content[{part_index}]"
                raise BadRequestError(f"{param} is of type {kind}; this model reads text only", param)


def _check_nul(value: Any, path: str = "") -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise BadRequestError(f"{path} contains a NUL character (U+0000)", path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_nul(key, f"{path}.{key}".lstrip("."))
            _check_nul(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_nul(item, f"{path}[{index}]")


def _schemas(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields where a JSON schema may stand, in Chat, Responses and Messages, and what stands there."""
    tools = body.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(tool, Mapping):
            yield f"tools[{index}].function.parameters", _at(tool, "function", "parameters")
            yield f"tools[{index}].parameters", tool.get("parameters")
            yield f"tools[{index}].input_schema", tool.get("input_schema")
    yield "response_format.json_schema.schema", _at(body, "response_format", "json_schema", "schema")
    yield "text.format.schema", _at(body, "text", "format", "schema")


def _at(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


# An agent sends the same tools with every request, and a check costs about a millisecond.
@lru_cache(maxsize=1024)
def _schema_problem(schema: str) -> str | None:
    try:
        Draft202012Validator.check_schema(json.loads(schema))
    except SchemaError as error:
        return f"{error.json_path}: {error.message}"
    return None
