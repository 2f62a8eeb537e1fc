from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from anthropic.types import Message as AnthropicMessage
from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.items import CallBegan, Delta, Finish, ItemEnded, ItemEvent, ReasoningBegan, TextBegan
from serve_app.api.exchange import Exchange
from serve_app.api.messages.answer import Display, View
from serve_app.api.messages.errors import ErrorBody, error_body
from serve_app.api.messages.events import Message, StreamEvent
from serve_app.api.messages.exchange import count_body, exchange
from serve_app.api.messages.request import MessagesRequest
from serve_app.api.sealing import Sealer
from serve_app.errors import BadRequestError, EngineLostError, ModelNotFoundError, OverloadedError
from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Conversation,
    Instructions,
    Reasoning,
    Tool,
    ToolResult,
    Turn,
    UserText,
)
from tests.examples import examples
from tests.unit.api.messages_client import START, Answer, ended

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Says it.", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
CALL = Call("weather", '{"city":"Oslo"}')


def body(*messages: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": list(messages) or [user("x")], **fields}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def result(content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **fields}


def conversation(request: Mapping[str, Any], sealer: Sealer | None = None) -> Conversation:
    made = exchange(request, sealer).conversation
    assert made is not None
    return made


def turns(*messages: Mapping[str, Any], **fields: Any) -> tuple[Turn, ...]:
    return conversation(body(*messages, **fields)).turns


def refusal(request: dict[str, Any]) -> BadRequestError:
    with pytest.raises(BadRequestError) as refused:
        exchange(request)
    assert len(str(refused.value)) < 1000
    return refused.value


def view_of(request: dict[str, Any]) -> View:
    encoder: Any = exchange(request).new_encoder(START)
    view: View = encoder._view
    return view


def test_roles_and_blocks() -> None:
    assert turns(
        user([text("Weather?"), text(""), text("Now.")]),
        {"role": "system", "content": "Be brief."},
        assistant([{"type": "thinking", "thinking": "I must call.", "signature": "s"}, text("A look."), USE]),
        user([result("3 C"), text("Thanks."), result([text("rain"), text("later")]), text("Go on.")]),
        assistant("It rains."),
        user("Bye"),
        system=[{**text("You are kind."), "cache_control": {"type": "ephemeral"}}, text("Always.")],
    ) == (
        Instructions("You are kind.\nAlways."),
        UserText("Weather?\nNow."),
        Instructions("Be brief."),
        Reasoning("I must call."),
        AssistantText("A look.", "commentary"),
        CALL,
        ToolResult("weather", "3 C"),
        UserText("Thanks."),
        ToolResult("weather", "rain\nlater"),
        UserText("Go on."),
        AssistantText("It rains.", "final"),
        UserText("Bye"),
    )


def test_a_text_before_a_call_is_a_preamble_in_whichever_message_the_call_is() -> None:
    answer = [text("One."), {"type": "redacted_thinking", "data": "?"}, text("Two.")]
    assert turns(user("x"), assistant(answer), assistant([USE]), user([result("y")]))[1:4] == (
        AssistantText("One.", "commentary"),
        AssistantText("Two.", "commentary"),
        CALL,
    )
    assert turns(user("x"), assistant("Hi."), user("y"), assistant([USE]), user([result("z")]))[1] == (
        AssistantText("Hi.", "final")
    )


def test_a_result_belongs_to_the_nearest_earlier_call_with_its_id() -> None:
    first, second = USE, {**USE, "name": "other", "input": None}
    assert turns(
        user("x"), assistant([first]), user([result("1")]), assistant([second]), user([result("2")])
    )[-3:] == (ToolResult("weather", "1"), Call("other", "{}"), ToolResult("other", "2"))
    error = refusal(body(user([result("1")]), assistant([USE]), user([result("2")])))
    assert error.param == "messages[0].content[0].tool_use_id"


@pytest.mark.parametrize(
    ("content", "shown"),
    [("no such city", "Error: no such city"), ([text("no")], "Error: no"), (None, "Error: ")],
)
def test_an_error_of_a_tool_is_told(content: object, shown: str) -> None:
    block = result(content, is_error=True)
    assert turns(user("x"), assistant([USE]), user([block]))[-1] == ToolResult("weather", shown)


def test_a_reference_to_a_tool_is_its_name() -> None:
    block = result([{"type": "tool_reference", "tool_name": "weather"}])
    assert turns(user("x"), assistant([USE]), user([block]))[-1] == ToolResult("weather", "weather")


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize("kind", ["image", "document", "search_result", "server_tool_use", "newer"])
def test_what_cannot_be_read_is_refused_with_its_place(kind: str) -> None:
    block = {**IMAGE, "type": kind}
    for request, place in (
        (body(user([text("x"), block])), "messages[0].content[1]"),
        (body(user("x"), assistant([USE]), user([result([block])])), "messages[2].content[0].content[0]"),
        (
            body(user("x"), assistant([USE]), user([text("y"), result([text("z"), block])])),
            "messages[2].content[1].content[1]",
        ),
        (body(user("x"), assistant([block])), "messages[1].content[0]"),
        (body(user("x"), system=[text("y"), block]), "system[1]"),
    ):
        error = refusal(request)
        assert error.param == place
        assert str(error).startswith(place)
        assert kind in str(error)


@pytest.mark.parametrize(
    ("request_body", "param"),
    [
        ({"messages": [user("x")]}, "max_tokens"),
        ({"max_tokens": 9}, "messages"),
        (body(max_tokens=0), "max_tokens"),
        (body(max_tokens="9"), "max_tokens"),
        ({**body(), "messages": []}, "messages"),
        (body(user([])), "messages"),
        (body({"role": "tool", "content": "x"}), "messages[0].role"),
        (body(user(None)), "messages[0].content"),
        (body(user([{"text": "x"}])), "messages[0].content[0].type"),
        (body(user([USE])), "messages[0].content[0]"),
        (body(user("x"), assistant([result("y")])), "messages[1].content[0]"),
        (body({"role": "system", "content": [USE]}), "messages[0].content[0]"),
        (body(user("x"), assistant([text("y"), USE])), "messages[1]"),
        (body(user("x"), assistant([{"type": "thinking", "thinking": "y"}])), "messages[1]"),
        (body(stop_sequences=[""]), "stop_sequences[0]"),
        (body(thinking={"type": "maybe"}), "thinking.type"),
        (body(output_config={"effort": "none"}), "output_config.effort"),
        (body(output_config={"format": {"type": "xml", "schema": {}}}), "output_config.format.type"),
        (body(service_tier="gold"), "service_tier"),
        (body(mcp_servers=[{"type": "url", "url": "http://x", "name": "x"}]), "mcp_servers"),
        (body(tools=[{"name": "f"}]), "tools[0].input_schema"),
        (body(tools=[{"input_schema": {}}]), "tools[0].name"),
        (body(tools=[WEATHER, WEATHER]), "tools[1].name"),
        (body(tools=[{"name": "a b", "input_schema": {}}]), "tools[0].name"),
        (body(tools=[{"type": "newer_20300101", "name": "x"}]), "tools[0].type"),
        (body(tools=[{"name": "f", "input_schema": {"type": "strange"}}]), "tools[0].input_schema"),
        (body(tool_choice={"type": "any"}), "tool_choice"),
        (body(tool_choice={"type": "some"}), "tool_choice.type"),
        (body(tools=[WEATHER], tool_choice={"type": "tool"}), "tool_choice.name"),
        (body(tools=[WEATHER], tool_choice={"type": "tool", "name": "g"}), "tool_choice.name"),
        (
            body(user("x"), assistant("y"), tools=[WEATHER], tool_choice={"type": "any"}),
            "tool_choice",
        ),
        (
            body(user("x"), assistant("{"), output_format={"type": "json_schema", "schema": SCHEMA}),
            "output_format",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(request_body: dict[str, Any], param: str) -> None:
    error = refusal(request_body)
    assert error.param == param
    assert param in str(error)


@pytest.mark.parametrize("content", ["The answer is (", [text("The answer"), text(" is ("), text("")]])
def test_a_last_assistant_message_is_gone_on_with(content: object) -> None:
    made = exchange(body(user("x"), assistant(content)))
    assert made.conversation is not None
    assert made.conversation.is_continued
    assert made.offer.is_continued  # type: ignore[union-attr]
    last = made.conversation.turns[-1]
    assert isinstance(last, AssistantText)
    assert last.text.endswith(" is (")


@pytest.mark.parametrize("content", ["", [], [text("")]])
def test_an_empty_last_assistant_message_is_nothing(content: object) -> None:
    made = conversation(body(user("x"), assistant(content)))
    assert made.turns == (UserText("x"),)
    assert not made.is_continued


def test_tools() -> None:
    custom = {**WEATHER, "name": "other", "type": "custom", "input_schema": {"properties": {}}}
    made = exchange(body(tools=[WEATHER, custom]))
    assert made.conversation is not None
    assert made.conversation.tools == (
        Tool("weather", "Says it.", SCHEMA),
        Tool("other", "Says it.", {"type": "object", "properties": {}}),
    )
    assert made.offer.tools == {"weather", "other"}  # type: ignore[union-attr]
    assert made.grammar is None
    assert made.warnings == ()


@pytest.mark.parametrize(
    "kind",
    ["web_search_20250305", "bash_20250124", "text_editor_20250728", "computer_20251124", "memory_20250818"],
)
def test_tools_of_anthropics_own_are_left_out_with_a_warning(kind: str) -> None:
    hosted = {"type": kind, "name": "hosted", "max_uses": 5}
    made = exchange(body(tools=[hosted, WEATHER], context_management={"edits": []}, container="c"))
    assert made.offer.tools == {"weather"}  # type: ignore[union-attr]
    assert made.warnings == (
        f"tools[0] left out: {kind}",
        "context_management left out",
        "container left out",
    )
    assert all(warning.isascii() for warning in made.warnings)
    forced = {"type": "tool", "name": "hosted"}
    assert refusal(body(tools=[hosted, WEATHER], tool_choice=forced)).param == "tool_choice.name"
    assert refusal(body(tools=[hosted], tool_choice={"type": "any"})).param == "tool_choice"


def test_tool_choice() -> None:
    def made(choice: dict[str, Any]) -> Exchange[StreamEvent]:
        other = {**WEATHER, "name": "other"}
        return exchange(body(tools=[WEATHER, other], tool_choice=choice))

    none = made({"type": "none"})
    assert none.offer.tools == set()  # type: ignore[union-attr]
    assert none.conversation is not None
    assert none.conversation.tools == ()
    forced = made({"type": "tool", "name": "other", "disable_parallel_tool_use": True})
    assert forced.offer.tools == {"other"}  # type: ignore[union-attr]
    assert forced.offer.forbidden_tools == {"weather"}  # type: ignore[union-attr]
    assert not forced.offer.is_parallel  # type: ignore[union-attr]
    assert forced.grammar is not None
    assert "functions.weather" not in forced.grammar.structural_tag
    required = made({"type": "any"})
    assert required.offer.is_parallel  # type: ignore[union-attr]
    assert required.grammar is not None
    assert "functions.weather" in required.grammar.structural_tag
    assert made({"type": "auto", "name": None, "disable_parallel_tool_use": None}).grammar is None


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_structured_output(field: str) -> None:
    value = {"type": "json_schema", "schema": SCHEMA}
    param = field
    fields = {field: value}
    if field == "output_config":
        fields, param = {field: {"format": value}}, "output_config.format"
    made = exchange(body(**fields))
    assert made.grammar is not None
    assert made.grammar.param == param
    assert '"city"' in made.grammar.structural_tag
    value["schema"] = {"$ref": "#/$defs/missing"}
    assert refusal(body(**fields)).param == f"{param}.schema"


@pytest.mark.parametrize(
    ("fields", "effort", "display"),
    [
        ({}, "medium", Display.NOTHING),
        ({"thinking": None}, "medium", Display.NOTHING),
        ({"thinking": {"type": "disabled"}}, "low", Display.NOTHING),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low", Display.TEXT),
        ({"thinking": {"type": "enabled", "budget_tokens": 10000}}, "medium", Display.TEXT),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "high", Display.TEXT),
        ({"thinking": {"type": "adaptive"}}, "medium", Display.TEXT),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "medium", Display.SIGNATURE),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, "high", Display.NOTHING),
        ({"effort": "low"}, "low", Display.NOTHING),
        ({"output_config": {"effort": "xhigh", "format": None}}, "high", Display.NOTHING),
    ],
)
def test_thinking(fields: dict[str, Any], effort: str, display: Display) -> None:
    request = body(**fields)
    assert conversation(request).effort == effort
    assert view_of(request).display is display


def test_thinking_without_text_is_brought_back_by_its_signature() -> None:
    sealer = Sealer(b"key")
    items: list[ItemEvent] = [
        ReasoningBegan(),
        Delta("Hm."),
        ItemEnded(True),
        CallBegan("weather"),
        Delta("{}"),
        ItemEnded(True),
    ]
    answer = Answer([*items, ended(Finish.CALLS)], View(display=Display.SIGNATURE), sealer)
    content = answer.body["content"]
    back = body(user("x"), assistant(content), user([result("3 C", tool_use_id=content[1]["id"])]))
    assert conversation(back, sealer).turns[1] == Reasoning("Hm.")
    # With another key it is lost, and nothing else.
    assert conversation(back, Sealer(b"other")).turns == conversation(back).turns
    assert conversation(back).turns[1:] == (Call("weather", "{}"), ToolResult("weather", "3 C"))


def test_sampling_and_the_rest() -> None:
    made = exchange(
        body(
            temperature=1,
            top_p=0.5,
            top_k=3,
            stop_sequences=["a", " "],
            stream=True,
            service_tier="priority",
            cache_salt="salt",
            vllm_xargs={"a": 1},
            metadata={"user_id": None},
            unknown={"a": [1]},
        )
    )
    sampling = made.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (1, 0.5, 3, 9)
    assert (sampling.cache_salt, sampling.vllm_xargs) == ("salt", {"a": 1})
    assert made.offer.stop == ("a", " ")
    assert made.is_streamed
    assert made.model == "m"
    assert view_of(body(service_tier="priority")).service_tier == "priority"
    assert view_of(body(service_tier="standard_only")).service_tier == "standard"
    eager = [{**WEATHER, "eager_input_streaming": True}, {**WEATHER, "name": "b"}]
    assert view_of(body(tools=eager)).eager_tools == {"weather"}


def test_null_is_as_left_out() -> None:
    nulls = dict.fromkeys(name for name in NAMES if name not in ("messages", "max_tokens"))
    assert conversation(body(**nulls)) == conversation({"max_tokens": 9, "messages": [user("x")]})


def test_tokens_are_counted_of_what_would_be_sent() -> None:
    request = body(user("x"), assistant([USE]))
    del request["max_tokens"]
    made = exchange(request, counting=True)
    assert made.conversation is not None
    assert made.conversation.turns == (UserText("x"), CALL)
    assert count_body(5) == {"input_tokens": 5}


def test_claude_codes_line_for_the_bill_is_left_out() -> None:
    system = [text("x-anthropic-billing-header: cc_version=1; cch=1f2e3;"), text("You are Claude Code.")]
    assert turns(system=system)[0] == Instructions("You are Claude Code.")


def test_what_was_answered_is_accepted_as_input() -> None:
    items: list[ItemEvent] = [ReasoningBegan(), Delta("Hm."), ItemEnded(True)]
    items += [TextBegan("commentary"), Delta("A look."), ItemEnded(True)]
    items += [CallBegan("weather"), Delta('{"city":"Oslo"}'), ItemEnded(True)]
    items += [CallBegan("un known"), Delta("[1]"), ItemEnded(True)]
    answer = Answer([*items, ended(Finish.CALLS)], View(display=Display.TEXT)).body
    message = AnthropicMessage.model_validate(answer)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "x"}
        for block in message.content
        if block.type == "tool_use"
    ]
    sent = json.loads(json.dumps([block.model_dump() for block in message.content]))
    assert turns(user("x"), assistant(sent), user(results))[1:] == (
        Reasoning("Hm."),
        AssistantText("A look.", "commentary"),
        CALL,
        Call("un known", "{}"),
        ToolResult("weather", "x"),
        ToolResult("un known", "x"),
    )


def test_errors() -> None:
    assert error_body(BadRequestError("it is wrong", "tools[0]"), "req_1") == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "tools[0]: it is wrong"},
        "request_id": "req_1",
    }
    for error, kind in (
        (OverloadedError("x"), "rate_limit_error"),
        (EngineLostError("x"), "overloaded_error"),
        (ModelNotFoundError("x"), "not_found_error"),
    ):
        assert error_body(error)["error"]["type"] == kind
    long = error_body(BadRequestError("ü" * 5000, None))
    assert len(long["error"]["message"].encode()) <= 1000


def test_schemas_for_the_api_document() -> None:
    _, components = msgspec.json.schema_components([MessagesRequest, Message, ErrorBody, StreamEvent])
    assert {"MessagesRequest", "Message", "ErrorBody", "MessageStart"} <= components.keys()
    assert "max_tokens" in components["MessagesRequest"]["properties"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "image", "redacted_thinking"])},
    optional={
        "text": st.text(max_size=5) | JSON,
        "id": st.sampled_from(["t1", "t2", 3]),
        "tool_use_id": st.sampled_from(["t1", "t2"]),
        "name": st.sampled_from(["weather", "", None]),
        "input": st.dictionaries(st.text(max_size=3), JSON, max_size=2) | JSON,
        "content": JSON | st.lists(st.just(text("x")) | JSON, max_size=2),
        "is_error": JSON,
        "thinking": st.text(max_size=5),
        "signature": st.text(max_size=5),
    },
)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": st.text(max_size=5) | st.lists(BLOCKS),
    }
)
NAMES = tuple(msgspec.json.schema_components([MessagesRequest])[1]["MessagesRequest"]["properties"])
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["weather", "b"])},
        optional={
            "type": st.sampled_from(["custom", "bash_20250124", None]),
            "input_schema": st.just(SCHEMA) | st.dictionaries(st.sampled_from(["type", "properties"]), JSON),
        },
    )
)


@given(
    st.fixed_dictionaries(
        {"messages": st.lists(MESSAGES, max_size=4), "max_tokens": st.just(5)},
        optional={
            **{name: JSON for name in NAMES if name not in ("messages", "max_tokens")},
            "tools": TOOLS,
            "tool_choice": st.fixed_dictionaries(
                {"type": st.sampled_from(["auto", "any", "tool", "none"])},
                optional={"name": st.sampled_from(["weather", "b"])},
            ),
        },
    )
    | st.dictionaries(st.sampled_from(NAMES), JSON)
)
@examples(200)
def test_any_body_is_read_or_refused(request: dict[str, Any]) -> None:
    made, refused = None, None
    try:
        made = exchange(request)
    except BadRequestError as error:
        refused = error
    if refused:
        assert len(json.dumps(error_body(refused))) < 2048
    else:
        assert made
        assert made.conversation
        assert made.conversation.turns


def test_deep_bodies_are_refused() -> None:
    deep: Any = {}
    for _ in range(20_000):
        deep = {"a": deep}
    for request in (
        body(user("x"), assistant([{**USE, "input": deep}]), user([result("y")])),
        body(tools=[{**WEATHER, "input_schema": deep}]),
        body(output_format={"type": "json_schema", "schema": deep}),
    ):
        refusal(request)


def test_a_forced_tool_whose_schema_cannot_become_a_grammar() -> None:
    nowhere = {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x"}],
        "tools": [
            {"name": "fine", "input_schema": {"type": "object"}},
            {"name": "f", "input_schema": nowhere},
        ],
    }
    exchange(body)  # the model may, and need not, call it
    with pytest.raises(BadRequestError) as caught:
        exchange(body | {"tool_choice": {"type": "tool", "name": "f"}})
    assert (caught.value.param or "").startswith("tools[1].input_schema")
    exchange(body | {"tool_choice": {"type": "tool", "name": "fine"}})


def test_threads_are_refused_so_that_clients_go_on_without() -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    exchange(body | {"thread": None})
    with pytest.raises(BadRequestError) as caught:
        exchange(body | {"thread": {"type": "create"}})
    error = error_body(caught.value)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
