"""Comments, names and values as they stand in the type of a JSON schema."""

from __future__ import annotations

import json
import re
from typing import Any

from serve_app.harmony.tool_schemas.place import Schema

ANY = "any"
# Ends of lines that JSON does not escape.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def comment(text: Any, indent: str) -> str:
    """Returns a comment with each line of a text in it, up to and including the last line's end.

    It is empty for what is no text.
    """
    if not isinstance(text, str):
        return ""
    return "".join(f"{indent}// {line}\n" for line in text.splitlines() or [""])


def literal(value: Any) -> str:
    """Returns a value as JSON, in one line."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    except (RecursionError, TypeError, ValueError):
        return ANY


def field_name(name: str) -> str:
    """Returns the name of an object's field, quoted if it would not be read as one."""
    return name if name and not re.search(r"[\s:?{}\[\]\"]", name) else literal(name)


def default_text(schema: Schema, *, has_bare_enum: bool = True) -> str:
    """Returns what a comment says of a default, if there is one. One of an enum's has no quotes."""
    if "default" not in schema:
        return ""
    value = schema["default"]
    text = literal(value)
    if has_bare_enum and isinstance(value, str) and isinstance(schema.get("enum"), list) and schema["enum"]:
        text = text[1:-1]
    return f"default: {text}"


def examples_comment(schema: Schema, indent: str) -> str:
    """Returns a comment with the examples, if there are any."""
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return ""
    return f"{indent}// Examples:\n" + "".join(f"{indent}// - {literal(value)}\n" for value in examples)


def bracketed(alternatives: list[str]) -> str:
    """Returns alternatives as one type."""
    is_one_word = len(alternatives) == 1 and not alternatives[0].endswith("*/")
    return alternatives[0] if is_one_word else f"({' | '.join(alternatives)})"
