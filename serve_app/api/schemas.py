"""JSON schemas that clients send: the first thing that is wrong with one, in a sentence, and where it is.

Each keyword may be here what any of the drafts 04 to 2020-12 says: clients mean one of them, or a mixture,
and seldom say which. Whatever a keyword is unknown is not looked at. The walk is linear in the size of the
schema, which is bounded, and judgements are kept.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from serve_app.api.fields import quoted
from serve_app.errors import BadRequestError

# Generous: OpenAI takes 120,000 characters, and tools of real agents have some hundred subschemas.
MAX_BYTES = 128 * 1024
MAX_SCHEMAS = 10_000
MAX_DEPTH = 64

# An agent sends the same tools with every request. Longer ones than these are not kept: a thousand of them
# must not fill the memory.
_MAX_CACHED_BYTES = 32 * 1024

TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

_SCHEMA = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_SCHEMA_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA_MAP = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_TEXT = ("$id", "$ref", "$schema", "description", "format", "pattern", "title")
_NUMBER = ("maximum", "minimum")
_COUNT = (
    "maxContains", "maxItems", "maxLength", "maxProperties",
    "minContains", "minItems", "minLength", "minProperties",
)  # fmt: skip
_BOOLEAN = ("readOnly", "uniqueItems", "writeOnly")
# In these the exclusive limits are numbers; in draft-04 they say whether the others are exclusive.
_NEWER_DRAFTS = ("draft-06", "draft-07", "draft/2019-09", "draft/2020-12")
_RANGES = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))


class Problem(NamedTuple):
    """What is wrong with a schema; `path` leads there, as jsonschema writes it: `.properties.a['$ref']`."""

    path: str
    message: str


TOO_DEEP = Problem("", "the schema is nested too deeply")


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


def schema_problem(schema: Any) -> Problem | None:
    """Returns the first thing that makes a value no JSON schema, or too large."""
    return _first_problem(schema, is_format=False)


def _first_problem(schema: Any, is_format: bool) -> Problem | None:
    try:
        encoded = msgspec.json.encode(schema)
    except RecursionError:
        return TOO_DEEP
    if len(encoded) > MAX_BYTES:
        return Problem("", f"the schema is {len(encoded):,} bytes long as JSON; it may be {MAX_BYTES:,}")
    find = _find if len(encoded) <= _MAX_CACHED_BYTES else _find.__wrapped__
    return find(encoded, is_format)


@functools.lru_cache(maxsize=1024)
def _find(encoded: bytes, is_format: bool) -> Problem | None:
    root = msgspec.json.decode(encoded)
    is_newer = _is_newer_draft(root)
    stack = [_Place(root, None, (), 0)]
    num_schemas = 0
    references = _References(root)
    while stack:
        place = stack.pop()
        num_schemas += 1
        if num_schemas > MAX_SCHEMAS:
            return Problem("", f"the schema has more than {MAX_SCHEMAS:,} subschemas")
        if place.depth > MAX_DEPTH:
            return TOO_DEEP
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
    return isinstance(named, str) and any(draft in named for draft in _NEWER_DRAFTS)


def _shape_problem(place: _Place, is_newer_draft: bool) -> Problem | None:
    """What is wrong with the keywords that hold no schemas."""
    for key, value in place.schema.items():
        check = _CHECKS.get(key)
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
        if key in _SCHEMA or (key == "items" and not isinstance(value, list)):
            add(value, key)
        elif key in _SCHEMA_LIST or key == "items":
            if not isinstance(value, list):
                return _problem(place, (key,), f"{quoted(value)} is not a list of schemas")
            if not value and key != "items":
                return _problem(place, (key,), "the list of schemas is empty")
            for index, item in enumerate(value):
                add(item, key, index)
        elif key in _SCHEMA_MAP or key == "dependencies":
            if not isinstance(value, dict):
                return _problem(place, (key,), f"{quoted(value)} is not an object of schemas by name")
            for name, item in value.items():
                if key != "dependencies" or not isinstance(item, list):
                    add(item, key, name)
        elif key == "dependentRequired":
            if not isinstance(value, dict):
                return _problem(place, (key,), f"{quoted(value)} is not an object of lists of names")
            for name, item in value.items():
                if message := _names(item):
                    return _problem(place, (key, name), message)
    return None


def _format_problem(place: _Place, references: _References) -> Problem | None:
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


class _References:
    """Where references lead inside one schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._good: set[str] = set()

    def problem(self, schema: Mapping[str, Any]) -> str | None:
        """Returns what is wrong with the reference that a schema is, if it is one."""
        reference = schema.get("$ref")
        chain: set[str] = set()
        while isinstance(reference, str) and reference not in self._good:
            if reference in chain:
                return f"{quoted(reference)} leads back to itself"
            chain.add(reference)
            if reference != "#" and not reference.startswith("#/"):
                return f"{quoted(reference)} is not inside the schema (only #/... is followed)"
            target = self._target(reference)
            if not isinstance(target, bool | dict):
                return f"{quoted(reference)} leads to no schema"
            reference = target.get("$ref") if isinstance(target, dict) else None
        self._good |= chain
        return None

    def _target(self, reference: str) -> Any:
        target = self._root
        for part in unquote(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict):
                target = target.get(name)
            elif isinstance(target, list) and name.isascii() and name.isdigit() and len(name) < 6:
                target = target[int(name)] if int(name) < len(target) else None
            else:
                return None
        return target


def _type(value: Any) -> str | None:
    names = value if isinstance(value, list) else [value]
    if not names:
        return "the list of types is empty"
    for name in names:
        if not isinstance(name, str) or name not in TYPES:
            return f"{quoted(name)} is not valid (one of {', '.join(sorted(TYPES))})"
    return None


def _names(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return None
    return f"{quoted(value)} is not a list of names"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expect(is_right: Callable[[Any], bool], kind: str) -> Callable[[Any], str | None]:
    return lambda value: None if is_right(value) else f"{quoted(value)} is not {kind}"


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "type": _type,
    "required": _names,
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
