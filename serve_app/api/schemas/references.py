"""Where the references inside a JSON schema lead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from serve_app.api.fields import quoted


class References:
    """Those of one schema. Each is followed once, however often it is there."""

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
