"""Bodies of Responses requests: what they ask for, what the response says of them, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from serve_app.answers.items import Finish
from serve_app.answers.offer import Offer
from serve_app.api.chat.request import MAX_TOOLS
from serve_app.api.exchange import Exchange, Start
from serve_app.api.responses.exchange import INCLUDES, exchange
from serve_app.api.responses.request import ResponsesRequest
from serve_app.api.responses.tools import OTHER_KINDS, Toolbox, choose
from serve_app.api.sampling import Sampling
from serve_app.errors import BadRequestError, body_of
from serve_app.harmony.conversation import Conversation, Instructions, Tool, UserText
from tests.costs import cpu_s
from tests.examples import examples
from tests.unit.api import response_answers
from tests.unit.api.response_answers import FINAL, SEALER, TOOLS

FUNCTION = {"type": "function", "name": "f", "parameters": {}}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def ask(**fields: Any) -> Exchange[Any]:
    return exchange({"input": "hi"} | fields, SEALER)


def conversation(**fields: Any) -> Conversation:
    asked = ask(**fields).conversation
    assert asked is not None
    return asked


def offer(**fields: Any) -> Offer:
    asked = ask(**fields).offer
    assert isinstance(asked, Offer)
    return asked


def refusal(**fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        ask(**fields)
    return caught.value


def response(**fields: Any) -> dict[str, Any]:
    return response_answers.body_of(FINAL, Finish.STOP, {"tools": None} | fields)


def _without_ids(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"id": "", "output": [], "completed_at": 0}


def test_a_small_request() -> None:
    asked = ask(model="m", instructions="Be brief.", stream=True)
    assert asked.conversation == Conversation((Instructions("Be brief."), UserText("hi")))
    assert (asked.offer, asked.sampling, asked.model) == (Offer(), Sampling(), "m")
    assert (asked.is_streamed, asked.num_choices, asked.grammar, asked.warnings) == (True, 1, None, ())


def test_null_is_as_left_out() -> None:
    names = [field.encode_name for field in msgspec.structs.fields(ResponsesRequest) if field.name != "input"]
    nulls = dict.fromkeys(names)
    null, plain = ask(**nulls), ask()
    assert (null.conversation, null.offer, null.sampling) == (plain.conversation, plain.offer, plain.sampling)
    left_out = _without_ids(response())
    assert _without_ids(response(**nulls)) == left_out
    assert response(text={"format": None, "verbosity": None})["text"] == left_out["text"]
    assert response(reasoning={"effort": None, "summary": None})["reasoning"] == left_out["reasoning"]


@pytest.mark.parametrize(
    ("effort", "meant"),
    [
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "high"),
        ("max", "high"),
    ],
)
def test_efforts(effort: str, meant: str) -> None:
    assert conversation(reasoning={"effort": effort}).effort == meant
    assert response(reasoning={"effort": effort, "summary": "auto"})["reasoning"] == {
        "effort": meant,
        "summary": "auto",
    }


@pytest.mark.parametrize("effort", ["none", "", "higher"])
def test_other_efforts_are_refused(effort: str) -> None:
    assert refusal(reasoning={"effort": effort}).param == "reasoning.effort"


def test_sampling() -> None:
    given_fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "seed": 3,
        "min_tokens": 2,
        "stop_token_ids": [5],
        "ignore_eos": True,
        "logit_bias": {"5": 1.0},
        "cache_salt": "salt",
        "priority": -1,
    }
    assert ask(max_output_tokens=9, **given_fields).sampling == Sampling(max_tokens=9, **given_fields)


def test_stop_strings() -> None:
    assert offer(stop="a").stop == ("a",)
    asked = offer(stop=["a", "b"], include_stop_str_in_output=True, parallel_tool_calls=False)
    assert (asked.stop, asked.keeps_stop_string, asked.is_parallel) == (("a", "b"), True, False)


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 3}, 3),
        ({"top_logprobs": 0, "include": sorted(INCLUDES - {"message.output_text.logprobs"})}, None),
    ],
)
def test_log_probabilities(fields: dict[str, Any], number: int | None) -> None:
    assert ask(**fields).sampling.logprobs == number


def test_tools_are_functions_also_those_in_namespaces() -> None:
    asked = ask(tools=TOOLS)
    assert asked.conversation
    assert asked.conversation.tools == (
        Tool("weather", "The weather of a city.", TOOLS[0]["parameters"]),
        Tool("files__read"),
    )
    assert asked.offer == Offer(tools=frozenset({"weather", "files__read"}))
    shown = response(tools=TOOLS)["tools"]
    assert shown[0] == TOOLS[0]
    assert shown[1]["tools"] == [TOOLS[1]["tools"][0] | {"strict": None}]


@pytest.mark.parametrize("kind", sorted(OTHER_KINDS))
def test_tools_of_other_kinds_are_left_out_with_a_warning(kind: str) -> None:
    other = {"type": kind, "name": "x", "format": {"type": "text"}}
    asked = ask(tools=[FUNCTION, other])
    assert asked.offer == Offer(tools=frozenset({"f"}))
    assert asked.warnings == (f"tools[1]: {kind}: not served",)
    assert len(response(tools=[FUNCTION, other])["tools"]) == 1
    assert ask(tools=[other]).offer == Offer()
    assert refusal(tools=[FUNCTION, other], tool_choice={"type": kind}).param == "tool_choice.type"
    assert refusal(tools=[other], tool_choice="required").param == "tool_choice"
    namespace = {"type": "namespace", "name": "n", "tools": [other, FUNCTION]}
    assert ask(tools=[namespace]).warnings == (f"tools[0].tools[0]: {kind}: not served",)


def test_warnings_fit_into_a_header() -> None:
    warnings = ask(tools=[{"type": "web_search"}] * 1000, truncation="auto").warnings
    assert len("; ".join(warnings)) < 500
    assert warnings[0] == "truncation: auto: not served"
    assert warnings[-1] == "994 more"


def test_tools_may_stand_among_the_items() -> None:
    items = [
        {"role": "user", "content": "hi"},
        {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]},
    ]
    assert offer(input=items).tools == {"f"}
    bad = {"type": "additional_tools", "tools": [{"type": "function"}]}
    assert refusal(input=[*items, bad]).param == "input[2].tools[0].name"


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "no such kind"}, "tools[0].type"),
        ({"type": None}, "tools[0].type"),
        ({"name": "f"}, "tools[0].type"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "function", "name": ""}, "tools[0].name"),
        ({"type": "function", "name": "a b"}, "tools[0].name"),
        ({"type": "function", "name": "f<|end|>"}, "tools[0].name"),
        ({"type": "function", "name": "f", "parameters": []}, "tools[0].parameters"),
        ({"type": "function", "name": "f", "strict": "yes"}, "tools[0].strict"),
        ({"type": "namespace", "name": "n"}, "tools[0].tools"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "namespace"}]}, "tools[0].tools[0].type"),
    ],
)
def test_tools_that_are_malformed_are_refused_by_place(tool: dict[str, Any], param: str) -> None:
    assert refusal(tools=[tool]).param == param


def test_a_schema_that_is_none_is_refused_by_place() -> None:
    param = refusal(tools=[FUNCTION | {"parameters": {"type": "no such type"}}]).param
    assert param
    assert param.startswith("tools[0].parameters")
    namespace = {"type": "namespace", "name": "n", "tools": [FUNCTION | {"parameters": {"type": 7}}]}
    param = refusal(tools=[namespace]).param
    assert param
    assert param.startswith("tools[0].tools[0].parameters")


def test_schemas_that_the_grammar_follows_lead_somewhere() -> None:
    nowhere = {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}
    tools = [{"type": "namespace", "name": "n", "tools": [FUNCTION | {"parameters": nowhere}]}]
    assert ask(tools=tools).grammar is None
    assert refusal(tools=tools, tool_choice="required").param == "tools[0].tools[0].parameters"
    text_format = {"type": "json_schema", "name": "n", "schema": nowhere}
    assert refusal(text={"format": text_format}).param == "text.format.schema"


def test_choices_of_tools() -> None:
    assert offer(tools=TOOLS, tool_choice="none") == Offer()
    assert conversation(tools=TOOLS, tool_choice="none").tools == ()
    assert offer(tools=TOOLS, tool_choice="required").tools == {"weather", "files__read"}
    forced = ask(tools=TOOLS, tool_choice={"type": "function", "name": "weather"})
    assert forced.offer == Offer(frozenset({"weather"}), frozenset({"files__read"}))
    assert forced.grammar
    assert "weather" in forced.grammar.structural_tag
    assert "files__read" not in forced.grammar.structural_tag
    for name in ("read", "files__read"):
        assert offer(tools=TOOLS, tool_choice={"type": "function", "name": name}).tools == {"files__read"}


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        ([{"type": "function", "name": "weather"}], {"weather"}),
        ([{"type": "namespace", "name": "files"}, {"type": "web_search"}], {"files__read"}),
        ([{"type": "function", "name": "read", "namespace": "files"}], {"files__read"}),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools(allowed: list[dict[str, Any]], names: set[str], mode: str) -> None:
    choice = {"type": "allowed_tools", "mode": mode, "tools": allowed}
    asked = ask(tools=TOOLS, tool_choice=choice)
    everything = {"weather", "files__read"}
    assert asked.offer == Offer(frozenset(names), frozenset(everything - names))
    assert asked.conversation
    assert {tool.name for tool in asked.conversation.tools} == everything
    assert (asked.grammar is not None) == (mode == "required")
    assert response(tools=TOOLS, tool_choice=choice)["tool_choice"]["mode"] == mode


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("sometimes", "tool_choice"),
        ({"type": "no such kind"}, "tool_choice.type"),
        ({}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.name"),
        ({"type": "function", "name": "g"}, "tool_choice.name"),
        ({"type": "function", "name": "weather", "namespace": "files"}, "tool_choice.name"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "tool_choice.tools"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp"}]}, "tool_choice.tools"),
        (
            {"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]},
            "tool_choice.tools[0].name",
        ),
        ({"type": "allowed_tools", "tools": [{"type": "x"}]}, "tool_choice.tools[0].type"),
        ({"type": "allowed_tools", "mode": "x", "tools": []}, "tool_choice.mode"),
    ],
)
def test_choices_that_cannot_be_are_refused(choice: Any, param: str) -> None:
    assert refusal(tools=TOOLS, tool_choice=choice).param == param


def test_a_function_that_is_defined_twice_counts_once() -> None:
    assert ask(tools=[FUNCTION, FUNCTION]).warnings == ("tools[1]: f is defined twice; the first one counts",)


def test_formats() -> None:
    text_format = {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}
    asked = ask(text={"format": text_format, "verbosity": "low"})
    assert asked.grammar
    assert asked.grammar.param == "text.format.schema"
    assert response(text={"format": text_format, "verbosity": "low"})["text"] == {
        "format": text_format | {"description": None},
        "verbosity": "low",
    }
    for fields in (
        {"text": {"format": {"type": "json_object"}}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"regex": "a+"}},
        {"structured_outputs": {"choice": ["a", "b"]}},
    ):
        assert ask(**fields).grammar
    assert ask(text={"format": {"type": "text"}}).grammar is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        (
            {"text": {"format": {"type": "json_object"}}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"include": ["everything"]}, "include[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "some"}, "truncation"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"input": 7}, "input"),
        ({"input": ["text"]}, "input[0]"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"tools": {}}, "tools"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_the_response_says_what_was_asked_for() -> None:
    said = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "max_output_tokens": 9,
        "max_tool_calls": 2,
        "metadata": {"a": "b"},
        "instructions": "Be brief.",
        "parallel_tool_calls": False,
        "top_logprobs": 2,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "tool_choice": "none",
    }
    body = response(**said)
    assert {name: body[name] for name in said} == said
    assert (body["model"], body["created_at"]) == ("gpt-oss-demo", 1_700_000_000)


def test_nothing_is_stored_or_truncated_whatever_is_asked() -> None:
    body = response(store=True, truncation="auto", background=False)
    assert (body["store"], body["truncation"], body["background"]) == (False, "disabled", False)


@pytest.mark.parametrize(
    ("tier", "shown"),
    [
        ("priority", "priority"),
        ("flex", "flex"),
        ("auto", "default"),
        ("default", "default"),
        ("x", "default"),
    ],
)
def test_tiers(tier: str, shown: str) -> None:
    assert response(service_tier=tier)["service_tier"] == shown


def test_the_clients_id_is_that_of_the_response() -> None:
    assert ask(request_id="mine").request_id == "mine"
    assert response(request_id="mine")["id"] == "mine"
    assert response()["id"].startswith("resp_")


def test_a_cut_answer_is_continued_unless_a_call_is_forced() -> None:
    cut = {"role": "assistant", "content": "It is", "status": "incomplete"}
    items = [{"role": "user", "content": "Weather?"}, cut]
    assert conversation(input=items).is_continued
    assert offer(input=items).is_continued
    assert not offer(input=items, tools=TOOLS, tool_choice="required").is_continued


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_KINDS = st.sampled_from(
    ["message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "web_search_call"]
)
_ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": _KINDS | JSON,
        "role": st.sampled_from(["user", "assistant", "system"]) | JSON,
        "content": st.text(max_size=5)
        | st.lists(st.fixed_dictionaries({"type": st.just("input_text"), "text": JSON}), max_size=2)
        | JSON,
        "call_id": st.sampled_from(["c", "d"]) | JSON,
        "name": st.sampled_from(["f"]) | JSON,
        "arguments": st.text(max_size=5) | JSON,
        "output": st.text(max_size=5) | JSON,
        "summary": JSON,
        "encrypted_content": JSON,
        "status": st.sampled_from(["completed", "incomplete"]) | JSON,
        "phase": st.sampled_from(["commentary", None]) | JSON,
    },
)
_TOOLS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["function", "namespace", "web_search"]) | JSON,
        "name": st.sampled_from(["f", "g"]) | JSON,
        "description": JSON,
        "parameters": st.just(SCHEMA) | JSON,
        "tools": st.lists(st.just(FUNCTION), max_size=2) | JSON,
    },
)
_BODIES = st.fixed_dictionaries(
    {},
    optional={
        field.encode_name: st.none() | JSON
        for field in msgspec.structs.fields(ResponsesRequest)
        if field.name not in ("input", "tools", "tool_choice")
    }
    | {
        "input": st.text(max_size=5) | st.lists(_ITEMS, max_size=3) | JSON,
        "tools": st.lists(_TOOLS, max_size=3) | JSON,
        "tool_choice": st.sampled_from(["auto", "none", "required"])
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["function", "allowed_tools"]), "name": st.just("f") | JSON},
            optional={"mode": JSON, "tools": st.lists(_TOOLS, max_size=2) | JSON},
        )
        | JSON,
    },
)


def _outcome(body: Any) -> Exchange[Any] | None:
    try:
        return exchange(body, SEALER)
    except BadRequestError as error:
        refused = error
    assert len(msgspec.json.encode(body_of(refused))) < 2048
    return None


def _answered(asked: Exchange[Any]) -> None:
    """Answers a request, since what it says is part of the answer."""
    encoder = asked.new_encoder(Start("m", 1, [], response_answers.name_token))
    events = [*encoder.begin(), *encoder.feed(0, [response_answers.ended(Finish.STOP)], [])]
    events += encoder.end(response_answers.USAGE)
    for event in events:
        assert encoder.to_bytes(event)
    Response.model_validate(encoder.fold(events), strict=True)


@examples(80)
@given(_BODIES)
def test_any_body_is_served_or_refused(body: dict[str, Any]) -> None:
    if asked := _outcome(body):
        _answered(asked)


@examples(60)
@given(
    st.lists(_ITEMS, max_size=4), st.lists(_TOOLS, max_size=3), st.sampled_from([None, "auto", "required"])
)
def test_any_items_and_tools_are_served_or_refused(items: Any, tools: Any, choice: Any) -> None:
    user = {"role": "user", "content": "hi"}
    if asked := _outcome({"input": [user, *items], "tools": tools, "tool_choice": choice}):
        _answered(asked)


@pytest.mark.parametrize("field", [field.encode_name for field in msgspec.structs.fields(ResponsesRequest)])
@pytest.mark.parametrize("shape", ["list", "object"])
def test_what_is_nested_deeply_is_served_or_refused(field: str, shape: str) -> None:
    # Deeper than any recursion; what a parser lets through is at most some hundred levels deep.
    value: Any = "x"
    for _ in range(2000):
        value = [value] if shape == "list" else {"type": value, "name": value, "a": value}
    for body in ({field: value}, {field: [value]}, {field: {"type": value, "name": value, "tools": [value]}}):
        _outcome({"input": "hi"} | body)


def functions(number: int) -> list[dict[str, Any]]:
    return [{"type": "function", "name": f"f{index}"} for index in range(number)]


@pytest.mark.parametrize("is_inside", [False, True])
def test_so_many_functions(is_inside: bool) -> None:
    def tools(number: int) -> list[dict[str, Any]]:
        inner = functions(number)
        return [{"type": "namespace", "name": "n", "tools": inner}] if is_inside else inner

    assert len(conversation(tools=tools(MAX_TOOLS)).tools) == MAX_TOOLS
    assert "there may be 1024 functions" in str(refusal(tools=tools(MAX_TOOLS + 1)))


@pytest.mark.parametrize("kind", ["function", "namespace"])
def test_a_choice_among_many_functions_does_not_look_at_all_for_each(kind: str) -> None:
    inner = functions(MAX_TOOLS)
    many = [{"type": "namespace", "name": one["name"], "tools": [one]} for one in inner]

    def often(number: int) -> Any:
        toolbox = Toolbox()
        toolbox.add(
            [{"type": "namespace", "name": "f0", "tools": inner}] if kind == "namespace" else many, "t"
        )
        tools = [{"type": kind, "name": "f0"}] * number
        return lambda: choose({"type": "allowed_tools", "mode": "auto", "tools": tools}, toolbox)

    assert cpu_s(often(2_000)) < 2_000 * MAX_TOOLS * 1e-8
