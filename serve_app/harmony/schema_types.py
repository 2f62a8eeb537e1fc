"""The type that a JSON schema describes, in the style of TypeScript.

The layout is openai-harmony's: an object's fields one a line, titles, descriptions and examples in comments
above them, a default behind them, and the alternatives of a `oneOf` one a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.harmony.schema_reader import (
    MAX_DEPTH,
    SHAPES,
    Place,
    Schema,
    SchemaReader,
    WorkLimit,
    choice_of,
    has_type,
)

ANY = "any"
_WORDS = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


def comment(text: str, indent: str) -> str:
    """Returns a comment with each line of a text in it, up to and including the last line's end."""
    lines = re.split(r"\r\n|\n|\r", text)
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    return "".join(f"{indent}// {line}\n" for line in lines)


class SchemaTypes:
    """Writes the type of one schema document."""

    def __init__(self, schema: Any, limit: WorkLimit) -> None:
        self._reader = SchemaReader(schema, limit)
        self._limit = limit

    def text(self) -> str:
        """Returns the type of the whole document."""
        return self._type(self._reader.top(), "", 0)

    def _type(self, place: Place, indent: str, depth: int, *, is_described: bool = False) -> str:
        """Returns a type where it may take several lines. `indent` is that of the fields of an object.

        With `is_described`, the description stands elsewhere already.
        """
        if self._is_block(place, depth):
            described = None if is_described else place.schema.get("description")
            above = comment(described, indent).rstrip("\n") if isinstance(described, str) else ""
            lines = "".join(f"\n{variant}" for variant in self._variants(place, indent, depth))
            return f"\n{above}{lines}" if above else lines
        return " | ".join(self._alternatives(place, indent, depth, is_described=is_described))

    def _is_block(self, place: Place, depth: int) -> bool:
        """Whether the alternatives stand on lines of their own: openai-harmony's way for `oneOf`."""
        if (
            place.choice is None
            or place.unresolved is not None
            or not SHAPES.isdisjoint(_beside_choice(place))
        ):
            return False
        return place.choice is place.schema.get("oneOf") or self._has_described_variants(place, depth)

    def _has_described_variants(self, place: Place, depth: int) -> bool:
        read = (self._reader.place(variant, place.path, depth) for variant in place.choice or ())
        return any("description" in inner.schema or "default" in inner.schema for inner in read)

    def _variants(self, place: Place, indent: str, depth: int, *, is_property: bool = False) -> Iterator[str]:
        """Yields the alternatives of a `oneOf` or `anyOf`, one a line, with what is said of each."""
        schema = place.schema
        variants = list(place.choice or ())
        if schema.get("nullable") is True:
            variants.append({"type": "null"})
        for variant in variants:
            if self._limit.left < 0:
                return
            inner = self._reader.place(variant, place.path, depth)
            if not _has_type(inner):
                inner = Place({**_beside_choice(place), **inner.schema}, place.path)
            kind = self._type(inner, indent + "   ", depth + 1, is_described=True)
            described = inner.schema.get("description")
            notes, above = [], ""
            if isinstance(described, str) and described != schema.get("description"):
                if "\n" in kind or "\n" in described or "\r" in described:
                    above = comment(described, indent)
                else:
                    notes.append(described)
            if "default" in inner.schema:
                notes.append(_default(inner.schema, has_bare_enum=is_property))
            note = f" // {' '.join(notes)}" if notes else ""
            yield f"{above}{indent} | {kind}{note}"

    def _alternatives(
        self, place: Place, indent: str, depth: int, *, is_described: bool = False
    ) -> list[str]:
        """Returns the types of which a value has one, each once. One that has an operator is in brackets."""
        schema = place.schema
        if place.unresolved is not None:
            found = [f"any /* {place.unresolved} */"]
        elif depth > MAX_DEPTH or self._limit.left < 0:
            return [ANY]
        elif place.choice is not None:
            found = self._chosen(place, place.choice, indent, depth)
        elif "allOf" in schema:
            base = Place(_without(schema, "allOf"), place.path)
            parts = [base] if _has_type(base) else []
            parts += [self._reader.place(part, place.path, depth) for part in schema["allOf"]]
            found = [self._intersection(parts, indent, depth)]
        elif "const" in schema:
            found = [_literal(schema["const"])]
        elif isinstance(schema.get("enum"), list) and schema["enum"]:
            found = [_literal(value) for value in schema["enum"]]
        else:
            found = self._named_types(place, indent, depth, is_described)
        if schema.get("nullable") is True:
            found.append("null")
        self._limit.spend(sum(map(len, found)))
        return list(dict.fromkeys(found))

    def _chosen(self, place: Place, variants: list[Any], indent: str, depth: int) -> list[str]:
        beside = _beside_choice(place)
        base = Place(beside, place.path, choice=choice_of(beside))
        found: list[str] = []
        for variant in variants:
            if self._limit.left < 0:
                break
            inner = self._reader.place(variant, place.path, depth)
            found += self._alternatives(inner if _has_type(inner) else base, indent, depth + 1)
        if not SHAPES.isdisjoint(beside):
            chosen = _bracketed(list(dict.fromkeys(found)))
            return [f"({_bracketed(self._alternatives(base, indent, depth + 1))} & {chosen})"]
        return found

    def _intersection(self, parts: list[Place], indent: str, depth: int) -> str:
        texts = [_bracketed(self._alternatives(part, indent, depth + 1)) for part in parts]
        return texts[0] if len(texts) == 1 else f"({' & '.join(texts)})"

    def _named_types(self, place: Place, indent: str, depth: int, is_described: bool) -> list[str]:
        """Returns the types that `type` names, or those that other keywords imply."""
        schema = place.schema
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [name for name in kind if isinstance(name, str)]
            found: list[str] = []
            for name in kinds:
                is_bare = name == "object" and not _has_fields(schema)
                if is_bare or (name == "array" and not _has_elements(schema)):
                    found.append(name)
                else:
                    one = Place({**schema, "type": name, "nullable": None}, place.path)
                    found += self._alternatives(one, indent, depth + 1, is_described=is_described)
            if found:
                return found
        if kind == "object" or (kind is None and _has_fields(schema)):
            return [self._object(place, indent, depth, is_described)]
        if kind == "array" or (kind is None and _has_elements(schema)):
            return [self._array(place, indent, depth)]
        return [_WORDS.get(kind, ANY) if isinstance(kind, str) else ANY]

    def _array(self, place: Place, indent: str, depth: int) -> str:
        schema = place.schema
        items, first = schema.get("items"), schema.get("prefixItems")
        if isinstance(items, list):
            items, first = schema.get("additionalItems"), items
        if isinstance(first, list) and first:
            types = [self._element(element, place, indent, depth) for element in first]
            if isinstance(items, Mapping):
                types.append(f"...{self._element(items, place, indent, depth, is_repeated=True)}[]")
            return f"[{', '.join(types)}]"
        if "items" not in schema:
            return "Array<any>"
        return f"{self._element(items, place, indent, depth, is_repeated=True)}[]"

    def _element(
        self, schema: Any, place: Place, indent: str, depth: int, *, is_repeated: bool = False
    ) -> str:
        if self._limit.left < 0:
            return ANY
        inner = self._reader.place(schema, place.path, depth)
        if self._is_block(inner, depth) and self._has_described_variants(inner, depth):
            return f"({self._type(inner, indent, depth + 1)}\n{indent})"
        found = self._alternatives(inner, indent, depth + 1)
        return _bracketed(found) if is_repeated else " | ".join(found)

    def _object(self, place: Place, indent: str, depth: int, is_described: bool) -> str:
        schema = place.schema
        described = schema.get("description")
        above = comment(described, indent) if isinstance(described, str) and not is_described else ""
        fields: list[str] = []
        properties, required = schema.get("properties"), schema.get("required")
        needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        for name, value in properties.items() if isinstance(properties, Mapping) else ():
            mark = "" if name in needed else "?"
            if not self._add_field(fields, f"{_key(name)}{mark}", value, place, indent, depth):
                break
        for pattern, value in _maps(schema, has_fields=bool(fields)):
            note = f"{indent}// keys like {_literal(pattern)}\n" if pattern else ""
            if not self._add_field(fields, "[key: string]", value, place, indent, depth, note):
                break
        if (
            len(fields) == 1
            and re.fullmatch(rf"{indent}\[key: string\]: .*,\n", fields[0])
            and "//" not in fields[0]
        ):
            return f"{above}{{ {fields[0].strip().removesuffix(',')} }}"
        return f"{above}{{\n{''.join(fields)}{indent}}}"

    def _add_field(
        self,
        fields: list[str],
        name: str,
        schema: Any,
        place: Place,
        indent: str,
        depth: int,
        note: str = "",
    ) -> bool:
        """Adds a field. Returns False when no more are to come."""
        inner = self._reader.place(schema, place.path, depth)
        text = note + self._field(name, inner, indent, depth)
        fields.append(text)
        if self._limit.spend(len(text)):
            return True
        fields.append(f"{indent}// ...\n")
        return False

    def _field(self, name: str, place: Place, indent: str, depth: int) -> str:
        schema = place.schema
        title, described = schema.get("title"), schema.get("description")
        titled = f"{comment(title, indent)}{indent}//\n" if isinstance(title, str) else ""
        about = comment(described, indent) if isinstance(described, str) else ""
        about_items = self._about_items(place, indent, depth)
        examples = _examples(schema, indent)
        if self._is_block(place, depth):
            default = f"{indent}// {_default(schema)}\n" if "default" in schema else ""
            variants = self._variants(place, indent, depth, is_property=True)
            lines = "".join(f"{variant}\n" for variant in variants)
            return f"{titled}{examples}{about}{default}{indent}{name}:\n{lines}{indent},\n"
        kind = self._type(place, indent + "    ", depth + 1, is_described=True)
        default = f" // {_default(schema)}" if "default" in schema else ""
        return f"{titled}{about}{about_items}{examples}{indent}{name}: {kind},{default}\n"

    def _about_items(self, place: Place, indent: str, depth: int) -> str:
        """Returns the description of an array's elements, if they are no objects: these say it themselves."""
        items = place.schema.get("items")
        if not isinstance(items, Mapping):
            return ""
        inner = self._reader.place(items, place.path, depth)
        described = inner.schema.get("description")
        if (
            not isinstance(described, str)
            or inner.schema.get("type") == "object"
            or _has_fields(inner.schema)
        ):
            return ""
        return comment(f"Items: {described}", indent)


def _without(schema: Schema, keyword: str) -> Schema:
    return {key: value for key, value in schema.items() if key != keyword}


def _beside_choice(place: Place) -> Schema:
    """Returns what a schema says of types beside its alternatives."""
    left_out = {"title", "description", "default", "examples", "nullable"}
    return {
        key: value
        for key, value in place.schema.items()
        if key not in left_out and (place.choice is None or value is not place.choice)
    }


def _has_type(place: Place) -> bool:
    return place.unresolved is not None or has_type(place.schema)


def _has_fields(schema: Schema) -> bool:
    return (
        isinstance(schema.get("properties"), Mapping)
        or isinstance(schema.get("patternProperties"), Mapping)
        or isinstance(schema.get("additionalProperties"), Mapping)
    )


def _has_elements(schema: Schema) -> bool:
    return "items" in schema or "prefixItems" in schema


def _maps(schema: Schema, *, has_fields: bool) -> Iterator[tuple[str, Any]]:
    """Yields the pattern of keys, "" for all, and the schema of the values that an object has besides."""
    patterns = schema.get("patternProperties")
    if isinstance(patterns, Mapping):
        yield from patterns.items()
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping) or (others is True and not has_fields):
        yield "", others


def _key(name: str) -> str:
    return name if name and not re.search(r"[\s:?{}\[\]\"]", name) else json.dumps(name, ensure_ascii=False)


def _bracketed(found: list[str]) -> str:
    is_one_word = len(found) == 1 and not found[0].endswith("*/")
    return found[0] if is_one_word else f"({' | '.join(found)})"


def _examples(schema: Schema, indent: str) -> str:
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return ""
    return f"{indent}// Examples:\n" + "".join(f"{indent}// - {_literal(value)}\n" for value in examples)


def _default(schema: Schema, *, has_bare_enum: bool = True) -> str:
    value = schema["default"]
    text = _literal(value)
    if has_bare_enum and isinstance(value, str) and isinstance(schema.get("enum"), list) and schema["enum"]:
        text = text[1:-1]
    return f"default: {text}"


def _literal(value: Any) -> str:
    """Returns a value as JSON, in one line. Plain strings come out as openai-harmony writes them."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (RecursionError, TypeError, ValueError):
        return ANY
