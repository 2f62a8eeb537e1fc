import json
import sys
from typing import Any

import pytest

from serve_app.errors import BadRequestError
from serve_app.request_rules import check_body

MAX_MODEL_LEN = 4096
OBJECT = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"
NO_SCHEMA = {"type": "objekt"}
# What a real tool may say: definitions, references, alternatives, schemas that are just true or false.
COMPLEX = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "any": True},
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {
        "root": {"$ref": "#/$defs/node"},
        "none": False,
        "kind": {"enum": ["a", 1, None, {"b": []}]},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"const": 2}], "items": False},
        "name": {"type": ["string", "null"], "pattern": "^[a-z]+$", "default": None},
    },
    "patternProperties": {"^x-": {"not": {"type": "integer"}}},
    "if": {"required": ["root"]},
    "then": {"minProperties": 1},
    "x-unknown-keyword": "allowed",
}


def check(body: Any, max_model_len: int = MAX_MODEL_LEN) -> None:
    """As in the service: the raw bytes are the ones that `body` was parsed from."""
    raw = json.dumps(body).encode()
    check_body(json.loads(raw), raw, max_model_len)


def refused(body: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        check(body)
    assert caught.value.status == 400
    return caught.value


# --- bodies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, True, 7, "text\0", [], [{"messages": []}], {}])
def test_what_the_request_model_refuses_is_left_to_it(body: Any) -> None:
    check(body)


def test_the_first_broken_rule_is_named() -> None:
    assert refused({"messages": [], "max_tokens": MAX_MODEL_LEN + 1}).param == "messages"


# --- NUL -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a\0b"}, "prompt"),
        ({"prompt": ["a", "\0"]}, "prompt[1]"),
        ({"messages": [{"role": "user", "content": "\0"}]}, "messages[0].content"),
        ({"messages": [{"content": "a"}, {"content": [{"text": "x\0"}]}]}, "messages[1].content[0].text"),
        ({"metadata": {"deep": {"deeper": [[["\0"]]]}}}, "metadata.deep.deeper[0][0][0]"),
        ({"stop": "\0"}, "stop"),
    ],
)
def test_nul_in_a_value(body: Any, param: str) -> None:
    error = refused(body)
    assert error.param == param
    assert str(error) == f"{param} contains a NUL character (U+0000)"


@pytest.mark.parametrize(
    ("body", "param"), [({"a\0b": 1}, "a\0b"), ({"metadata": [{"k\0": "v"}]}, "metadata[0].k\0")]
)
def test_nul_in_a_key(body: Any, param: str) -> None:
    assert refused(body).param == param


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"prompt": "\\u0000"}',
        rb'{"prompt": "\\\\u0000", "user": "\\u00000"}',
        rb'{"\\u0000": [{"a": "\\u0000"}, 1, null, true, 1.5]}',
        rb'{"prompt": "0\u0001\u0030"}',
    ],
)
def test_the_escape_spelt_out_is_text(raw: bytes) -> None:
    check_body(json.loads(raw), raw, MAX_MODEL_LEN)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_of_json(encoding: str) -> None:
    def check_text(text: str) -> None:
        raw = text.encode(encoding)
        check_body(json.loads(raw), raw, MAX_MODEL_LEN)

    check_text(r'{"prompt": "a\\u0000"}')
    with pytest.raises(BadRequestError) as caught:
        check_text(r'{"prompt": "a\u0000"}')
    assert caught.value.param == "prompt"


def test_nul_at_any_depth() -> None:
    body: Any = "\0"
    for _ in range(10_000):
        body = [body]
    with pytest.raises(BadRequestError) as caught:
        check_body({"metadata": body}, rb"\u0000", MAX_MODEL_LEN)
    assert caught.value.param == "metadata" + "[0]" * 10_000


def test_text_and_nul_side_by_side() -> None:
    raw = rb'{"prompt": "\\u0000", "suffix": "\\\u0000"}'
    with pytest.raises(BadRequestError) as caught:
        check_body(json.loads(raw), raw, MAX_MODEL_LEN)
    assert caught.value.param == "suffix"


# --- empty prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["messages", "input"])
def test_an_empty_list_is_no_prompt(field: str) -> None:
    error = refused({field: []})
    assert error.param == field
    assert str(error) == f"{field} must not be empty"


def test_an_empty_input_continues_a_stored_response() -> None:
    check({"input": [], "previous_response_id": "resp_1"})


@pytest.mark.parametrize("previous", [None, ""])
def test_an_empty_input_after_nothing(previous: str | None) -> None:
    assert refused({"input": [], "previous_response_id": previous}).param == "input"


@pytest.mark.parametrize("body", [{"input": ""}, {"messages": None}, {"messages": [{}]}, {"input": "a"}])
def test_other_prompts_are_left_to_the_request_model(body: Any) -> None:
    check(body)


# --- token limits --------------------------------------------------------------------------------------

LIMIT_FIELDS = ["max_tokens", "max_completion_tokens", "max_output_tokens"]


@pytest.mark.parametrize("field", LIMIT_FIELDS)
@pytest.mark.parametrize("value", [-1, 0, 1, MAX_MODEL_LEN - 1, MAX_MODEL_LEN, None, "5000", [5000]])
def test_limits_that_pass(field: str, value: Any) -> None:
    check({field: value})


@pytest.mark.parametrize("field", LIMIT_FIELDS)
@pytest.mark.parametrize("value", [MAX_MODEL_LEN + 1, 2**63, 10**30])
def test_limits_beyond_the_model(field: str, value: int) -> None:
    error = refused({field: value})
    assert error.param == field
    assert (
        str(error)
        == f"{field} is {value}; this model generates at most {MAX_MODEL_LEN} tokens, prompt included"
    )


def test_true_is_not_a_number_of_tokens() -> None:
    check({"max_tokens": True}, max_model_len=1)


def test_the_limit_is_the_models() -> None:
    check({"max_tokens": 8}, max_model_len=8)
    with pytest.raises(BadRequestError):
        check({"max_tokens": 9}, max_model_len=8)


# --- schemas -------------------------------------------------------------------------------------------


def chat_tool(schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


def responses_tool(schema: Any) -> dict[str, Any]:
    return {"type": "function", "name": "f", "parameters": schema}


def messages_tool(schema: Any) -> dict[str, Any]:
    return {"name": "f", "input_schema": schema}


def response_format(schema: Any) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    }


def text_format(schema: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", "name": "s", "schema": schema}}}


# A request with the schema in its place, and how that place is called.
PLACES = [
    (lambda schema: {"tools": [chat_tool(schema)]}, "tools[0].function.parameters"),
    (lambda schema: {"tools": [chat_tool(OBJECT), chat_tool(schema)]}, "tools[1].function.parameters"),
    (lambda schema: {"tools": [responses_tool(schema)]}, "tools[0].parameters"),
    (lambda schema: {"tools": [{"type": "web_search"}, responses_tool(schema)]}, "tools[1].parameters"),
    (lambda schema: {"tools": [messages_tool(schema)]}, "tools[0].input_schema"),
    (response_format, "response_format.json_schema.schema"),
    (text_format, "text.format.schema"),
]


@pytest.mark.parametrize(("body", "param"), PLACES, ids=[param for _, param in PLACES])
def test_what_is_no_schema(body: Any, param: str) -> None:
    error = refused(body(NO_SCHEMA))
    assert error.param == param
    assert str(error).startswith(f"{param} is not a JSON schema: $.type: 'objekt' is not valid")


@pytest.mark.parametrize(("body", "param"), PLACES, ids=[param for _, param in PLACES])
@pytest.mark.parametrize("schema", [OBJECT, COMPLEX, {}, True, False, None])
def test_schemas_of_every_kind_pass_everywhere(body: Any, param: str, schema: Any) -> None:
    check(body(schema))


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"type": 3}}}, "$.properties.a.type"),
        ({"properties": []}, "$.properties"),
        ({"required": "city"}, "$.required"),
        ({"$defs": {"n": {"minimum": "1"}}}, "$['$defs'].n.minimum"),
        ({"anyOf": []}, "$.anyOf"),
        ({"anyOf": [{"type": "string"}, 5]}, "$.anyOf[1]"),
        ({"items": {"type": "objekt"}}, "$.items.type"),
        ({"items": [{"type": "string"}, {"type": "objekt"}]}, "$.items[1].type"),
        ({"prefixItems": [{"type": "objekt"}]}, "$.prefixItems[0].type"),
        ({"dependentRequired": {"a": "b"}}, "$.dependentRequired.a"),
        ({"$schema": DRAFT_7, "type": "objekt"}, "$.type"),
        ({"$schema": DRAFT_2020, "exclusiveMinimum": True}, "$.exclusiveMinimum"),
        ({"$schema": 7}, "$['$schema']"),
        ({"$schema": []}, "$['$schema']"),
    ],
)
def test_the_message_says_where_in_the_schema(schema: Any, place: str) -> None:
    message = str(refused({"tools": [chat_tool(schema)]}))
    assert f"is not a JSON schema: {place}: " in message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": r"^\p{L}+$"},
        {"type": "string", "pattern": r"^(?<y>\d+)$"},
        {"patternProperties": {r"^\p{L}+$": {"type": "string"}}},
        {"$schema": DRAFT_7, "pattern": r"^\p{L}+$"},
        {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]},
        {"$schema": DRAFT_7, "type": "array", "items": [{"type": "string"}], "additionalItems": False},
        {"$schema": DRAFT_7.rstrip("#"), "items": [{"type": "string"}]},
        {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        {"$schema": DRAFT_4, "minimum": 0, "exclusiveMinimum": True},
        {"items": [{"type": "string"}], "$defs": {"n": {"prefixItems": [{"type": "null"}], "items": False}}},
        {"$schema": "https://example.com/a-draft-of-our-own", "items": [{}]},
        {"$schema": "http://[", "type": "object"},
    ],
)
def test_schemas_of_every_draft_pass(schema: Any) -> None:
    check({"tools": [chat_tool(schema)]})


def nested(depth: int, key: str) -> Any:
    value: Any = {"type": "string"}
    for _ in range(depth):
        value = {key: value}
    return value


def test_a_deep_schema_passes() -> None:
    check({"tools": [chat_tool(nested(30, "items"))]})


@pytest.mark.parametrize("depth", [400, sys.getrecursionlimit() * 3 // 4])
def test_a_schema_that_is_nested_too_deeply(depth: int) -> None:
    error = refused(response_format(nested(depth, "not")))
    assert error.param == "response_format.json_schema.schema"
    assert str(error) == "response_format.json_schema.schema is nested too deeply"


def test_a_schema_that_cannot_be_written() -> None:
    """The parser and the writer of JSON do not go to the same depth."""
    body = response_format(nested(100_000, "not"))
    with pytest.raises(BadRequestError, match="is nested too deeply"):
        check_body(body, b"", MAX_MODEL_LEN)


@pytest.mark.parametrize(
    "body",
    [
        {"tools": None},
        {"tools": "tools"},
        {"tools": [None, 1, "f", [NO_SCHEMA]]},
        {"tools": [{"function": "f", "parameters": "none", "input_schema": [NO_SCHEMA]}]},
        {"response_format": "json"},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_schema", "json_schema": [NO_SCHEMA]}},
        {"text": {"format": None}},
        {"text": "text"},
    ],
)
def test_shapes_that_the_request_model_refuses(body: Any) -> None:
    check(body)


def test_a_schema_is_judged_alike_the_second_time() -> None:
    """Judgements are kept; the same schema with its keys in another order is the same schema."""
    body = {"tools": [chat_tool({"title": "again", "type": "objekt"})]}
    first = refused(body)
    again = refused({"tools": [chat_tool({"type": "objekt", "title": "again"})]})
    assert str(again) == str(first)
    check({"tools": [chat_tool({"title": "again", "type": "object"})]})
