from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.items import (
    CallBegan,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
)
from serve_app.api.messages.answer import NOT_AN_OBJECT, Display, MessagesEncoder, View
from serve_app.api.messages.fold import object_of
from serve_app.api.sealing import Sealer
from serve_app.errors import TokensLostError
from tests.examples import examples
from tests.unit.api.messages_client import START, Answer, checked, ended

SHOWN = View(display=Display.TEXT)
THOUGHT: list[ItemEvent] = [ReasoningBegan(), Delta("Thi"), Delta("nk."), ItemEnded(True)]
SAID: list[ItemEvent] = [TextBegan("final"), Delta("Hel"), Delta("lo"), ItemEnded(True)]


def called(*pieces: str, is_complete: bool = True) -> list[ItemEvent]:
    return [CallBegan("weather"), *map(Delta, pieces), ItemEnded(is_complete)]


def test_blocks_come_in_the_order_of_generation() -> None:
    preamble: list[ItemEvent] = [TextBegan("commentary"), Delta("Let me look."), ItemEnded(True)]
    items = [*THOUGHT, *preamble, *called('{"city"', ':"Oslo"}'), ended(Finish.CALLS)]
    answer = Answer(items, SHOWN)
    body = checked(answer.body)
    assert [block["type"] for block in body["content"]] == ["thinking", "text", "tool_use"]
    assert body["content"][0]["thinking"] == "Think."
    assert body["content"][0]["signature"]
    assert body["content"][1]["text"] == "Let me look."
    assert body["content"][2]["input"] == {"city": "Oslo"}
    assert body["stop_reason"] == "tool_use"
    assert body["id"].startswith("msg_")
    assert body["content"][2]["id"].startswith("toolu_")
    assert answer.folded_by_client() == body


def test_events_of_a_stream() -> None:
    answer = Answer([*THOUGHT, *SAID, ended()], SHOWN)
    assert [event["type"] for event in answer.data] == [
        "message_start",
        *["content_block_start", *["content_block_delta"] * 3, "content_block_stop"],
        *["content_block_start", *["content_block_delta"] * 2, "content_block_stop"],
        "message_delta",
        "message_stop",
    ]
    assert [delta["type"] for delta in answer.deltas] == [
        *["thinking_delta"] * 2,
        "signature_delta",
        *["text_delta"] * 2,
    ]
    start = answer.data[0]["message"]
    assert start["content"] == []
    assert start["stop_reason"] is None
    assert start["usage"]["input_tokens"] == 10


def test_reasoning_that_was_not_asked_for_has_no_block() -> None:
    answer = Answer([*THOUGHT, *SAID, ended()])
    assert [block["type"] for block in answer.body["content"]] == ["text"]
    assert "Think" not in b"".join(answer.chunks).decode()
    assert answer.folded_by_client() == checked(answer.body)


def test_a_thinking_block_without_text_holds_it_in_its_signature() -> None:
    sealer = Sealer(b"key")
    answer = Answer([*THOUGHT, *SAID, ended()], View(display=Display.SIGNATURE), sealer)
    block = answer.body["content"][0]
    assert block["thinking"] == ""
    assert sealer.unseal(block["signature"]) == "Think."
    assert answer.folded_by_client() == checked(answer.body)


def test_each_message_of_the_model_is_a_block_and_empty_ones_are_none() -> None:
    empty: list[ItemEvent] = [TextBegan("commentary"), ItemEnded(True)]
    answer = Answer([*empty, *SAID, ReasoningBegan(), ItemEnded(True), *SAID, ended()], SHOWN)
    assert [block["text"] for block in answer.body["content"]] == ["Hello", "Hello"]
    assert answer.folded_by_client() == checked(answer.body)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        (" ", {}),
        ('{"city": "Os', {}),
        ('["Oslo"]', {}),
        ('{"n": 1e400}', {}),
        ('{"n": NaN}', {}),
        ("Oslo", {}),
        ("null", {}),
        ('{"a": 1} and more', {}),
        ('{"a": 1}{"b": 2}', {}),
        ('{"a": "\\ud800"}', {}),
        ("{'a': 1}", {}),
        ("\ufeff{}", {}),
        ('{"a":' * 5000 + "1" + "}" * 5000, {}),
        ("[" * 100_000, {}),
        ('{"a":' * 101 + "1" + "}" * 101, {}),
        (f'{{"n": {"9" * 5000}}}', {}),
        (' {"a": [1, -2.5e3, true, null, "\u2028"]}\n', {"a": [1, -2500.0, True, None, "\u2028"]}),
        ('{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
        ('{"a":' * 100 + "1" + "}" * 100, json.loads('{"a":' * 100 + "1" + "}" * 100)),
        (f'{{"a": {"[" * 150 + "]" * 150}, "a": 1}}', {}),
        (f'{{"a": [{"[]," * 150}"{"[" * 150}", "\\\\"]}}', {"a": [*[[]] * 150, "[" * 150, "\\"]}),
        ("{}", {}),
    ],
)
@pytest.mark.parametrize("piece", [7, 1000])
def test_input_is_the_object_that_arguments_are_or_empty(text: str, value: object, piece: int) -> None:
    pieces = [text[i : i + piece] for i in range(0, len(text), piece)][:500]
    text = "".join(pieces)
    answer = Answer([*called(*pieces), ended(Finish.CALLS)])
    body = checked(answer.body)
    assert body["content"][0]["input"] == value
    assert body["stop_reason"] == "tool_use"
    assert answer.folded_by_client() == body
    is_object = value != {} or text == "{}"
    assert answer.repairs == ({} if is_object else {NOT_AN_OBJECT: 1})
    # What is sent is the model's own text.
    assert "".join(delta["partial_json"] for delta in answer.deltas) == (text if is_object else "")


def test_a_cut_call_is_not_complete() -> None:
    items = [*called('{"day": 1, "city": "Os', is_complete=False), ended(Finish.LENGTH)]
    answer = Answer(items)
    body = checked(answer.body)
    assert body["stop_reason"] == "max_tokens"
    assert body["content"][0]["input"] == {}
    assert answer.folded_by_client() == body
    assert not any(answer.repairs.values())


def test_a_call_that_is_cut_behind_its_arguments_keeps_them() -> None:
    answer = Answer([*called('{"a": 1}', is_complete=False), ended(Finish.LENGTH)])
    assert answer.body["content"][0]["input"] == {"a": 1}
    assert answer.body["stop_reason"] == "max_tokens"


def test_arguments_of_an_eager_tool_are_sent_as_they_come() -> None:
    view = View(eager_tools=frozenset({"weather"}))
    answer = Answer([*called(" ", "\n{", '"city"', ':"Oslo"}'), ended(Finish.CALLS)], view)
    assert [delta["partial_json"] for delta in answer.deltas] == ["{", '"city"', ':"Oslo"}']
    assert answer.body["content"][0]["input"] == {"city": "Oslo"}
    assert answer.folded_by_client() == checked(answer.body)


@pytest.mark.parametrize(
    ("finish", "stop_string", "reason"),
    [
        (Finish.STOP, None, "end_turn"),
        (Finish.STOP, "END", "stop_sequence"),
        (Finish.CALLS, None, "tool_use"),
        (Finish.LENGTH, None, "max_tokens"),
    ],
)
def test_stop_reasons(finish: Finish, stop_string: str | None, reason: str) -> None:
    answer = Answer([*SAID, ended(finish, stop_string)])
    assert (answer.body["stop_reason"], answer.body["stop_sequence"]) == (reason, stop_string)
    assert answer.folded_by_client() == checked(answer.body)


def test_usage_counts_cached_tokens_apart() -> None:
    usage = Answer([*SAID, ended()], View(service_tier="priority")).body["usage"]
    assert usage == {
        "input_tokens": 2,
        "cache_read_input_tokens": 8,
        "cache_creation_input_tokens": 0,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
        "service_tier": "priority",
    }


def test_no_event_has_a_line_break_inside() -> None:
    text = "one\ntwo\rthree\u2028four\u2029five\x85six\x0bseven\x1c"
    answer = Answer([TextBegan("final"), Delta(text), ItemEnded(True), ended()])
    assert all(len(chunk.decode().splitlines()) == 3 for chunk in answer.chunks)
    assert answer.body["content"][0]["text"] == text
    assert answer.folded_by_client() == checked(answer.body)


def test_an_error_ends_a_stream() -> None:
    encoder = MessagesEncoder(START, View(), None)
    name, data, end = encoder.error_bytes(TokensLostError("gone\u2028")).decode().splitlines()
    assert (name, end) == ("event: error", "")
    error = {"type": "overloaded_error", "message": "gone\u2028"}
    assert json.loads(data.removeprefix("data: ")) == {"type": "error", "error": error, "request_id": None}
    assert encoder.last_bytes() == b""


ITEMS = st.one_of(
    st.just(ReasoningBegan()),
    st.sampled_from([TextBegan("final"), TextBegan("commentary")]),
    st.sampled_from([CallBegan("weather"), CallBegan("unknown")]),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
TEXTS = st.one_of(st.text(min_size=1), JSON, st.sampled_from(["{", "}", '{"a":', " ", '"', "1e999", "\\"]))


@st.composite
def answers(draw: st.DrawFn) -> list[ItemEvent]:
    events: list[ItemEvent] = []
    for began in draw(st.lists(ITEMS, max_size=5)):
        pieces = draw(st.lists(TEXTS, max_size=4))
        events += [began, *map(Delta, pieces), ItemEnded(draw(st.booleans()))]
    return [*events, ended(draw(st.sampled_from(Finish)))]


@given(answers(), st.sampled_from(Display))
@examples(150)
def test_whatever_was_said_the_stream_folds_to_the_body(items: list[ItemEvent], display: Display) -> None:
    answer = Answer(items, View(display=display))
    assert answer.folded_by_client() == checked(answer.body)
    blocks = [type(item) for item in items if isinstance(item, CallBegan)]
    assert len([block for block in answer.body["content"] if block["type"] == "tool_use"]) == len(blocks)
    json.dumps(answer.body, allow_nan=False)


@given(TEXTS)
@examples(150)
def test_arguments_that_are_an_object_are_one_for_other_readers_too(text: str) -> None:
    if (value := object_of(text)) is not None:
        assert json.loads(text) == value
