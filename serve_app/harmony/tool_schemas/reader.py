"""What a JSON schema says at one place: references followed, `allOf` merged, `Optional` recognised.

Schemas come unchecked. All functions take any JSON, and the work is bounded.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from serve_app.harmony.tool_schemas.place import ANNOTATIONS, CHOICES, SHAPES, Place, Schema, choice_of

# Deeper levels are not looked at. Schemas of tools have some five.
MAX_DEPTH = 32
# In characters of text, about: all the tools of a request together. More would fill the model's context.
MAX_WORK = 500_000
# What looking at one place costs, in the same unit.
PLACE_WORK = 20


class WorkLimit:
    """How much more may be done, for all schemas of a request."""

    def __init__(self, max_work: int = MAX_WORK) -> None:
        self.left = max_work

    def spend(self, work: int) -> bool:
        """Returns whether there was enough left."""
        self.left -= work
        return self.left >= 0


class SchemaReader:
    """Reads one schema document."""

    def __init__(self, root: Any, limit: WorkLimit) -> None:
        # A mapping of another kind is as good at the top. All below is what a JSON parser makes.
        self.root = dict(root) if isinstance(root, Mapping) else root
        self.limit = limit

    def top(self) -> Place:
        """Returns the place of the whole document."""
        return self.place(self.root, frozenset({id(self.root)}))

    def place(self, schema: Any, path: frozenset[int], depth: int = 0) -> Place:
        """Returns what a schema below the places in `path` says."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return Place({}, path)
        if not self.limit.spend(PLACE_WORK + _size(schema)):
            return Place({}, path)
        own = dict(schema)
        reference = own.pop("$ref", None)
        if isinstance(reference, str):
            # What is said beside a reference still holds.
            notes = {key: own[key] for key in own.keys() & ANNOTATIONS}
            target = self._target(reference)
            if target is None or id(target) in path:
                return Place(notes, path, unresolved=_name(reference))
            referred = self.place(target, path | {id(target)}, depth + 1)
            if referred.unresolved is not None:
                return Place({**referred.schema, **notes}, referred.path, referred.unresolved)
            merged = self._merged(referred.schema, own)
            if merged is None:
                rest = {key: value for key, value in own.items() if key not in notes}
                own = {**notes, "allOf": [target, rest]}
                path = path | {id(target)}
            else:
                own, path = merged, referred.path
        own, path = self._all_of(own, path, depth)
        return self._optional(own, path, depth) or Place(own, path, choice=choice_of(own))

    def _target(self, reference: str) -> Any:
        """Returns what a JSON pointer into the document leads to, None where it does not."""
        pointer = reference.removeprefix("#")
        if pointer == reference or not self.limit.spend(len(pointer)):
            return None
        target = self.root
        for step in urllib.parse.unquote(pointer).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict):
                target = target.get(key)
            elif isinstance(target, list) and key.isdecimal() and len(key) < 6 and int(key) < len(target):
                target = target[int(key)]
            else:
                return None
        return target if isinstance(target, dict) and (not pointer or pointer[0] == "/") else None

    def _all_of(self, own: Schema, path: frozenset[int], depth: int) -> tuple[Schema, frozenset[int]]:
        """Merges the parts of an `allOf`; keeps those that cannot be."""
        parts = own.pop("allOf", None)
        if not isinstance(parts, list):
            return own, path
        merged, rest = own, []
        for part in parts:
            if self.limit.left < 0:
                break
            read = self.place(part, path, depth + 1)
            both = None if read.unresolved is not None else self._merged(read.schema, merged)
            if both is None:
                rest.append(part)
            else:
                merged, path = both, read.path
        if rest:
            merged["allOf"] = rest
        return merged, path

    def _optional(self, own: Schema, path: frozenset[int], depth: int) -> Place | None:
        """Makes `anyOf: [T, null]` a T with `nullable`, so that what is said of T is said of the whole."""
        for keyword in CHOICES:
            variants = own.get(keyword)
            if not isinstance(variants, list) or len(variants) != 2:
                continue
            others = [variant for variant in variants if not _is_null(variant)]
            if len(others) != 1:
                continue
            inner = self.place(others[0], path, depth + 1)
            outer = {key: value for key, value in own.items() if key != keyword} | {"nullable": True}
            merged = self._merged(inner.schema, outer)
            if merged is not None:
                return Place(merged, inner.path, inner.unresolved, choice_of(merged))
        return None

    def _merged(self, base: Schema, over: Schema) -> Schema | None:
        """Returns the schema that says what both say, None where that takes an intersection of types."""
        if not self.limit.spend(len(base) + len(over)):
            return None
        merged = {**base, **over}
        for key in base.keys() & over.keys():
            value = _both(key, base[key], over[key], self.limit)
            if value is None:
                return None
            merged[key] = value
        return merged


def _both(key: str, base: Any, over: Any, limit: WorkLimit) -> Any:
    """Returns what a keyword says that stands in two schemas for one value; None for no such thing."""
    if isinstance(base, str | bool | None) and base == over:
        return over
    match key:
        case "description" if isinstance(base, str) and isinstance(over, str):
            return f"{over}\n{base}" if limit.spend(len(base) + len(over)) else over
        case "required" if isinstance(base, list) and isinstance(over, list):
            return base + over if limit.spend(len(base) + len(over)) else over
        case "properties" | "patternProperties" if isinstance(base, dict) and isinstance(over, dict):
            if not limit.spend(len(base) + len(over)):
                return over
            shared = {name: {"allOf": [base[name], over[name]]} for name in base.keys() & over.keys()}
            return {**over, **base, **shared}
        case "items" if isinstance(base, dict) and isinstance(over, dict):
            return {"allOf": [base, over]}
        case "type" if isinstance(base, list) and isinstance(over, str) and over in base:
            return over
        case "type" if isinstance(over, list) and isinstance(base, str) and base in over:
            return base
        case "type" if (base, over) in (("integer", "number"), ("number", "integer")):
            return "integer"
        case "additionalProperties":
            return over if isinstance(over, dict) or not isinstance(base, dict) else base
    # Keywords that say of which type a value is would have to agree; of others one will do.
    return None if key == "type" or key in SHAPES else over


def _size(schema: Schema) -> int:
    """Returns about how much there is to look at in a schema, without what is nested in it."""
    sizes = (
        len(value) // 16 if isinstance(value, str) else len(value)
        for value in schema.values()
        if isinstance(value, str | list | dict)
    )
    return len(schema) + sum(sizes)


def _is_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    return schema.get("type") == "null" or ("const" in schema and schema["const"] is None)


def _name(reference: str) -> str:
    """Returns the last word of a reference, fit for a comment."""
    return re.sub(r"[^\w.-]", "", reference[-200:].rpartition("/")[2])[:64] or "the whole"
