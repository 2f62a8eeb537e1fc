"""The type that a JSON schema describes, in the style of TypeScript.

The layout is openai-harmony's: an object's fields one a line, titles, descriptions and examples in comments
above them, a default behind them, and the alternatives of a `oneOf` one a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serve_app.harmony.tool_schemas.place import (
    SHAPES,
    Place,
    beside_choice,
    choice_of,
    has_elements,
    has_fields,
    maps,
    without,
)
from serve_app.harmony.tool_schemas.reader import MAX_DEPTH, SchemaReader, WorkLimit
from serve_app.harmony.tool_schemas.text import (
    ANY,
    bracketed,
    comment,
    default_text,
    examples_comment,
    field_name,
    literal,
)

_WORDS = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


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
            above = "" if is_described else comment(place.schema.get("description"), indent).rstrip("\n")
            lines = "".join(f"\n{variant}" for variant in self._variants(place, indent, depth))
            return f"\n{above}{lines}" if above else lines
        return " | ".join(self._alternatives(place, indent, depth, is_described=is_described))

    def _is_block(self, place: Place, depth: int) -> bool:
        """Whether the alternatives stand on lines of their own: openai-harmony's way for `oneOf`."""
        if (
            place.choice is None
            or place.unresolved is not None
            or not SHAPES.isdisjoint(beside_choice(place))
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
            if not inner.has_type:
                inner = Place({**beside_choice(place), **inner.schema}, place.path)
            kind = self._type(inner, indent + "   ", depth + 1, is_described=True)
            described = inner.schema.get("description")
            notes = [default_text(inner.schema, has_bare_enum=is_property)]
            above = ""
            if isinstance(described, str) and described != schema.get("description"):
                if "\n" in kind or len(described.splitlines()) > 1:
                    above = comment(described, indent)
                else:
                    notes.insert(0, described)
            note = " ".join(filter(None, notes))
            self._limit.spend(len(above) + len(indent) + len(note))
            yield f"{above}{indent} | {kind}{f' // {note}' if note else ''}"

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
            base = Place(without(schema, "allOf"), place.path)
            parts = [base] if base.has_type else []
            parts += [self._reader.place(part, place.path, depth) for part in schema["allOf"]]
            found = [self._intersection(parts, indent, depth)]
        elif "const" in schema:
            found = self._literals([schema["const"]])
        elif isinstance(schema.get("enum"), list) and schema["enum"]:
            found = self._literals(schema["enum"])
        else:
            found = self._named_types(place, indent, depth, is_described)
        if schema.get("nullable") is True:
            found.append("null")
        return list(dict.fromkeys(found))

    def _literals(self, values: list[Any]) -> list[str]:
        found = [literal(value) for value in values]
        self._limit.spend(sum(map(len, found)))
        return found

    def _chosen(self, place: Place, variants: list[Any], indent: str, depth: int) -> list[str]:
        beside = beside_choice(place)
        base = Place(beside, place.path, choice=choice_of(beside))
        found: list[str] = []
        for variant in variants:
            if self._limit.left < 0:
                break
            inner = self._reader.place(variant, place.path, depth)
            found += self._alternatives(inner if inner.has_type else base, indent, depth + 1)
        if not SHAPES.isdisjoint(beside):
            chosen = bracketed(list(dict.fromkeys(found)))
            return [f"({bracketed(self._alternatives(base, indent, depth + 1))} & {chosen})"]
        return found

    def _intersection(self, parts: list[Place], indent: str, depth: int) -> str:
        texts = [bracketed(self._alternatives(part, indent, depth + 1)) for part in parts]
        return texts[0] if len(texts) == 1 else f"({' & '.join(texts)})"

    def _named_types(self, place: Place, indent: str, depth: int, is_described: bool) -> list[str]:
        """Returns the types that `type` names, or those that other keywords imply."""
        schema = place.schema
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [name for name in kind if isinstance(name, str)]
            found: list[str] = []
            for name in kinds:
                is_bare = name == "object" and not has_fields(schema)
                if is_bare or (name == "array" and not has_elements(schema)):
                    found.append(name)
                else:
                    one = Place({**schema, "type": name, "nullable": None}, place.path)
                    found += self._alternatives(one, indent, depth + 1, is_described=is_described)
            if found:
                return found
        if kind == "object" or (kind is None and has_fields(schema)):
            return [self._object(place, indent, depth, is_described)]
        if kind == "array" or (kind is None and has_elements(schema)):
            return [self._array(place, indent, depth)]
        return [_WORDS.get(kind, ANY) if isinstance(kind, str) else ANY]

    def _array(self, place: Place, indent: str, depth: int) -> str:
        schema = place.schema
        items, first = schema.get("items"), schema.get("prefixItems")
        if isinstance(items, list):
            items, first = schema.get("additionalItems"), items
        if isinstance(first, list) and first:
            types = [self._element(element, place, indent, depth) for element in first]
            if isinstance(items, dict):
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
        return bracketed(found) if is_repeated else " | ".join(found)

    def _object(self, place: Place, indent: str, depth: int, is_described: bool) -> str:
        schema = place.schema
        above = "" if is_described else comment(schema.get("description"), indent)
        properties, required = schema.get("properties"), schema.get("required")
        needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        fields: list[str] = []
        for name, value in properties.items() if isinstance(properties, dict) else ():
            if self._limit.left < 0:
                fields.append(f"{indent}// ...\n")
                break
            inner = self._reader.place(value, place.path, depth)
            fields.append(
                self._field(f"{field_name(name)}{'' if name in needed else '?'}", inner, indent, depth)
            )
        num_named = len(fields)
        for pattern, value in maps(schema, is_closed=bool(fields)):
            if self._limit.left < 0:
                break
            inner = self._reader.place(value, place.path, depth)
            note = f"{indent}// keys like {literal(pattern)}\n" if pattern else ""
            fields.append(note + self._field("[key: string]", inner, indent, depth))
        if num_named == 0 and len(fields) == 1 and fields[0].count("\n") == 1 and "//" not in fields[0]:
            return f"{above}{{ {fields[0].strip().removesuffix(',')} }}"
        return f"{above}{{\n{''.join(fields)}{indent}}}"

    def _field(self, name: str, place: Place, indent: str, depth: int) -> str:
        schema = place.schema
        title = comment(schema.get("title"), indent)
        titled = f"{title}{indent}//\n" if title else ""
        about = comment(schema.get("description"), indent) + self._about_items(place, indent, depth)
        examples, default = examples_comment(schema, indent), default_text(schema)
        self._limit.spend(len(titled) + len(about) + len(examples) + len(default) + len(indent) + len(name))
        if self._is_block(place, depth):
            default = f"{indent}// {default}\n" if default else ""
            variants = self._variants(place, indent, depth, is_property=True)
            lines = "".join(f"{variant}\n" for variant in variants)
            return f"{titled}{examples}{about}{default}{indent}{name}:\n{lines}{indent},\n"
        kind = self._type(place, indent + "    ", depth + 1, is_described=True)
        default = f" // {default}" if default else ""
        return f"{titled}{about}{examples}{indent}{name}: {kind},{default}\n"

    def _about_items(self, place: Place, indent: str, depth: int) -> str:
        """Returns the description of an array's elements, if they are no objects: these say it themselves."""
        items = place.schema.get("items")
        if not isinstance(items, dict):
            return ""
        inner = self._reader.place(items, place.path, depth)
        described = inner.schema.get("description")
        is_object = inner.schema.get("type") == "object" or has_fields(inner.schema)
        return comment(f"Items: {described}", indent) if isinstance(described, str) and not is_object else ""
