"""Items that clients of the Responses API send: as turns of a conversation, or refused by their place."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from openai.types.responses import ResponseInputItemParam

from serve_app.answers.items import CallBegan, Delta, Finish, ItemEnded, ItemEvent, ReasoningBegan, TextBegan
from serve_app.api.responses.input import LEFT_OUT, REFUSED, ReadInput, read_input
from serve_app.api.sealing import Sealer
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Instructions,
    Reasoning,
    ToolResult,
    Turn,
    UserText,
)
from tests.examples import examples
from tests.unit.api.response_answers import ANSWERS, SEALER, body_of

USER = {"role": "user", "content": "Weather?"}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "3 C"}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "I must call it."}],
}


def read(*items: Any) -> ReadInput:
    return read_input(list(items), SEALER)


def turns(*items: Any) -> list[Turn]:
    return read(*items).turns


def refusal(*items: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        read(*items)
    return caught.value


def assistant(text: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "content": content} | more


def test_a_string_is_what_the_user_says() -> None:
    assert read_input("hi", SEALER).turns == [UserText("hi")]


def test_messages_with_and_without_type_and_parts() -> None:
    assert turns(
        {"role": "system", "content": "Be brief."},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "In French."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"type": "message", "role": "assistant", "content": "Oui."},
        assistant("Non.", id="msg_1", status="completed"),
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Sorry."}]},
        USER,
    ) == [
        Instructions("Be brief."),
        Instructions("In French."),
        UserText("ab"),
        AssistantText("Oui."),
        AssistantText("Non."),
        AssistantText("Sorry."),
        UserText("Weather?"),
    ]


def test_a_preamble_keeps_the_reasoning_before_it() -> None:
    commentary = assistant("Let me look.", phase="commentary")
    assert turns(USER, REASONING, commentary, CALL, OUTPUT) == [
        UserText("Weather?"),
        Reasoning("I must call it."),
        AssistantText("Let me look.", "commentary"),
        Call("weather", '{"city": "Oslo"}'),
        ToolResult("weather", "3 C"),
    ]


@pytest.mark.parametrize("phase", [None, "commentary", "final_answer"])
@pytest.mark.parametrize("between", [[], [REASONING], [OUTPUT]])
def test_a_text_before_a_call_is_a_preamble(phase: str | None, between: list[Any]) -> None:
    calls = [CALL, OUTPUT] if between == [OUTPUT] else []
    text = assistant("Let me look.", phase=phase)
    [found] = [t for t in turns(USER, *calls, text, *between, CALL) if isinstance(t, AssistantText)]
    assert found.channel == "commentary"


def test_a_text_before_the_users_next_turn_is_an_answer() -> None:
    [found] = [t for t in turns(USER, assistant("Hi."), USER, CALL) if isinstance(t, AssistantText)]
    assert found.channel == "final"


def test_a_text_at_the_end_is_what_its_phase_says() -> None:
    assert turns(assistant("Hm", phase="commentary")) == [AssistantText("Hm", "commentary")]
    assert turns(assistant("Hm", phase="final_answer")) == [AssistantText("Hm", "final")]
    assert turns(assistant("Hm")) == [AssistantText("Hm", "final")]


@pytest.mark.parametrize("status", ["incomplete", "in_progress"])
def test_an_answer_that_was_cut_is_continued(status: str) -> None:
    cut = assistant("It is", status=status)
    assert read(USER, cut).is_continued
    assert not read(USER, cut, USER).is_continued
    assert not read(USER, cut | {"phase": "commentary"}).is_continued
    assert not read(USER, assistant("It is", status="completed")).is_continued


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"content": [{"type": "reasoning_text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": None, "summary": [{"type": "summary_text", "text": "s"}]}, "s"),
        ({"content": [], "encrypted_content": SEALER.seal("secret")}, "secret"),
        ({"summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": SEALER.seal("e")}, "e"),
        ({"content": [{"type": "reasoning_text", "text": "c"}], "encrypted_content": SEALER.seal("e")}, "c"),
        ({"summary": [], "encrypted_content": None, "id": None}, None),
    ],
)
def test_reasoning_is_read_from_where_it_stands(item: dict[str, Any], text: str | None) -> None:
    assert turns({"type": "reasoning"} | item, USER)[:-1] == ([] if text is None else [Reasoning(text)])


@pytest.mark.parametrize(
    "sealed",
    ["gAAAAABo", Sealer(b"another key").seal("t"), SEALER.seal("t")[:-4] + "AAA="],
    ids=["of another service", "of another key", "changed"],
)
def test_encrypted_reasoning_that_is_not_ours_is_refused(sealed: str) -> None:
    error = refusal(USER, {"type": "reasoning", "summary": [], "encrypted_content": sealed})
    assert (error.param, error.code) == ("input[1].encrypted_content", "invalid_encrypted_content")


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("3 C", "3 C"),
        ([{"type": "input_text", "text": "3 C"}], "3 C"),
        ([{"type": "input_text", "text": "3 "}, {"type": "output_text", "text": "C"}], "3 C"),
        ([], ""),
    ],
)
def test_results_are_texts_or_lists_of_them(output: Any, text: str) -> None:
    assert turns(USER, CALL, OUTPUT | {"output": output})[-1] == ToolResult("weather", text)


def test_a_result_belongs_to_the_nearest_earlier_call_of_its_id() -> None:
    other = CALL | {"name": "time"}
    results = [t for t in turns(USER, CALL, OUTPUT, other, OUTPUT, CALL) if isinstance(t, ToolResult)]
    assert [result.name for result in results] == ["weather", "time"]


def test_a_result_without_an_earlier_call_is_refused() -> None:
    assert refusal(USER, OUTPUT, CALL).param == "input[1].call_id"


def test_calls_of_custom_tools_are_read() -> None:
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done"}
    assert turns(USER, call, output)[1:] == [
        Call("apply_patch", "*** Begin"),
        ToolResult("apply_patch", "Done"),
    ]


def test_a_call_in_a_namespace_has_the_name_of_the_prompt() -> None:
    assert turns(USER, CALL | {"namespace": "files"}, OUTPUT)[1:] == [
        Call("files__weather", '{"city": "Oslo"}'),
        ToolResult("files__weather", "3 C"),
    ]


@pytest.mark.parametrize(
    "kind", ["input_image", "input_file", "input_audio", "image_url", "no such kind", None]
)
@pytest.mark.parametrize("place", ["content", "output"])
def test_parts_that_are_no_text_are_refused_by_place(kind: str | None, place: str) -> None:
    parts = [{"type": "input_text", "text": "See"}, {"type": kind, "image_url": "data:"}]
    item = {"role": "user", "content": parts} if place == "content" else OUTPUT | {"output": parts}
    assert refusal(USER, CALL, item).param == f"input[2].{place}[1]"


@pytest.mark.parametrize("kind", sorted(LEFT_OUT))
def test_items_of_kinds_that_are_not_served_are_left_out_with_a_warning(kind: str) -> None:
    found = read(USER, {"type": kind, "id": "x_1", "status": "completed"})
    assert found.turns == [UserText("Weather?")]
    assert [warning.split(": ")[:2] for warning in found.warnings] == [["input[1]", kind]]


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_items_whose_content_is_elsewhere_are_refused(kind: str) -> None:
    error = refusal(USER, {"type": kind, "id": "x_1"})
    assert error.param == "input[1]"
    assert kind in str(error)


@pytest.mark.parametrize("reference", [{"id": "rs_1"}, {"type": "item_reference", "id": "rs_1"}])
def test_a_reference_to_a_stored_item_is_left_out(reference: dict[str, Any]) -> None:
    found = read(USER, reference, CALL, OUTPUT)
    assert found.turns == turns(USER, CALL, OUTPUT)
    assert found.warnings == ["input[1]: item_reference: nothing is stored, send items whole"]


def test_every_kind_of_item_that_openai_knows_is_known() -> None:
    kinds = {
        kind
        for item in get_args(ResponseInputItemParam)
        for kind in get_args(_without_wrappers(get_type_hints(item).get("type")))
        if isinstance(kind, str)
    }
    assert len(kinds) > 20
    for kind in kinds:
        if kind not in LEFT_OUT | {"reasoning"}:
            assert "no kind of item" not in str(refusal(USER, {"type": kind}))


def _without_wrappers(hint: Any) -> Any:
    while hint is not None and not all(isinstance(argument, str) for argument in get_args(hint)):
        hint = get_args(hint)[0]
    return hint


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "no such kind"}, "input[0].type"),
        ({"type": 7}, "input[0].type"),
        ({}, "input[0].type"),
        ({"role": "tool", "content": "x"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": 7}, "input[0].content"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}, "input[0].arguments"),
        ({"type": "function_call", "name": "f", "arguments": ""}, "input[0].call_id"),
        ({"type": "function_call", "call_id": "c", "name": "", "arguments": ""}, "input[0].name"),
        ({"type": "reasoning", "content": [{"type": "reasoning_text"}]}, "input[0].content[0]"),
    ],
)
def test_items_that_are_malformed_are_refused_by_place(item: dict[str, Any], param: str) -> None:
    assert refusal(item).param == param


@pytest.mark.parametrize("value", [[], None, [{"type": "web_search_call"}]])
def test_an_input_of_nothing_is_refused(value: Any) -> None:
    with pytest.raises(BadRequestError) as caught:
        read_input(value, SEALER)
    assert caught.value.param == "input"


def _meant(items: list[ItemEvent]) -> list[Turn]:
    """What the items of an answer are, as turns."""
    meant: list[Turn] = []
    begin: ItemEvent | None = None
    text = ""
    for event in items:
        match event:
            case Delta():
                text += event.text
            case ItemEnded():
                match begin:
                    case ReasoningBegan() if text:
                        meant.append(Reasoning(text))
                    case TextBegan() if text:
                        meant.append(AssistantText(text, begin.channel))
                    case CallBegan():
                        meant.append(Call(begin.name, text))
            case _:
                begin, text = event, ""
    last_call = max((i for i, turn in enumerate(meant) if isinstance(turn, Call)), default=-1)
    return [
        AssistantText(turn.text, "commentary") if isinstance(turn, AssistantText) and i < last_call else turn
        for i, turn in enumerate(meant)
    ]


@examples(60)
@given(ANSWERS)
def test_every_answer_is_accepted_as_input(made: tuple[list[ItemEvent], Finish]) -> None:
    items, finish = made
    output = body_of(items, finish, {"include": ["reasoning.encrypted_content"]})["output"]
    results = [OUTPUT | {"call_id": item["call_id"]} for item in output if item["type"] == "function_call"]
    calls = [turn.name for turn in _meant(items) if isinstance(turn, Call)]
    expected = [UserText("Weather?"), *_meant(items), *(ToolResult(name, "3 C") for name in calls)]
    assert turns(USER, *output, *results) == expected
    # Clients without a store send the sealed reasoning alone.
    bare = [{key: value for key, value in item.items() if key not in ("id", "status")} for item in output]
    for item in bare:
        if item["type"] == "reasoning":
            del item["content"]
    assert turns(USER, *bare, *results) == expected
