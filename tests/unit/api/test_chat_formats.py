"""What a request of Chat Completions wants its answer to look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.api.chat_bodies import PERSON, PERSON_FORMAT, TOOLS, exchange, offer_of, refusal


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": PERSON_FORMAT}, "response_format.json_schema.schema"),
        (
            {"response_format": {
                "type": "structural_tag", "format": {"type": "json_schema", "json_schema": PERSON}}},
            "response_format",
        ),
        (
            {"response_format": {
                "type": "structural_tag", "triggers": ["<f"],
                "structures": [{"begin": "<f>", "schema": PERSON, "end": "</f>"}]}},
            "response_format",
        ),
        ({"structured_outputs": {"json": PERSON}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": json.dumps(PERSON)}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "[a-z]+"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json_object": True}}, "structured_outputs.json_object"),
    ],
)  # fmt: skip
def test_formats_become_a_grammar(fields: dict[str, Any], param: str) -> None:
    asked = exchange(**fields)
    assert asked.grammar
    assert asked.grammar.param == param
    assert json.loads(asked.grammar.structural_tag)["type"] == "structural_tag"


def test_any_text_needs_no_grammar() -> None:
    assert exchange(response_format={"type": "text"}).grammar is None


def test_a_format_with_tools_allows_a_call_or_an_answer() -> None:
    """With `auto`; a call or an answer alone with the other choices."""
    asked = exchange(tools=TOOLS[:1], response_format=PERSON_FORMAT)
    assert asked.grammar
    tag = asked.grammar.structural_tag
    assert "functions.weather" in tag
    assert '"final"' in tag
    assert offer_of(asked).tools == {"weather"}
    none = exchange(tools=TOOLS[:1], response_format=PERSON_FORMAT, tool_choice="none")
    assert none.grammar
    assert "functions.weather" not in none.grammar.structural_tag


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"response_format": {"type": "structural_tag", "format": {"type": "no such"}}}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json": PERSON, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "response_format": PERSON_FORMAT}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ],
)  # fmt: skip
def test_what_is_no_format(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert str(error).startswith(param)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}, "missing"),
        ({"properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}}, "minLength"),
        ({"type": "banana"}, "banana"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_become_a_grammar_is_refused_where_it_stands(schema: Any, words: str) -> None:
    error = refusal(response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": schema}})
    assert error.param == "response_format.json_schema.schema"
    assert words in str(error)
