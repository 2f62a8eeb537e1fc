"""Contents of messages: a string, or a list of parts that are text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.api.fields import quoted
from serve_app.errors import BadRequestError

# The types of parts that are text, in Chat Completions and Responses, and the field that it stands in.
TEXT_FIELDS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def text_of(content: str | list[Any] | None, place: str) -> str:
    """Returns the text of a content that was found at `place` of the body; null is no text.

    Raises `BadRequestError` for a part that is not text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_texts(content, place))


def _texts(parts: list[Any], place: str) -> Iterator[str]:
    for index, part in enumerate(parts):
        if isinstance(part, str):
            yield part
            continue
        param = f"{place}[{index}]"
        if not isinstance(part, Mapping):
            raise BadRequestError(f"{param} is neither a text nor a part of a content", param)
        kind = part.get("type")
        if kind is None and "text" in part:
            kind = "text"
        field = TEXT_FIELDS.get(kind) if isinstance(kind, str) else None
        if field is None:
            shown = kind if isinstance(kind, str) and kind.isidentifier() else quoted(kind)
            raise BadRequestError(f"{param} is of type {shown}; this model reads text only", param)
        text = part.get(field)
        if not isinstance(text, str):
            raise BadRequestError(f"{param}.{field} is not a string", f"{param}.{field}")
        yield text
