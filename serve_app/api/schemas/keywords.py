"""What the keywords of JSON schemas hold, in any of the drafts 04 to 2020-12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve_app.api.fields import quoted

# Values of `type`.
TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

# Keywords by what they hold: a schema, a list of schemas, schemas by name, and what is no schema.
SCHEMA = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
SCHEMA_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
SCHEMA_MAP = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_TEXT = ("$id", "$ref", "$schema", "description", "format", "pattern", "title")
_NUMBER = ("maximum", "minimum")
_COUNT = (
    "maxContains", "maxItems", "maxLength", "maxProperties",
    "minContains", "minItems", "minLength", "minProperties",
)  # fmt: skip
_BOOLEAN = ("readOnly", "uniqueItems", "writeOnly")
# In these the exclusive limits are numbers; in draft-04 they say whether the others are exclusive.
NEWER_DRAFTS = ("draft-06", "draft-07", "draft/2019-09", "draft/2020-12")


def _type(value: Any) -> str | None:
    names = value if isinstance(value, list) else [value]
    if not names:
        return "the list of types is empty"
    for name in names:
        if not isinstance(name, str) or name not in TYPES:
            return f"{quoted(name)} is not valid (one of {', '.join(sorted(TYPES))})"
    return None


def names_problem(value: Any) -> str | None:
    """Returns what makes a value no list of names, or None."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return None
    return f"{quoted(value)} is not a list of names"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expect(is_right: Callable[[Any], bool], kind: str) -> Callable[[Any], str | None]:
    return lambda value: None if is_right(value) else f"{quoted(value)} is not {kind}"


# By keyword: what is wrong with its value, or None.
CHECKS: dict[str, Callable[[Any], str | None]] = {
    "type": _type,
    "required": names_problem,
    "enum": _expect(lambda value: isinstance(value, list), "a list"),
    "multipleOf": _expect(lambda value: _is_number(value) and value > 0, "a number above 0"),
    "exclusiveMaximum": _expect(lambda value: isinstance(value, int | float), "a number"),
    "exclusiveMinimum": _expect(lambda value: isinstance(value, int | float), "a number"),
    **dict.fromkeys(_TEXT, _expect(lambda value: isinstance(value, str), "a text")),
    **dict.fromkeys(_NUMBER, _expect(_is_number, "a number")),
    **dict.fromkeys(
        _COUNT,
        _expect(lambda value: _is_number(value) and value >= 0 and value % 1 == 0, "a number from 0 on"),
    ),
    **dict.fromkeys(_BOOLEAN, _expect(lambda value: isinstance(value, bool), "true or false")),
}
