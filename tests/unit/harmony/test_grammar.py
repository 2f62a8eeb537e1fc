"""Grammars of whole answers: whatever they allow, the reader reads as what was asked for."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import Finish
from serve_app.answers.offer import Offer
from serve_app.errors import BadRequestError
from serve_app.harmony.content_format import (
    MAX_GRAMMAR_CHARS,
    MAX_PATTERN_CHARS,
    SPECIAL_NAMES,
    xgrammar_format,
)
from serve_app.harmony.conversation import Tool
from serve_app.harmony.grammar import ContentFormat, ToolChoice, structural_tag
from serve_app.harmony.tokens import FIRST_SPECIAL, Vocabulary
from tests.costs import check_linear
from tests.examples import examples
from tests.unit.answers.folding import Answer, Item, fold
from tests.unit.harmony.grammar_walks import Walk, walks

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "kind": {"enum": ["a", "b<|end|>", 3]},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 2}, "maxItems": 2},
    },
    "required": ["city", "kind"],
    "additionalProperties": False,
}
WEATHER = Tool(
    "get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
# Names that header words and each other could be taken for, and schemas that do not say much.
TOOLS = [
    WEATHER,
    Tool("get"),
    Tool("json", "", {}),
    Tool("final", "", {"properties": {"n": {"type": "null"}}}),
]
FREE_TEXT_TAG = {
    "format": {
        "type": "triggered_tags",
        "triggers": ["<f"],
        "tags": [{"type": "tag", "begin": "<f>", "content": {"type": "any_text"}, "end": "</f>"}],
    }
}
LEGACY_TAG = {
    "structures": [{"begin": "<f>", "schema": {"type": "object"}, "end": "</f>"}],
    "triggers": ["<f"],
}


def is_json(schema: Any) -> Callable[[str], bool]:
    return lambda text: bool(Draft202012Validator(schema).is_valid(json.loads(text)))


@dataclass(frozen=True)
class Case:
    """A request's side of it, and whether a text is what it asked for; None: there may be none."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = "auto"
    content: ContentFormat | None = None
    is_right: Callable[[str], bool] | None = None
    is_parallel: bool = True
    is_continued: bool = False

    @property
    def tag(self) -> str:
        tag = structural_tag(
            self.tools,
            self.choice,
            self.content,
            is_parallel=self.is_parallel,
            is_continued=self.is_continued,
        )
        assert tag is not None
        return tag

    def answer(self, walk: Walk) -> Answer:
        names = frozenset(tool.name for tool in self.tools) if self.choice != "none" else frozenset()
        reader = AnswerReader(
            Offer(names, is_parallel=self.is_parallel, is_continued=self.is_continued), Vocabulary.load()
        )
        events = reader.feed(walk.tokens) + reader.end("stop" if walk.is_ended else "length")
        return fold(events)


JSON = ContentFormat("json_schema", SCHEMA)
CASES = {
    "schema": Case(content=JSON, is_right=is_json(SCHEMA)),
    "object": Case(content=ContentFormat("json_object"), is_right=is_json({"type": "object"})),
    "schema of a text": Case(
        content=ContentFormat("json_schema", {"type": "string", "pattern": "^[^a]*$"}),
        is_right=is_json({"type": "string", "pattern": "^[^a]*$"}),
    ),
    "regex": Case(
        content=ContentFormat("regex", "[^ab]{0,9}x"),
        is_right=lambda text: bool(re.fullmatch("[^ab]{0,9}x", text)),
    ),
    "choice": Case(
        content=ContentFormat("choice", ["yes", "no", "no<|end|>"]),
        is_right=lambda text: text in ("yes", "no", "no<|end|>"),
    ),
    "EBNF": Case(
        content=ContentFormat("grammar", 'root ::= "a" b\nb ::= [^a]* "]"'),
        is_right=lambda text: bool(re.fullmatch(r"a[^a]*\]", text)),
    ),
    "Lark": Case(
        content=ContentFormat("grammar", "start: 'a' b\nb: \"x\" // a comment\n | 'y'"),
        is_right=lambda text: text in ("ax", "ay"),
    ),
    "free text with tags": Case(
        content=ContentFormat("structural_tag", FREE_TEXT_TAG), is_right=lambda text: True
    ),
    "older form of tags": Case(
        content=ContentFormat("structural_tag", LEGACY_TAG), is_right=lambda text: True
    ),
    "no tools": Case(tools=(WEATHER,), choice="none", content=JSON, is_right=is_json(SCHEMA)),
    "continued": Case(content=JSON, is_right=is_json(SCHEMA), is_continued=True),
    "call or schema": Case(tools=tuple(TOOLS), content=JSON, is_right=is_json(SCHEMA)),
    "one call or schema": Case(tools=tuple(TOOLS), content=JSON, is_right=is_json(SCHEMA), is_parallel=False),
    "calls": Case(tools=tuple(TOOLS), choice="required"),
    "one call": Case(tools=(WEATHER,), choice="required", is_parallel=False),
}
NUM_WALKS = 30


@pytest.fixture(scope="module")
def all_walks() -> dict[str, list[Walk]]:
    return dict(zip(CASES, walks([case.tag for case in CASES.values()], NUM_WALKS), strict=True))


def texts(items: list[Item]) -> list[Item]:
    return [item for item in items if item.kind in ("commentary", "final")]


def is_arguments(call: Item, case: Case) -> bool:
    [tool] = [tool for tool in case.tools if tool.name == call.name]
    return is_json({"type": "object", **(tool.parameters or {})})(call.text)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_a_grammar_allows_is_what_was_asked_for(name: str, all_walks: dict[str, list[Walk]]) -> None:
    case = CASES[name]
    ended = 0
    for walk in all_walks[name]:
        answer = case.answer(walk)
        calls = [item for item in answer.items if item.kind == "call"]
        content = [item for item in answer.items if item.kind == "final"]
        assert {call.name for call in calls} <= {tool.name for tool in case.tools}, answer
        if not walk.is_ended:
            continue
        ended += 1
        assert all(is_arguments(call, case) for call in calls), answer
        if calls:
            assert answer.end.finish is Finish.CALLS
            assert not content, answer
            assert case.is_parallel or len(calls) == 1
        else:
            assert answer.end.finish is Finish.STOP
            assert case.is_right is not None, answer
            assert texts(answer.items) == content, answer
            assert case.is_right("".join(item.text for item in content)), answer
    assert ended >= NUM_WALKS // 4


@pytest.mark.slow
def test_both_ways_are_open(all_walks: dict[str, list[Walk]]) -> None:
    kinds = set()
    for walk in all_walks["call or schema"]:
        kinds |= {item.kind for item in CASES["call or schema"].answer(walk).items}
    assert kinds == {"reasoning", "commentary", "final", "call"}
    assert any(len(CASES["calls"].answer(walk).items) > 1 for walk in all_walks["calls"])


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(tools=(WEATHER,)),
        Case(tools=(WEATHER,), choice="none"),
        Case(is_continued=True),
        Case(tools=(WEATHER,), choice="required", is_continued=True),
    ],
)
def test_a_free_answer_has_no_grammar(case: Case) -> None:
    tag = structural_tag(case.tools, case.choice, case.content, is_continued=case.is_continued)
    assert tag is None


def test_markers_are_tokens_and_no_text() -> None:
    tag = Case(tools=(WEATHER,), content=JSON).tag
    assert "<|channel|>" not in tag
    assert "<|message|>" not in tag


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (None, {"type": "object"}),
        ({}, {"type": "object"}),
        ({"type": "string"}, {"type": "object"}),
        ({"type": ["object", "null"], "title": "t"}, {"type": "object", "title": "t"}),
        ({"properties": {}}, {"properties": {}, "type": "object"}),
        ({"anyOf": [{"type": "object"}]}, {"anyOf": [{"type": "object"}]}),
    ],
)
def test_arguments_are_an_object(parameters: Any, schema: Any) -> None:
    tag = structural_tag([Tool("f", "", parameters)], "required")
    assert tag is not None
    assert '"json_schema":' + json.dumps(schema, separators=(",", ":")) in tag


# --- formats of clients --------------------------------------------------------------------------------


def formats(kind: str, **fields: Any) -> ContentFormat:
    return ContentFormat("structural_tag", {"format": {"type": kind, **fields}})


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "const_string", "value": "x"}
    for _ in range(depth):
        value = {"type": "optional", "content": value}
    return value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ContentFormat("regex", ""), "must be a text"),
        (ContentFormat("regex", 3), "must be a text"),
        (ContentFormat("choice", []), "must not be empty"),
        (ContentFormat("choice", "yes"), "must be a list"),
        (ContentFormat("choice", ["yes", 1]), "a choice must be a text"),
        (ContentFormat("json_schema", "{}"), "the schema must be an object"),
        (ContentFormat("grammar", "root ::= Token(200006)"), "uses Token"),
        (ContentFormat("grammar", 'root ::= TagDispatch (("a", b))\nb ::= "c"'), "uses TagDispatch"),
        (ContentFormat("grammar", "?start: a b"), "does not define the rule a"),
        (ContentFormat("grammar", "start: 'a"), "line 1: a quote is not closed"),
        (ContentFormat("grammar", "| 'a'"), "line 1: there is an alternative without a rule"),
        (ContentFormat("grammar", "# nothing"), "no rules"),
        (ContentFormat("structural_tag", {}), "structures must be a list"),
        (ContentFormat("structural_tag", []), "must be an object"),
        (formats("token", token=200007), "'token', which is not supported"),
        (formats("any_tokens"), "'any_tokens', which is not supported"),
        (
            formats("sequence", elements=[{"type": "exclude_token"}]),
            "'exclude_token', which is not supported",
        ),
        (
            formats("tag", begin={"type": "token", "token": 5}, content={"type": "any_text"}, end=""),
            "begin of a tag",
        ),
        (formats("json_schema", json_schema={}, style="qwen_xml"), "style is not json"),
        (ContentFormat("structural_tag", {"format": nested(40)}), "nested too deeply"),
    ],
)
def test_formats_that_are_refused(content: ContentFormat, message: str) -> None:
    with pytest.raises(BadRequestError, match=re.escape(message)):
        structural_tag([], "auto", content)


def test_names_of_token_rules_may_be_text() -> None:
    grammar = 'root ::= "Token(1)" [Token()] x # Token(2)\nx ::= "TagDispatch (\\" Token(3)"'
    assert structural_tag([], "auto", ContentFormat("grammar", grammar))


def test_special_tokens_have_the_names_that_free_text_excludes() -> None:
    for name in Vocabulary.load().token_bytes[FIRST_SPECIAL:]:
        assert any(name.decode().startswith(excluded) for excluded in SPECIAL_NAMES), name


@examples(25)
@given(
    st.lists(st.sampled_from([*"\"'[]\\#(:=| \n", "a", "Token", "//"]), min_size=1, max_size=3).map("".join)
)
def test_a_grammar_is_looked_through_in_linear_time(unit: str) -> None:
    """Whatever it is made of: literals and classes that are not closed, words, spaces, backslashes."""

    def look(size: int) -> Callable[[], None]:
        texts = [f"{head}{unit * (size // len(unit))}" for head in ('root ::= "a" ', 'start: "a" ')]

        def work() -> None:
            for text in texts:
                with contextlib.suppress(BadRequestError):
                    xgrammar_format(ContentFormat("grammar", text))

        return work

    check_linear(look, 4_000)


@pytest.mark.parametrize(
    "grammar", ['root ::= "a', 'root ::= "a\\', "root ::= [a", "root ::= [a\\", 'root ::= "a\n" Token(1)']
)
def test_what_is_not_closed_is_refused(grammar: str) -> None:
    with pytest.raises(BadRequestError, match="is not closed"):
        xgrammar_format(ContentFormat("grammar", grammar))


@pytest.mark.parametrize(
    "call", ["Token(1)", "Token \n (1)", "éToken(1)", "1Token(1)", '"a"Token(1)', "[a]Token(1)"]
)
def test_a_rule_for_tokens_is_found(call: str) -> None:
    with pytest.raises(BadRequestError, match="could match special tokens"):
        xgrammar_format(ContentFormat("grammar", f"root ::= {call}"))


@pytest.mark.parametrize(
    "text", ['"Token(1)"', "[Token(1)]", "Tokens (1)", 'Token "("', "# Token(1)", "aToken(1)"]
)
def test_what_only_looks_like_one_passes(text: str) -> None:
    assert xgrammar_format(ContentFormat("grammar", f"root ::= {text}"))["type"] == "grammar"


@pytest.mark.parametrize(("kind", "limit"), [("grammar", MAX_GRAMMAR_CHARS), ("regex", MAX_PATTERN_CHARS)])
@pytest.mark.parametrize("is_in_tag", [False, True])
def test_the_length_is_bounded(kind: Any, limit: int, is_in_tag: bool) -> None:
    def content(length: int) -> ContentFormat:
        text = 'root ::= "a"'.ljust(length)
        if not is_in_tag:
            return ContentFormat(kind, text)
        key = "pattern" if kind == "regex" else "grammar"
        return ContentFormat("structural_tag", {"format": {"type": kind, key: text}})

    xgrammar_format(content(limit))
    with pytest.raises(BadRequestError, match=f"may have {limit:,}"):
        xgrammar_format(content(limit + 1))
