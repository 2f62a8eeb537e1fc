"""All kinds of hostile requests, by name."""

from __future__ import annotations

from benchmarks.chaos.hostile import connections, fields, grammars, schemas, texts
from benchmarks.chaos.hostile.request import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kinds in (grammars.KINDS, schemas.KINDS, texts.KINDS, fields.KINDS, connections.KINDS)
    for kind in kinds
}
