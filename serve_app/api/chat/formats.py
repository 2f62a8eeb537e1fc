"""What the answer to a Chat Completions request must look like: `response_format` or `structured_outputs`."""

from __future__ import annotations

from typing import Any, Protocol

from serve_app.api import structured_outputs
from serve_app.api.chat.request import ResponseFormat
from serve_app.api.schemas.validation import check_format_schema
from serve_app.errors import BadRequestError
from serve_app.harmony.grammar import ContentFormat


class FormatRequest(Protocol):
    """A request that may say what its answer must look like: of this API, or of Completions."""

    @property
    def response_format(self) -> ResponseFormat | None:
        """OpenAI's way, and vLLM's structural tags."""

    @property
    def structured_outputs(self) -> structured_outputs.StructuredOutputs | None:
        """vLLM's further ways."""


def content_format(request: FormatRequest) -> tuple[ContentFormat, str] | None:
    """Returns the format that a request asks for and the field that it stands in, or None for any text.

    Raises `BadRequestError` for what is no format.
    """
    asked = _of_response_format(request.response_format) if request.response_format else None
    if request.structured_outputs is None:
        return asked
    other = structured_outputs.content_format(request.structured_outputs)
    if asked:
        raise BadRequestError(
            "structured_outputs and response_format cannot both be given", structured_outputs.PARAM
        )
    return other


def _of_response_format(response_format: ResponseFormat) -> tuple[ContentFormat, str] | None:
    param = "response_format"
    match response_format.type:
        case "text":
            return None
        case "json_object":
            return ContentFormat("json_object"), param
        case "json_schema":
            json_schema = response_format.json_schema
            param = f"{param}.json_schema"
            if json_schema is None:
                raise BadRequestError(f"{param}: this field is missing", param)
            param = f"{param}.schema"
            if json_schema.schema is None:
                raise BadRequestError(f"{param}: this field is missing", param)
            check_format_schema(json_schema.schema, param)
            return ContentFormat("json_schema", json_schema.schema), param
        case "structural_tag":
            return ContentFormat("structural_tag", _tag_of(response_format, param)), param


def _tag_of(response_format: ResponseFormat, param: str) -> dict[str, Any]:
    tag: dict[str, Any] = {"type": "structural_tag"}
    if response_format.format is not None:
        return tag | {"format": response_format.format}
    if response_format.structures is None or response_format.triggers is None:
        raise BadRequestError(f"{param} needs `format`, or `structures` and `triggers`", param)
    return tag | {"structures": response_format.structures, "triggers": response_format.triggers}
