"""Schemas of clients: what is wrong with them and where, in bounded time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.schemas import keywords
from serve_app.api.schemas import validation as schemas
from serve_app.api.schemas.validation import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_SCHEMAS,
    check_format_schema,
    check_schema,
)
from serve_app.errors import BadRequestError, body_of
from tests.examples import examples

PARAM = "response_format.json_schema.schema"
Check = Callable[[Any, str], None]
BOTH = [check_schema, check_format_schema]


def refused(check: Check, schema: Any) -> str:
    """What is said after the field's name; it fits in an answer."""
    with pytest.raises(BadRequestError) as caught:
        check(schema, PARAM)
    assert caught.value.param == PARAM
    message = str(caught.value)
    assert message.startswith(PARAM)
    assert len(str(body_of(caught.value))) < 2048
    return message.removeprefix(PARAM)


def nested(depth: int, key: str = "items") -> Any:
    value: Any = {"type": "string"}
    for _ in range(depth):
        value = {key: value}
    return value


@pytest.mark.parametrize("check", BOTH)
@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {
            "type": "object",
            "properties": {"a": {"type": ["string", "null"], "minLength": 1}},
            "required": ["a"],
        },
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"next": {"$ref": "#/$defs/a"}}}}},
        {"properties": {"a": {"$ref": "#"}}},
        {"$defs": {"a/b~c d": {}}, "$ref": "#/$defs/a~1b~0c%20d"},
        {"anyOf": [{"$ref": "#/anyOf/1"}, {"type": "null"}]},
        {"properties": {"$ref": {"type": "string"}, "type": {"enum": ["type"]}, "required": {}}},
        {
            "enum": [None, 1, {"type": "nothing"}, ["$ref"]],
            "const": {"minLength": -1},
            "default": {"type": 1},
        },
        {"dependencies": {"a": ["b"], "c": {"type": "object"}}, "dependentRequired": {"a": ["b"]}},
        {"items": [], "minItems": 1.0, "maxItems": 2, "minimum": -1.5, "maximum": -1.5},
        {"exclusiveMinimum": True, "exclusiveMaximum": 3, "x-unknown": 5, "pattern": "(", "format": "?"},
        nested(MAX_DEPTH),
    ],
)
def test_schemas_that_pass(check: Check, schema: Any) -> None:
    check(schema, PARAM)


@pytest.mark.parametrize("check", BOTH)
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (None, ": 'None' is not a schema"),
        ([], ": '[]' is not a schema"),
        ({"type": "objekt"}, ".type: 'objekt' is not valid (one of array, boolean"),
        ({"type": []}, ".type: the list of types is empty"),
        ({"type": ["string", 3]}, ".type: '3' is not valid"),
        ({"properties": {"a": {"type": "text"}}}, ".properties.a.type: 'text' is not valid"),
        (
            {"properties": {"a b": {"required": "c"}}},
            ".properties['a b'].required: 'c' is not a list of names",
        ),
        ({"properties": [{}]}, ".properties: '[{}]' is not an object of schemas by name"),
        ({"$defs": {"x": 5}}, "['$defs'].x: '5' is not a schema"),
        ({"anyOf": []}, ".anyOf: the list of schemas is empty"),
        ({"anyOf": {}}, ".anyOf: '{}' is not a list of schemas"),
        ({"oneOf": [{}, {"items": [{}, 7]}]}, ".oneOf[1].items[1]: '7' is not a schema"),
        ({"enum": "a"}, ".enum: 'a' is not a list"),
        ({"required": [1]}, ".required: '[1]' is not a list of names"),
        ({"dependentRequired": {"a": "b"}}, ".dependentRequired.a: 'b' is not a list of names"),
        ({"minLength": -1}, ".minLength: '-1' is not a number from 0 on"),
        ({"maxItems": 1.5}, ".maxItems: '1.5' is not a number from 0 on"),
        ({"minItems": True}, ".minItems: 'True' is not a number from 0 on"),
        ({"multipleOf": 0}, ".multipleOf: '0' is not a number above 0"),
        ({"maximum": "3"}, ".maximum: '3' is not a number"),
        ({"uniqueItems": 1}, ".uniqueItems: '1' is not true or false"),
        ({"pattern": 1}, ".pattern: '1' is not a text"),
        ({"$ref": 1}, "['$ref']: '1' is not a text"),
        (nested(MAX_DEPTH + 1), ": the schema is nested too deeply"),
        (nested(100_000), ": the schema is nested too deeply"),
        ({"description": "x" * MAX_BYTES}, ": the schema is 131,090 bytes long as JSON"),
        ({"anyOf": [True] * MAX_SCHEMAS}, ": the schema has more than 10,000 subschemas"),
    ],
)
def test_what_is_no_schema(check: Check, schema: Any, message: str) -> None:
    assert refused(check, schema).startswith(message)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"properties": {"a": {"$ref": "#/$defs/b"}}},
            ".properties.a['$ref']: '#/$defs/b' leads to no schema",
        ),
        ({"$ref": "#/enum/0", "enum": ["a"]}, "['$ref']: '#/enum/0' leads to no schema"),
        ({"items": {"$ref": "https://a.example/b"}}, ".items['$ref']: 'https://a.example/b' is not inside"),
        ({"$ref": "#"}, "['$ref']: '#' leads back to itself"),
        (
            {
                "items": {"$ref": "#/$defs/a"},
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            ".items['$ref']: '#/$defs/a' leads back to itself",
        ),
        ({"items": {"minLength": 3, "maxLength": 2}}, ".items: minLength is 3 and maxLength is 2"),
        ({"minItems": 3, "maxItems": 2}, ": minItems is 3 and maxItems is 2"),
        ({"minProperties": 1, "maxProperties": 0}, ": minProperties is 1 and maxProperties is 0"),
        ({"minimum": 1, "maximum": 0.5}, ": minimum is 1 and maximum is 0.5"),
        ({"enum": []}, ".enum: the list of values is empty"),
    ],
)
def test_what_is_a_schema_and_no_grammar(schema: Any, message: str) -> None:
    check_schema(schema, PARAM)
    assert refused(check_format_schema, schema).startswith(message)


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {f"k{i}": {"$ref": f"#/$defs/k{i + 1}"} for i in range(3000)}},
        {"properties": {f"k{i}": {"$ref": "#/properties/k0"} for i in range(3000)} | {"k0": {"type": "x"}}},
        {"properties": {"k" * 9000: nested(60, "not")}, "type": "x" * 90_000},
        {"x" * 50_000: 1, "required": ["y" * 50_000, 3]},
    ],
)
def test_large_ones_are_judged_as_quickly(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of steps, since the time is the machine's."""
    steps = 0

    class Place(schemas._Place):
        def __new__(cls, *fields: Any) -> Place:
            nonlocal steps
            steps += 1
            return super().__new__(cls, *fields)

    monkeypatch.setattr(schemas, "_Place", Place)
    refused(check_format_schema, schema)
    assert steps <= MAX_SCHEMAS


KEYWORDS = sorted(
    {
        *keywords.CHECKS,
        *keywords.SCHEMA,
        *keywords.SCHEMA_LIST,
        *keywords.SCHEMA_MAP,
        "items",
        "dependencies",
    }
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["string", "#", "#/a", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=12,
)


@examples(300)
@given(VALUES)
def test_any_value_is_judged(value: Any) -> None:
    for check in BOTH:
        with contextlib.suppress(BadRequestError):
            check(value, PARAM)
