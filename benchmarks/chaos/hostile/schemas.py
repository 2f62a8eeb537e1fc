"""JSON schemas: of the forms for which a check is easily quadratic, up to the limits of size, and beyond."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from benchmarks.chaos.hostile.request import EITHER, REFUSED, Form, Hostile, Kind, with_schema, with_tools
from serve_app.api.chat.request import MAX_TOOLS
from serve_app.api.schemas.validation import MAX_BYTES, MAX_DEPTH, MAX_SCHEMAS

Schema = dict[str, Any]


def _types_of_objects(size: int) -> Schema:
    return {"type": [{"a": index} for index in range(size // 12)]}


def _dependencies(size: int) -> Schema:
    return {"dependencies": {f"p{index}": [f"p{index + 1}"] for index in range(size // 20)}}


def _dependent_schemas(size: int) -> Schema:
    return {
        "dependentSchemas": {
            f"p{index}": {"required": [f"p{index}"]} for index in range(min(size // 36, MAX_SCHEMAS - 2))
        }
    }


def _enum_of_objects(size: int) -> Schema:
    return {"enum": [{"a": [index, {}]} for index in range(size // 18)]}


def _long_enum(size: int) -> Schema:
    return {"enum": [f"v{index}" for index in range(size // 9)]}


def _required(size: int) -> Schema:
    return {"type": "object", "required": [f"p{index}" for index in range(size // 9)]}


def _wide(size: int) -> Schema:
    return {
        "type": "object",
        "properties": {f"p{index}": {"type": "string"} for index in range(min(size // 27, MAX_SCHEMAS - 2))},
    }


def _unions(size: int) -> Schema:
    return {
        "anyOf": [
            {"type": "object", "properties": {f"a{index}": {"const": index}}}
            for index in range(min(size // 60, MAX_SCHEMAS // 2 - 2))
        ]
    }


def _references(size: int) -> Schema:
    """Each leads to the next."""
    number = min(size // 34, MAX_SCHEMAS // 2)
    chain = {f"d{index}": {"$ref": f"#/$defs/d{index + 1}"} for index in range(number)}
    return {"$ref": "#/$defs/d0", "$defs": chain | {f"d{number}": {"type": "string"}}}


def _circle(size: int) -> Schema:
    """Of objects, which is legal."""
    number = min(size // 60, MAX_SCHEMAS // 3)
    ring = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{(i + 1) % number}"}}} for i in range(number)}
    return {"$ref": "#/$defs/d0", "$defs": ring}


def _all_of(size: int) -> Schema:
    return {
        "allOf": [
            {"properties": {f"p{index}": {"type": "string"}}}
            for index in range(min(size // 40, MAX_SCHEMAS // 2 - 2))
        ]
    }


FORMS: tuple[Callable[[int], Schema], ...] = (
    _types_of_objects, _dependencies, _dependent_schemas, _enum_of_objects, _long_enum, _required, _wide,
    _unions, _references, _circle, _all_of,
)  # fmt: skip
# In bytes; a schema of a form takes somewhat less than it is asked for.
LARGEST, TOO_LARGE = MAX_BYTES - 4096, 8 * MAX_BYTES


def nested(levels: int) -> Schema:
    """Objects in one another."""
    schema: Schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _of(form: Callable[[int], Schema]) -> Form:
    def draw(drawn: random.Random) -> Hostile:
        size = drawn.choice((LARGEST, LARGEST, TOO_LARGE))
        path, body = with_schema(drawn, form(size))
        name = form.__name__.replace("_", " ").strip()
        return Hostile(
            name, path, body, REFUSED if size > MAX_BYTES and form not in BOUNDED_BY_NUMBER else EITHER
        )

    return draw


# Those that stay below the limit of bytes.
BOUNDED_BY_NUMBER = (_dependent_schemas, _unions, _references, _circle, _all_of, _wide)


def _deep(drawn: random.Random) -> Hostile:
    levels = drawn.choice((MAX_DEPTH + 1, 400, 5_000))
    # Built as text: so deep a value cannot be encoded.
    inner = '{"type":"object","properties":{"a":' * levels + "{}" + "}}" * levels
    path, body = with_schema(drawn, {"marker": 0})
    return Hostile("deep schema", path, body.replace(b'{"marker":0}', inner.encode()), REFUSED)


def _many_tools(drawn: random.Random) -> Hostile:
    tools = [(f"f{index}", _wide(2_000)) for index in range(MAX_TOOLS)]
    path, body = with_tools(drawn, tools, required=drawn.random() < 0.5)
    return Hostile("most tools", path, body, EITHER)


def _too_many_tools(drawn: random.Random) -> Hostile:
    tools: list[tuple[str, Schema]] = [
        (f"f{index}", {}) for index in range(MAX_TOOLS + drawn.randint(1, 20_000))
    ]
    return Hostile("too many tools", *with_tools(drawn, tools, required=False), REFUSED)


def _large_tools(drawn: random.Random) -> Hostile:
    chosen = [drawn.choice(FORMS[1:]) for _ in range(24)]
    tools = [(f"f{index}", form(LARGEST)) for index, form in enumerate(chosen)]
    return Hostile("largest tools", *with_tools(drawn, tools, required=False), EITHER)


TOOLS: tuple[Form, ...] = (_many_tools, _too_many_tools, _large_tools)
KINDS = (
    Kind("schemas", "schemas whose check is easily quadratic", (*map(_of, FORMS), _deep), may_be_busy=True),
    Kind(
        "tools", "functions, many and large", (_many_tools, _too_many_tools, _large_tools), may_be_busy=True
    ),
)
