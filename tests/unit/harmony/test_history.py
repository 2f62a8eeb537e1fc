"""Which turns the model sees again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Instructions,
    Reasoning,
    ToolResult,
    Turn,
    UserText,
)
from serve_app.harmony.history import remembered

USER, OLD, NEW = UserText("u"), Reasoning("old"), Reasoning("new")
PREAMBLE, FINAL = AssistantText("p", "commentary"), AssistantText("f")
CALL, RESULT = Call("f", "{}"), ToolResult("f", "1")

turns = st.lists(
    st.sampled_from([USER, OLD, PREAMBLE, FINAL, CALL, RESULT, Reasoning(""), AssistantText("")])
)


def test_thought_before_an_answer_is_dropped() -> None:
    assert remembered([USER, OLD, FINAL, USER]) == [USER, FINAL, USER]
    assert remembered([USER, OLD, CALL, RESULT, OLD, FINAL]) == [USER, CALL, RESULT, FINAL]


def test_thought_since_the_last_answer_is_kept_in_order() -> None:
    since: list[Turn] = [USER, NEW, PREAMBLE, CALL, RESULT, NEW, CALL, RESULT]
    assert remembered([USER, OLD, FINAL, *since]) == [USER, FINAL, *since]


def test_a_text_that_a_call_follows_was_a_preamble() -> None:
    assert remembered([USER, NEW, FINAL, CALL, RESULT]) == [
        USER,
        NEW,
        AssistantText("f", "commentary"),
        CALL,
        RESULT,
    ]
    assert remembered([USER, FINAL, USER, CALL, RESULT])[1] == FINAL


def test_nothing_is_left_of_empty_texts() -> None:
    assert remembered([UserText(""), Instructions(""), Reasoning(""), AssistantText(""), NEW]) == [
        UserText(""),
        NEW,
    ]


@given(turns)
def test_history_is_stable(said: list[Turn]) -> None:
    kept = remembered(said)
    assert remembered(kept) == kept
    finals = [index for index, turn in enumerate(kept) if turn == FINAL]
    assert OLD not in kept[: finals[-1]] if finals else True
    assert [turn for turn in kept if turn in (USER, CALL, RESULT)] == [
        turn for turn in said if turn in (USER, CALL, RESULT)
    ]
