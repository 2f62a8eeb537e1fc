"""The messages of Chat Completions as turns."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.answers.items import (
    AnswerEnded,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
)
from serve_app.answers.usage import Usage
from serve_app.api.chat import exchange as chat
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Instructions,
    Reasoning,
    Tool,
    ToolResult,
    UserText,
)
from tests.unit.api.chat_bodies import (
    ANSWER,
    CALLED,
    CITY,
    HI,
    START,
    TOOLS,
    WEATHER,
    called,
    conversation_of,
    exchange,
    offer_of,
    refusal,
    turns,
)


def test_roles_and_contents() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]
    assert turns(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": parts},
        {"role": "system", "content": ""},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": None},
        {"role": "assistant", "content": None, "refusal": "Never."},
        {"role": "assistant", "content": ""},
        {"role": "assistant"},
    ) == [
        Instructions("Be brief."),
        Instructions("abc"),
        UserText("abc", "Ann"),
        AssistantText("No."),
        UserText(""),
        AssistantText("Never."),
    ]


def test_an_answer_with_calls_is_reasoning_preamble_calls() -> None:
    assert turns(
        HI,
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "Hm.",
            "tool_calls": [called("weather", "a", '{"x":  1}'), called("now", "b", {"x": [1]})],
        },
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
        {"role": "tool", "tool_call_id": "a", "content": "3 C"},
        {"role": "assistant", "content": "Cold.", "reasoning_content": "So."},
    ) == [
        UserText("hi"),
        Reasoning("Hm."),
        AssistantText("I look.", "commentary"),
        Call("weather", '{"x":  1}'),
        Call("now", '{"x":[1]}'),
        ToolResult("now", "noon"),
        ToolResult("weather", "3 C"),
        Reasoning("So."),
        AssistantText("Cold."),
    ]


def test_a_text_is_commentary_if_a_call_follows_or_the_client_says_so() -> None:
    text = {"role": "assistant", "content": "I look."}
    call = {"role": "assistant", "content": None, "tool_calls": [called("now", "a")]}
    commentary, final = AssistantText("I look.", "commentary"), AssistantText("I look.")
    assert turns(HI, text, call)[1:] == [commentary, Call("now", "{}")]
    assert turns(HI, call, text)[1:] == [Call("now", "{}"), final]
    assert turns(text, HI, call)[0] == final
    assert turns(HI, text | {"phase": "commentary"})[1:] == [commentary]
    assert turns(HI, text | {"phase": "final_answer"}, call)[1] == final


def test_a_result_belongs_to_the_nearest_earlier_call_with_its_id() -> None:
    result = {"role": "tool", "tool_call_id": "a", "content": "r"}
    assert turns(
        {"role": "assistant", "tool_calls": [called("first", "a")]},
        result,
        {"role": "assistant", "tool_calls": [called("second", "a")]},
        result,
    )[1::2] == [ToolResult("first", "r"), ToolResult("second", "r")]


def test_what_was_called_before_tools_were_called_tools() -> None:
    assert turns(
        HI,
        {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "noon"},
    )[1:] == [Call("now", "{}"), ToolResult("now", "noon")]
    asked = exchange(functions=[WEATHER, {"name": "now"}], function_call={"name": "now"})
    assert conversation_of(asked).tools == (Tool("weather", "Of a city.", CITY), Tool("now"))
    assert offer_of(asked).tools == {"now"}
    assert refusal(functions=[{"name": ""}]).param == "functions[0].name"
    assert refusal(functions=[WEATHER], function_call={"name": "then"}).param == "function_call"


def test_what_the_service_has_answered_is_accepted() -> None:
    encoder = exchange().new_encoder(START)
    events = [*encoder.begin()]
    answer: list[ItemEvent] = [
        ReasoningBegan(), Delta("Hm."), ItemEnded(True),
        TextBegan("final"), Delta("Yes."), ItemEnded(True), AnswerEnded(Finish.STOP, 3, 1),
    ]  # fmt: skip
    body = encoder.fold([*events, *encoder.feed(0, answer, [])])
    assert turns(HI, body["choices"][0]["message"], HI)[1:3] == [Reasoning("Hm."), AssistantText("Yes.")]


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        ([], "messages", "must not be empty"),
        ("hi", "messages", "Expected `array`"),
        ([5], "messages[0]", "Expected `object`"),
        ([{"content": "x"}], "messages[0].role", "missing"),
        ([HI, {"role": "wizard", "content": "x"}], "messages[1].role", "wizard"),
        ([{"role": "user", "content": 5}], "messages[0].content", "Expected"),
        ([{"role": "user", "content": {"text": "x"}}], "messages[0].content", "Expected"),
        ([{"role": "user", "content": ["a", IMAGE]}], "messages[0].content[1]", "image_url; this model"),
        ([{"role": "system", "content": [IMAGE]}], "messages[0].content[0]", "reads text only"),
        ([{"role": "assistant", "content": [IMAGE]}], "messages[0].content[0]", "reads text only"),
        (
            [CALLED, {"role": "tool", "tool_call_id": "a", "content": [IMAGE]}],
            "messages[1].content[0]",
            "is of type image_url",
        ),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0]", "input_audio"),
        ([{"role": "user", "content": [{"type": "file", "text": "x"}]}], "messages[0].content[0]", "file"),
        ([{"role": "user", "content": [{"type": 5}]}], "messages[0].content[0]", "'5'"),
        ([{"role": "user", "content": [{}]}], "messages[0].content[0]", "None"),
        ([{"role": "user", "content": [None]}], "messages[0].content[0]", "neither"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "string"),
        (
            [{"role": "user", "content": [{"type": "text", "text": 1}]}],
            "messages[0].content[0].text",
            "string",
        ),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "missing"),
        ([{"role": "tool", "tool_call_id": "a", "content": "x"}, CALLED], "messages[0].tool_call_id", "'a'"),
        ([{"role": "function", "name": "now", "content": "x"}], "messages[0].name", "'now'"),
        (
            [{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "x"}}]}],
            "messages[0].tool_calls[0]",
            "custom",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a"}]}],
            "messages[0].tool_calls[0].function",
            "missing",
        ),
        ([{"role": "assistant", "tool_calls": [called("x", "a", 5)]}],
         "messages[0].tool_calls[0].function.arguments", "Expected"),
        ([{"role": "assistant", "reasoning": 5}], "messages[0].reasoning", "Expected"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_read(messages: Any, param: str, words: str) -> None:
    error = refusal(messages=messages)
    assert error.param == param
    assert words in str(error)
    assert str(error).startswith(param)


def test_messages_are_missing() -> None:
    with pytest.raises(BadRequestError) as caught:
        chat.exchange({"model": "m"})
    assert caught.value.param == "messages"


def test_an_assistant_message_is_continued_if_asked_for() -> None:
    asked = exchange(messages=[HI, ANSWER], continue_final_message=True, add_generation_prompt=False)
    assert conversation_of(asked).is_continued
    assert offer_of(asked).is_continued
    assert conversation_of(asked).turns[-1] == AssistantText("The answer")
    # Without, a new message comes after it.
    asked = exchange(messages=[HI, ANSWER])
    assert not conversation_of(asked).is_continued
    assert conversation_of(asked).turns[-1] == AssistantText("The answer")


def test_a_continued_message_is_echoed_if_asked_for() -> None:
    asked = exchange(messages=[HI, ANSWER], continue_final_message=True, echo=True)
    encoder = asked.new_encoder(START)
    events = [*encoder.begin()]
    more: list[ItemEvent] = [
        TextBegan("final"),
        Delta(" is 5."),
        ItemEnded(True),
        AnswerEnded(Finish.STOP, 3, 0),
    ]
    body = encoder.fold([*events, *encoder.feed(0, more, []), *encoder.end(Usage(3, 3))])
    assert body["choices"][0]["message"]["content"] == "The answer is 5."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "messages": [ANSWER, CALLED]}, "continue_final_message"),
        ({"continue_final_message": True, "messages": [ANSWER, {"role": "assistant", "content": ""}]},
         "continue_final_message"),
        ({"continue_final_message": True, "messages": [{"role": "assistant", "reasoning": "x"}]},
         "continue_final_message"),
        ({"continue_final_message": True, "messages": [{"role": "system", "content": ""}]},
         "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True, "messages": [ANSWER]},
         "continue_final_message"),
        ({"continue_final_message": True, "messages": [ANSWER], "tools": TOOLS, "tool_choice": "required"},
         "continue_final_message"),
        ({"add_generation_prompt": False, "messages": [ANSWER]}, "add_generation_prompt"),
        ({"echo": True}, "echo"),
    ],
)  # fmt: skip
def test_what_cannot_be_continued(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param
