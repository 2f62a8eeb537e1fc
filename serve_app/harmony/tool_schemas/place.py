"""One place of a JSON schema, and what its keywords are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]

# What says nothing of types, beside what restricts values.
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "nullable"})
CHOICES = ("oneOf", "anyOf")
# What says of which type a value is, beside `type`. Other keywords restrict its values.
SHAPES = frozenset(
    {"enum", "const", "properties", "patternProperties", "items", "prefixItems", "allOf", *CHOICES}
)


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a schema. `schema` holds neither a reference nor an `allOf` that could be merged."""

    schema: Schema
    path: frozenset[int] = field(default_factory=frozenset)
    """Identities of the schemas that references have led through: following one again would not end."""
    unresolved: str | None = None
    """The name that a reference ends in which is not followed: an unknown one, or back to where it stands."""
    choice: list[Any] | None = None
    """The alternatives of a `oneOf` or `anyOf`, if they say anything about types."""

    @property
    def has_type(self) -> bool:
        """Whether it says anything of the type of a value."""
        return self.unresolved is not None or has_type(self.schema)


def has_type(schema: Any) -> bool:
    """Whether a schema says anything of the type of a value."""
    return isinstance(schema, dict) and (
        not SHAPES.isdisjoint(schema)
        or "type" in schema
        or "$ref" in schema
        or isinstance(schema.get("additionalProperties"), dict)
    )


def choice_of(schema: Schema) -> list[Any] | None:
    """Returns the alternatives of a `oneOf` or `anyOf`, if they say anything about types."""
    for keyword in CHOICES:
        variants = schema.get(keyword)
        if isinstance(variants, list) and any(map(has_type, variants)):
            return variants
    return None


def without(schema: Schema, keyword: str) -> Schema:
    """Returns a schema less one keyword."""
    return {key: value for key, value in schema.items() if key != keyword}


def beside_choice(place: Place) -> Schema:
    """Returns what a schema says of types beside its alternatives."""
    return {
        key: value
        for key, value in place.schema.items()
        if key not in ANNOTATIONS and (place.choice is None or value is not place.choice)
    }


def has_fields(schema: Schema) -> bool:
    """Whether a schema says something of an object's fields."""
    return (
        isinstance(schema.get("properties"), dict)
        or isinstance(schema.get("patternProperties"), dict)
        or isinstance(schema.get("additionalProperties"), dict)
    )


def has_elements(schema: Schema) -> bool:
    """Whether a schema says something of an array's elements."""
    return "items" in schema or "prefixItems" in schema


def maps(schema: Schema, *, is_closed: bool) -> Iterator[tuple[str, Any]]:
    """Yields the pattern of keys, "" for all, and the schema of the values that an object has besides."""
    patterns = schema.get("patternProperties")
    if isinstance(patterns, dict):
        yield from patterns.items()
    others = schema.get("additionalProperties")
    if isinstance(others, dict) or (others is True and not is_closed):
        yield "", others
