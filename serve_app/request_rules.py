"""What this API refuses although vLLM's handlers would take it: each is a mistake of the caller's.

Pure functions over the parsed JSON body. What is not spelt here is vLLM's to check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.api.schemas import TOO_DEEP, schema_problem
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
    # A zero byte is no part of JSON unless it is in UTF-16 or UTF-32, where an escape looks different.
    if b"\\u0000" in raw or b"\0" in raw:
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
        if not isinstance(schema, Mapping):
            continue
        problem = schema_problem(schema)
        if problem == TOO_DEEP:
            raise BadRequestError(f"{param} is nested too deeply", param)
        if problem:
            raise BadRequestError(f"{param} is not a JSON schema: ${problem.path}: {problem.message}", param)


def _check_parts(messages: Any, field: str) -> None:
    """gpt-oss reads text; vLLM would drop other parts without a word."""
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, Mapping) else None
        for part_index, part in enumerate(content if isinstance(content, list) else []):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in NOT_TEXT:
                param = f"{field}[{index}].content[{part_index}]"
                raise BadRequestError(f"{param} is of type {kind}; this model reads text only", param)


def _check_nul(body: Mapping[str, Any]) -> None:
    # Not recursive: the nesting is the caller's choice.
    waiting: list[tuple[str, Any]] = [("", body)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            raise BadRequestError(f"{path} contains a NUL character (U+0000)", path)
        if isinstance(value, Mapping):
            for key, item in value.items():
                item_path = f"{path}.{key}".lstrip(".")
                waiting += (item_path, item), (item_path, key)
        elif isinstance(value, list):
            waiting += ((f"{path}[{index}]", item) for index, item in enumerate(value))


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
