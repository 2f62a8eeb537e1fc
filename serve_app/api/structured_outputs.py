"""vLLM's `structured_outputs`: its further ways to say what an answer must look like."""

from __future__ import annotations

from typing import Any

import msgspec

from serve_app.api.fields import decode_json
from serve_app.api.schemas.validation import check_format_schema
from serve_app.errors import BadRequestError
from serve_app.harmony.grammar import ContentFormat

PARAM = "structured_outputs"
# Each becomes a branch of the grammar.
MAX_CHOICES = 1000


class StructuredOutputs(msgspec.Struct, frozen=True):
    """Exactly one of these is given. `json` and `structural_tag` may also be text that holds an object."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None


def content_format(outputs: StructuredOutputs) -> tuple[ContentFormat, str]:
    """Returns the format and the field that it stands in. Raises `BadRequestError` for what is none."""
    given = [name for name in outputs.__struct_fields__ if getattr(outputs, name) not in (None, False)]
    if len(given) != 1:
        names = ", ".join(outputs.__struct_fields__)
        raise BadRequestError(f"{PARAM} needs exactly one of {names}", PARAM)
    [name] = given
    param, value = f"{PARAM}.{name}", getattr(outputs, name)
    match name:
        case "json":
            schema = _object(value, param)
            check_format_schema(schema, param)
            return ContentFormat("json_schema", schema), param
        case "structural_tag":
            return ContentFormat("structural_tag", _object(value, param)), param
        case "json_object":
            return ContentFormat("json_object"), param
        case "choice":
            if not 1 <= len(value) <= MAX_CHOICES:
                raise BadRequestError(f"{param} must have 1 to {MAX_CHOICES} texts", param)
            return ContentFormat("choice", value), param
        case "regex":
            return ContentFormat("regex", value), param
        case _:
            return ContentFormat("grammar", value), param


def _object(value: str | dict[str, Any], param: str) -> dict[str, Any]:
    if not isinstance(value, str):
        return value
    try:
        decoded = decode_json(value)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise BadRequestError(f"{param} is not valid JSON", param) from None
    if not isinstance(decoded, dict):
        raise BadRequestError(f"{param} is not a JSON object", param)
    return decoded
