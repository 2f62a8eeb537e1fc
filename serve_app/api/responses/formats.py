"""What the answer to a Responses request must look like: `text.format` or `structured_outputs`."""

from __future__ import annotations

from typing import Any

from serve_app.api import structured_outputs
from serve_app.api.responses.request import ResponsesRequest, TextFormat, TextOptions
from serve_app.api.schemas.validation import check_format_schema
from serve_app.errors import BadRequestError
from serve_app.harmony.grammar import ContentFormat


def content_format(request: ResponsesRequest) -> tuple[ContentFormat, str] | None:
    """Returns the format that a request asks for and the field that it stands in, or None for any text.

    Raises `BadRequestError` for what is no format.
    """
    asked = _of_text_format(request.text.format) if request.text and request.text.format else None
    if request.structured_outputs is None:
        return asked
    other = structured_outputs.content_format(request.structured_outputs)
    if asked:
        raise BadRequestError(
            "structured_outputs and text.format cannot both be given", structured_outputs.PARAM
        )
    return other


def _of_text_format(text_format: TextFormat) -> tuple[ContentFormat, str] | None:
    match text_format.type:
        case "text":
            return None
        case "json_object":
            return ContentFormat("json_object"), "text.format"
        case "json_schema":
            param = "text.format.schema"
            if text_format.schema is None:
                raise BadRequestError(f"{param}: this field is missing", param)
            check_format_schema(text_format.schema, param)
            return ContentFormat("json_schema", text_format.schema), param


def text_echo(options: TextOptions | None) -> dict[str, Any]:
    """Returns `text` as the response shows it."""
    shown: dict[str, Any] = {"type": "text"}
    if options and (text_format := options.format):
        shown = {"type": text_format.type}
        if text_format.type == "json_schema":
            shown |= {
                "name": text_format.name or "response",
                "description": text_format.description,
                "schema": text_format.schema,
                "strict": bool(text_format.strict),
            }
    return {"format": shown, "verbosity": (options and options.verbosity) or "medium"}
