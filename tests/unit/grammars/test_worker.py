"""What a worker looks at before it compiles."""

from __future__ import annotations

from serve_app.grammars.worker import MAX_NESTING, nests_deeper


def test_how_deep_a_document_nests() -> None:
    assert not nests_deeper("[" * 3 + "]" * 3, 3)
    assert nests_deeper("[" * 4 + "]" * 4, 3)
    assert nests_deeper('{"a": [1, {"b": {}}], "c": 1}', 3)
    assert not nests_deeper('{"a": [1, {"b": {}}], "c": 1}', 4)
    assert nests_deeper("[" * 100_000 + "]" * 100_000, MAX_NESTING)
    assert not nests_deeper("[", 3)
    assert not nests_deeper("1", 3)
