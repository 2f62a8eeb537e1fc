"""JSON schemas that clients send: the first thing that is wrong with one, in a sentence, and where it is.

Each keyword may be here what any of the drafts 04 to 2020-12 says: clients mean one of them, or a mixture,
and seldom say which. Keywords that none of them knows are not looked at. The walk is linear in the size
of the schema, which is bounded, and judgements are kept.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from serve_app.api.fields import decode_json, quoted
from serve_app.api.schemas.keywords import (
    CHECKS,
    NEWER_DRAFTS,
    SCHEMA,
    SCHEMA_LIST,
    SCHEMA_MAP,
    names_problem,
)
from serve_app.api.schemas.references import References
from serve_app.errors import BadRequestError

# Generous: OpenAI takes 120,000 characters, and tools of real agents have some hundred subschemas.
MAX_BYTES = 128 * 1024
MAX_SCHEMAS = 10_000
MAX_DEPTH = 64

# An agent sends the same tools with every request. Longer ones than these are not kept: a thousand of them
# must not fill the memory.
_MAX_CACHED_BYTES = 32 * 1024

_RANGES = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))


class Problem(NamedTuple):
    """What is wrong with a schema; `path` leads there, as jsonschema writes it: `.properties.a['$ref']`."""

    path: str
    message: str


_TOO_DEEP = Problem("", "the schema is nested too deeply")


class _Place(NamedTuple):
    """Where a schema stands in the one that was sent."""

    schema: Any
    parent: _Place | None
    keys: tuple[str | int, ...]
    depth: int


def check_schema(schema: Any, param: str) -> None:
    """Raises `BadRequestError` with the place for what is no JSON schema, and for what is too large.

    For schemas that only the model reads: references may lead to nowhere.
    """
    _raise(_first_problem(schema, is_format=False), param)


def check_format_schema(schema: Any, param: str) -> None:
    """Raises `BadRequestError` with the place for a schema that cannot become a grammar.

    Beside all that `check_schema` finds: references to nowhere or in a circle, empty enums, limits that no
    value meets. What only a compiler finds is for `GrammarChecker`.
    """
    _raise(_first_problem(schema, is_format=True), param)


def _raise(problem: Problem | None, param: str) -> None:
    if problem:
        raise BadRequestError(f"{param}{problem.path}: {problem.message}", param)


def _first_problem(schema: Any, is_format: bool) -> Problem | None:
    try:
        encoded = msgspec.json.encode(schema)
    except RecursionError:
        return _TOO_DEEP
    if len(encoded) > MAX_BYTES:
        return Problem("", f"the schema is {len(encoded):,} bytes long as JSON; it may be {MAX_BYTES:,}")
    find = _find if len(encoded) <= _MAX_CACHED_BYTES else _find.__wrapped__
    return find(encoded, is_format)


@functools.lru_cache(maxsize=1024)
def _find(encoded: bytes, is_format: bool) -> Problem | None:
    root = decode_json(encoded)
    is_newer = _is_newer_draft(root)
    stack = [_Place(root, None, (), 0)]
    num_schemas = 0
    references = References(root)
    while stack:
        place = stack.pop()
        num_schemas += 1
        if num_schemas > MAX_SCHEMAS:
            return Problem("", f"the schema has more than {MAX_SCHEMAS:,} subschemas")
        if place.depth > MAX_DEPTH:
            return _TOO_DEEP
        if isinstance(place.schema, bool):
            continue
        if not isinstance(place.schema, dict):
            return _problem(place, (), f"{quoted(place.schema)} is not a schema (an object, true or false)")
        children: list[_Place] = []
        found = (
            _shape_problem(place, is_newer)
            or _children_problem(place, children)
            or (_format_problem(place, references) if is_format else None)
        )
        if found:
            return found
        stack.extend(reversed(children))
    return None


def _is_newer_draft(root: Any) -> bool:
    named = root.get("$schema") if isinstance(root, dict) else None
    return isinstance(named, str) and any(draft in named for draft in NEWER_DRAFTS)


def _shape_problem(place: _Place, is_newer_draft: bool) -> Problem | None:
    """What is wrong with the keywords that hold no schemas."""
    for key, value in place.schema.items():
        check = CHECKS.get(key)
        if check and (message := check(value)):
            return _problem(place, (key,), message)
        if is_newer_draft and isinstance(value, bool) and key in ("exclusiveMinimum", "exclusiveMaximum"):
            return _problem(place, (key,), f"{quoted(value)} is not a number")
    return None


def _children_problem(place: _Place, children: list[_Place]) -> Problem | None:
    """Adds the schemas in a schema to `children`, unless a keyword that holds some has the wrong shape."""

    def add(value: Any, *keys: str | int) -> None:
        children.append(_Place(value, place, keys, place.depth + 1))

    for key, value in place.schema.items():
        if key in SCHEMA or (key == "items" and not isinstance(value, list)):
            add(value, key)
        elif key in SCHEMA_LIST or key == "items":
            if not isinstance(value, list):
                return _problem(place, (key,), f"{quoted(value)} is not a list of schemas")
            if not value and key != "items":
                return _problem(place, (key,), "the list of schemas is empty")
            for index, item in enumerate(value):
                add(item, key, index)
        elif key in SCHEMA_MAP or key == "dependencies":
            if not isinstance(value, dict):
                return _problem(place, (key,), f"{quoted(value)} is not an object of schemas by name")
            for name, item in value.items():
                if key != "dependencies" or not isinstance(item, list):
                    add(item, key, name)
        elif key == "dependentRequired":
            if not isinstance(value, dict):
                return _problem(place, (key,), f"{quoted(value)} is not an object of lists of names")
            for name, item in value.items():
                if message := names_problem(item):
                    return _problem(place, (key, name), message)
    return None


def _format_problem(place: _Place, references: References) -> Problem | None:
    """What keeps a valid schema from being a grammar."""
    schema = place.schema
    for low, high in _RANGES:
        if low in schema and high in schema and schema[low] > schema[high]:
            return _problem(
                place, (), f"{low} is {schema[low]} and {high} is {schema[high]}: no value has both"
            )
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and low > high:
        return _problem(place, (), f"minimum is {low} and maximum is {high}: no number is between them")
    if schema.get("enum") == []:
        return _problem(place, ("enum",), "the list of values is empty")
    if message := references.problem(schema):
        return _problem(place, ("$ref",), message)
    return None


_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MAX_KEY_CHARS = 60
_MAX_PATH_CHARS = 300


def _problem(place: _Place, keys: tuple[str | int, ...], message: str) -> Problem:
    path = "".join(map(_step, (*_path(place), *keys)))
    if len(path) > _MAX_PATH_CHARS:
        path = f"{path[: _MAX_PATH_CHARS // 2]} ... {path[-_MAX_PATH_CHARS // 2 :]}"
    return Problem(path, message)


def _path(place: _Place) -> Iterator[str | int]:
    places = [place]
    while (parent := places[-1].parent) is not None:
        places.append(parent)
    for one in reversed(places):
        yield from one.keys


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    short = key if len(key) <= _MAX_KEY_CHARS else key[:_MAX_KEY_CHARS] + "..."
    return f".{short}" if _PLAIN_KEY.fullmatch(short) else f"[{short!r}]"
