"""Tools in the prompt: openai-harmony's text where that is right, and what it leaves out."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import openai_harmony as oh
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from serve_app.harmony.conversation import Tool
from serve_app.harmony.tokens import Vocabulary
from serve_app.harmony.tool_schemas.reader import MAX_WORK
from serve_app.harmony.tool_schemas.section import tools_section, word
from tests.examples import examples

# What openai-harmony renders right ------------------------------------------------------------------------

plain_texts = st.text(st.sampled_from("abc XYZ.,(1)é/"), min_size=1, max_size=12)
plain_words = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
notes: SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {}, optional={"title": plain_texts, "description": plain_texts}
)
defaults: SearchStrategy[Any] = st.sampled_from(["x", "", 3, 1.5, True, None, [], [1, "a"], {"a": [True]}])
nullables: SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {}, optional={"nullable": st.booleans(), "default": defaults}
)


def joined(*parts: SearchStrategy[dict[str, Any]]) -> SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {key: value for part in dicts for key, value in part.items()})


def with_type(*names: str) -> SearchStrategy[dict[str, Any]]:
    return st.sampled_from([{"type": name} for name in names])


strings = joined(
    with_type("string"),
    st.fixed_dictionaries(
        {},
        optional={
            "enum": st.lists(plain_words, min_size=1, max_size=3, unique=True),
            "examples": st.lists(plain_words, max_size=3),
            "maxLength": st.just(7),
            "format": st.just("uuid"),
        },
    ),
)
named = with_type("number", "integer", "boolean", "string", "a word that means nothing")
scalars: SearchStrategy[dict[str, Any]] = named | st.just({})
unions = st.sampled_from(
    [{"type": kinds} for kinds in (["string", "null"], ["integer"], ["object", "array", "number"])]
)


def objects(values: SearchStrategy[dict[str, Any]]) -> SearchStrategy[dict[str, Any]]:
    return joined(
        with_type("object"),
        st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(plain_words, values, max_size=4),
                "required": st.lists(plain_words, max_size=3),
                "additionalProperties": st.just(False),
            },
        ),
    )


def larger(values: SearchStrategy[dict[str, Any]]) -> SearchStrategy[dict[str, Any]]:
    # An object's description is said twice where it is a property, so it has none here.
    titles: SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({}, optional={"title": plain_texts})
    elements: SearchStrategy[dict[str, Any]] = scalars | objects(values) | joined(objects(values), notes)
    arrays = joined(with_type("array"), st.fixed_dictionaries({}, optional={"items": elements}), notes)
    variants = st.lists(named | objects(values), min_size=2, max_size=3)
    choices = joined(st.fixed_dictionaries({"oneOf": variants}), notes)
    return joined(objects(values), titles) | arrays | joined(arrays, nullables) | choices


fields = st.recursive(joined(strings | scalars | unions, notes, nullables), larger, max_leaves=12)
parameters = joined(objects(fields), notes) | scalars | st.none()
good_tools = st.lists(
    st.builds(Tool, plain_words, st.sampled_from(["", "One line.", "Two\n\nlines\n"]), parameters),
    min_size=1,
    max_size=3,
)


@functools.cache
def library() -> Any:
    return Vocabulary.load().encoding


def by_the_library(tools: list[Tool]) -> str:
    described = [oh.ToolDescription.new(tool.name, tool.description, tool.parameters) for tool in tools]
    content = oh.DeveloperContent.new().with_function_tools(described)
    text: str = library().decode(
        library().render(oh.Message.from_role_and_content(oh.Role.DEVELOPER, content))
    )
    return text.removeprefix("<|start|>developer<|message|>").removesuffix("<|end|>")


def hides_null(schema: Any) -> bool:
    """Whether an array that may be null holds what may be null, too: the library says it of that alone."""
    if isinstance(schema, list):
        return any(map(hides_null, schema))
    if not isinstance(schema, dict):
        return False
    inner = json.dumps(schema.get("items"))
    is_hidden = schema.get("nullable") is True and ('"null"' in inner or '"nullable": true' in inner)
    return is_hidden or any(map(hides_null, schema.values()))


@examples(150, suppress_health_check=[HealthCheck.too_slow])
@given(good_tools)
def test_the_text_is_the_librarys_where_that_is_right(tools: list[Tool]) -> None:
    assume(not any(hides_null(tool.parameters) for tool in tools))
    assert tools_section(tools) == by_the_library(tools)


def test_an_array_may_be_null_and_so_may_what_it_holds() -> None:
    inner = {"type": "object", "properties": {"b": {"type": ["string", "null"]}}}
    outer = {"type": "array", "items": inner, "nullable": True}
    tool = Tool("a", "", {"type": "object", "properties": {"b": outer}})
    assert "}[] | null," in tools_section([tool])
    assert "}[] | null," not in by_the_library([tool])


# What it loses --------------------------------------------------------------------------------------------


def type_of(schema: Any, **root: Any) -> str:
    """The type of a field `x` with that schema."""
    text = tools_section([Tool("f", "", {"type": "object", "properties": {"x": schema}, **root})])
    return text.partition("(_: {\n")[2].partition("}) => any;")[0]


ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
ADDRESS_TEXT = "{\n    street: string,\n    }"
DEFS = {"Address": ADDRESS, "a/b~c d": {"type": "boolean"}, "list": [{"type": "number"}]}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"$ref": "#/$defs/Address"}, f"x?: {ADDRESS_TEXT},\n"),
        ({"$ref": "#/definitions/Address"}, f"x?: {ADDRESS_TEXT},\n"),
        ({"$ref": "#/$defs/a~1b~0c%20d"}, "x?: boolean,\n"),
        ({"$ref": "#/$defs/list/0"}, "x?: number,\n"),
        ({"$ref": "#/$defs/Gone"}, "x?: any /* Gone */,\n"),
        ({"$ref": "https://example.com/Thing.json"}, "x?: any /* Thing.json */,\n"),
        ({"$ref": "#/$defs/Address", "description": "Home"}, f"// Home\nx?: {ADDRESS_TEXT},\n"),
        (
            {"allOf": [{"$ref": "#/$defs/Address"}], "default": None},
            f"x?: {ADDRESS_TEXT}, // default: null\n",
        ),
        ({"type": "array", "items": {"$ref": "#/$defs/Address"}}, "x?: {\n    street: string,\n    }[],\n"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "x?: string | null,\n"),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, "x?: number | null,\n"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "number"}]}, "x?: string | number,\n"),
        (
            {"anyOf": [{"type": "string"}, {"anyOf": [{"const": 1}, {"const": None}]}]},
            "x?: string | 1 | null,\n",
        ),
        ({"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]}, f"x?: {ADDRESS_TEXT} | null,\n"),
        ({"type": ["array", "null"], "items": {"type": "string"}}, "x?: string[] | null,\n"),
        ({"type": "null"}, "x?: null,\n"),
        ({"const": "a"}, 'x?: "a",\n'),
        ({"const": {"a": [1]}}, 'x?: {"a":[1]},\n'),
        ({"type": "integer", "enum": [1, 2]}, "x?: 1 | 2,\n"),
        ({"enum": ["a", 1, None, True, 'q"\n']}, 'x?: "a" | 1 | null | true | "q\\"\\n",\n'),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "x?: { [key: string]: number },\n"),
        ({"type": "object", "additionalProperties": True}, "x?: { [key: string]: any },\n"),
        (
            {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}},
            "x?: {\n    a?: string,\n    [key: string]: number,\n    },\n",
        ),
        (
            {"type": "object", "patternProperties": {"^i": {"type": "integer", "description": "Count"}}},
            'x?: {\n    // keys like "^i"\n    // Count\n    [key: string]: number,\n    },\n',
        ),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
            "x?: [number, string],\n",
        ),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"enum": [1, 2]}},
            "x?: [number, ...(1 | 2)[]],\n",
        ),
        ({"type": "array", "items": [{"type": "integer"}, True]}, "x?: [number, any],\n"),
        ({"type": "array", "items": {"enum": ["x", "y"], "type": "string"}}, 'x?: ("x" | "y")[],\n'),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "x?: (string | null)[],\n"),
        ({"type": "array", "items": {"type": "string", "nullable": True}}, "x?: (string | null)[],\n"),
        (
            {"type": "array", "items": {"type": "array", "items": {"oneOf": [{"const": 1}, {"const": "a"}]}}},
            'x?: (1 | "a")[][],\n',
        ),
        (
            {"type": "array", "items": {"type": "string", "description": "An id"}},
            "// Items: An id\nx?: string[],\n",
        ),
        ({"type": "string", "description": "one\r\ntwo\nthree\n"}, "// one\n// two\n// three\nx?: string,\n"),
        ({"type": "string", "title": "a\nb"}, "// a\n// b\n//\nx?: string,\n"),
        ({"description": "once", **ADDRESS}, f"// once\nx?: {ADDRESS_TEXT},\n"),
        ({"type": "integer", "examples": [1, "a\nb"]}, '// Examples:\n// - 1\n// - "a\\nb"\nx?: number,\n'),
        ({"type": "string", "default": "a\nb"}, 'x?: string, // default: "a\\nb"\n'),
        (
            {"allOf": [{"$ref": "#/$defs/Address"}, {"properties": {"zip": {"type": "integer"}}}]},
            "x?: {\n    street: string,\n    zip?: number,\n    },\n",
        ),
        (
            {"allOf": [{"type": "string"}, {"anyOf": [{"const": "a"}, {"const": "b"}]}]},
            'x?: "a" | "b",\n',
        ),
        ({"allOf": [{"type": "string"}, {"type": "number"}]}, "x?: (string & number),\n"),
        (
            {**ADDRESS, "anyOf": [{"required": ["street"]}, {"required": ["zip"]}]},
            f"x?: {ADDRESS_TEXT},\n",
        ),
        ({"type": "string", "anyOf": [{"format": "date"}, {"const": "now"}]}, 'x?: string | "now",\n'),
    ],
)
def test_meaning(schema: dict[str, Any], text: str) -> None:
    assert type_of(schema, **{"$defs": DEFS, "definitions": DEFS}) == text


def test_alternatives_that_are_described_stand_one_a_line() -> None:
    text = type_of(
        {
            "description": "Where",
            "anyOf": [
                {"type": "string", "description": "A name"},
                {"$ref": "#/$defs/Point", "description": "A place\non the map"},
                {"type": "integer", "description": "Where", "default": 3},
            ],
        },
        **{"$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}}}},
    )
    assert text == (
        "// Where\nx?:\n | string // A name\n// A place\n// on the map\n | {\n   x?: number,\n   }\n"
        " | number // default: 3\n,\n"
    )


def test_the_description_of_all_parameters() -> None:
    tool = Tool("f", "", {"type": "object", "description": "one\ntwo", "properties": {}})
    assert "type f = (_: // one\n// two\n{\n}) => any;" in tools_section([tool])


def test_a_reference_back_to_itself_ends() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/Node"}, "all": {"type": "array", "items": {"$ref": "#"}}},
    }
    text = type_of({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": node}})
    assert text == "x?: {\n    next?: any /* Node */,\n    all?: (any /* the whole */)[],\n    },\n"
    loop = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
    assert type_of({"$ref": "#/$defs/a"}, **{"$defs": loop}) == "x?: any /* a */,\n"


def test_names_are_one_word() -> None:
    assert word("a b\n\tc") == "a_b__c"
    assert "type a_b = () => any;" in tools_section([Tool("a b")])
    tool = Tool("f", "", {"properties": {'a\n"': {}, "": {}, "a-b.c$d": {}}, "type": "object"})
    assert '{\n"a\\n\\""?: any,\n""?: any,\na-b.c$d?: any,\n}' in tools_section([tool])


# Whatever comes -------------------------------------------------------------------------------------------

KEYWORDS = [
    "type",
    "properties",
    "items",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$defs",
    "enum",
    "const",
    "required",
]
KEYWORDS += [
    "description",
    "title",
    "default",
    "examples",
    "nullable",
    "additionalProperties",
    "not",
    "a",
    "b",
]
KEYWORDS += ["patternProperties", "prefixItems"]
keywords = st.sampled_from(KEYWORDS)
atoms: SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["#", "#/a", "#/$defs/a", "#/properties/a", "#a", "object", "array", "string", "null"])
)
jsons = st.recursive(
    atoms,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(keywords, values, max_size=6),
    max_leaves=15,
)


@examples(150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keywords, jsons, max_size=8) | jsons)
def test_any_json_is_rendered(schema: Any) -> None:
    text = tools_section([Tool("f", "d", schema)])
    assert text.startswith("# Tools\n\n## functions\n\nnamespace functions {\n\n// d\ntype f = (")
    assert text.endswith(") => any;\n\n} // namespace functions")


@examples(100)
@given(st.text(st.sampled_from("ab\n\r")), st.sampled_from(["description", "title"]), st.booleans())
def test_no_line_of_a_description_is_outside_a_comment(text: str, keyword: str, is_object: bool) -> None:
    schema: dict[str, Any] = {keyword: text, **(ADDRESS if is_object else {"type": "string"})}
    choice = {"oneOf": [schema, {"type": "integer"}, {keyword: text, "type": "boolean"}]}
    for rendered in (type_of(schema), type_of({"anyOf": [schema, {"type": "null"}]}), type_of(choice)):
        for line in rendered.replace("\r", "\n").split("\n"):
            assert "a" not in line.partition("//")[0].replace("boolean", "")


def nested(depth: int, keyword: str) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {
            "properties": {"type": "object", "properties": {"a": schema}},
            "items": {"type": "array", "items": schema},
            "anyOf": {"anyOf": [schema, {"type": "integer"}, {"type": "object", "description": "x"}]},
            "allOf": {"allOf": [schema, {"type": ["string", "null"]}]},
            "type": {"type": ["object", "array"], "properties": {"a": schema}, "items": schema},
            "const": {"const": [schema]},
        }[keyword]
    return schema


def doubling(depth: int, keyword: str) -> Any:
    """Each definition refers to the next one several times: exponentially large where it is written out."""
    defs: dict[str, Any] = {f"D{depth}": {"type": "string"}}
    for level in range(depth):
        next_one = {"$ref": f"#/$defs/D{level + 1}"}
        defs[f"D{level}"] = {
            "properties": {"type": "object", "properties": {"a": next_one, "b": next_one}},
            "anyOf": {"anyOf": [next_one, {"type": "array", "items": next_one}, {"const": level}]},
            "allOf": {"allOf": [next_one, {"description": "x" * 10, **next_one}, next_one]},
        }[keyword]
    return {"$ref": "#/$defs/D0", "$defs": defs}


COSTLY = {
    **{f"nested {keyword}": nested(400, keyword) for keyword in ("properties", "items", "anyOf", "allOf")},
    **{f"nested {keyword}": nested(60, keyword) for keyword in ("type", "const")},
    **{f"doubling {keyword}": doubling(60, keyword) for keyword in ("properties", "anyOf", "allOf")},
    "shared text": {
        "type": "object",
        "properties": {f"p{number}": {"$ref": "#/$defs/Long"} for number in range(5000)},
        "$defs": {"Long": {"type": "object", "description": "long " * 20_000}},
    },
    "shared choice": {
        "type": "object",
        "properties": {f"p{number}": {"$ref": "#/$defs/Wide"} for number in range(5000)},
        "$defs": {"Wide": {"anyOf": [{}] * 50_000}},
    },
    "shared parts": {
        "type": "object",
        "properties": {f"p{number}": {"$ref": "#/$defs/Wide"} for number in range(5000)},
        "$defs": {"Wide": {"allOf": [{"properties": {f"q{number}": {}}} for number in range(5000)]}},
    },
    "aliases": {
        "type": "object",
        "properties": {
            f"p{number}": {"$ref": f"#/%{ord('p'):x}roperties/p{number + 1}"} for number in range(5000)
        },
    },
    "wide": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(100_000)}},
    "long pointers": {
        "type": "object",
        "properties": {f"p{n}": {"$ref": "#" + "/a" * 1000} for n in range(2000)},
    },
}


@pytest.mark.parametrize("name", COSTLY)
def test_time_and_size_are_bounded(name: str) -> None:
    began = time.process_time()
    text = tools_section([Tool(f"f{number}", "", COSTLY[name]) for number in range(3)])
    assert time.process_time() - began < 3
    assert len(text) < 2 * MAX_WORK


def test_a_schema_as_deep_as_json_can_be() -> None:
    schema = json.loads('{"items":' * 900 + "{}" + "}" * 900)
    assert tools_section([Tool("f", "", schema)]).count("[]") in range(20, 40)
