"""What a worker looks at before it compiles."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.grammars.bounds import MAX_PATTERN_DEPTH, bounds_problem, pattern_problem
from serve_app.grammars.worker import MAX_NESTING, nests_deeper
from serve_app.harmony.content_format import MAX_GRAMMAR_CHARS, MAX_PATTERN_CHARS
from tests.costs import check_linear
from tests.examples import examples


def test_how_deep_a_document_nests() -> None:
    assert not nests_deeper("[" * 3 + "]" * 3, 3)
    assert nests_deeper("[" * 4 + "]" * 4, 3)
    assert nests_deeper('{"a": [1, {"b": {}}], "c": 1}', 3)
    assert not nests_deeper('{"a": [1, {"b": {}}], "c": 1}', 4)
    assert nests_deeper("[" * 100_000 + "]" * 100_000, MAX_NESTING)
    assert not nests_deeper("[", 3)
    assert not nests_deeper("1", 3)


def groups(depth: int) -> str:
    return "(" * depth + "a" + ")" * depth


@pytest.mark.parametrize(
    "holder",
    [
        lambda pattern: {"type": "regex", "pattern": pattern},
        lambda pattern: {"json_schema": {"properties": {"a": {"pattern": pattern}}}},
        lambda pattern: {"elements": [{"json_schema": {"patternProperties": {pattern: {}}}}]},
        lambda pattern: [[{"$defs": {"a": {"items": {"not": {"pattern": pattern}}}}}]],
    ],
)
def test_patterns_are_bounded_wherever_they_stand(holder: Any) -> None:
    assert bounds_problem(holder(groups(MAX_PATTERN_DEPTH))) is None
    assert "100 groups" in str(bounds_problem(holder(groups(MAX_PATTERN_DEPTH + 1))))
    assert bounds_problem(holder("a" * MAX_PATTERN_CHARS)) is None
    assert "16,384" in str(bounds_problem(holder("a" * (MAX_PATTERN_CHARS + 1))))


def test_grammars_are_bounded() -> None:
    assert bounds_problem({"type": "grammar", "grammar": "a" * MAX_GRAMMAR_CHARS}) is None
    assert "131,072" in str(bounds_problem([{"type": "grammar", "grammar": "a" * (MAX_GRAMMAR_CHARS + 1)}]))


@pytest.mark.parametrize("part", ["(a)", r"\(", "[(]", "[\\]((]", "(?:a)?", ")("])
def test_groups_beside_one_another_are_no_nesting(part: str) -> None:
    assert pattern_problem(part * (MAX_PATTERN_CHARS // len(part))) is None


def test_a_property_may_be_called_like_a_keyword() -> None:
    assert bounds_problem({"properties": {"pattern": {}, "grammar": {}, "patternProperties": {}}}) is None


def test_a_class_that_is_not_closed_hides_nothing() -> None:
    assert pattern_problem("[" + "(" * 1000)
    assert pattern_problem("[\\")


@examples(25)
@given(st.lists(st.sampled_from([*"()[]\\^a{"]), min_size=1, max_size=3).map("".join))
def test_patterns_are_looked_through_in_linear_time(unit: str) -> None:
    check_linear(lambda size: lambda: [pattern_problem(unit * (size // len(unit))) for _ in range(10)], 2_000)
