"""The Responses encoder: events and bodies that OpenAI's package takes for OpenAI's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from openai import Omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseErrorEvent, ResponseFailedEvent

from serve_app.answers.items import (
    CallBegan,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
    TokenLogprob,
)
from serve_app.api.responses.exchange import input_tokens_body
from serve_app.errors import EngineLostError, OverloadedError, ServiceError
from tests.examples import examples
from tests.unit.api.response_answers import (
    ANSWERS,
    CALL,
    CUT_CALL,
    CUT_FINAL,
    FINAL,
    PREAMBLE,
    SEALER,
    STREAM_EVENT,
    THOUGHT,
    USAGE,
    answer,
    body_of,
    data_of,
    ended,
    new_encoder,
)

# What Open Responses' schema of a response requires.
REQUIRED = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "instructions"),
    *("previous_response_id", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls"),
    *("text", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning"),
    *("user", "usage", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier"),
    *("metadata", "safety_identifier", "prompt_cache_key"),
}


def kinds(seen: Sequence[dict[str, Any]]) -> list[str]:
    return [data["type"].removeprefix("response.") for data in seen]


def test_a_whole_answer_is_streamed_in_openais_order() -> None:
    seen = answer([*THOUGHT, *PREAMBLE, *CALL], Finish.CALLS)
    reasoning = ["reasoning_text.delta"] * 2 + ["reasoning_text.done"]
    assert kinds(seen) == [
        "created",
        "in_progress",
        *("output_item.added", "content_part.added", *reasoning, "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", *["function_call_arguments.delta"] * 2, "function_call_arguments.done"),
        "output_item.done",
        "completed",
    ]


def test_items_have_one_id_in_events_and_body() -> None:
    seen = answer([*THOUGHT, *PREAMBLE, *CALL], Finish.CALLS)
    output = seen[-1]["response"]["output"]
    assert [item["id"].split("_")[0] for item in output] == ["rs", "msg", "fc"]
    assert {data["response"]["id"] for data in seen if "response" in data} == {seen[0]["response"]["id"]}
    for data in seen:
        if "output_index" in data:
            item_id = data["item_id"] if "item_id" in data else data["item"]["id"]
            assert item_id == output[data["output_index"]]["id"]
        if data["type"] == "response.output_item.done":
            assert data["item"] == output[data["output_index"]]
    assert output[2]["call_id"].startswith("call_")
    other = body_of([*THOUGHT, *PREAMBLE, *CALL], Finish.CALLS)
    assert not {item["id"] for item in output} & {item["id"] for item in other["output"]}


def test_items_say_what_they_are() -> None:
    reasoning, preamble, call, final = body_of([*THOUGHT, *PREAMBLE, *CALL, *FINAL], Finish.CALLS)["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "I must look."}]
    assert reasoning["summary"] == []
    assert "encrypted_content" not in reasoning
    assert (preamble["phase"], final["phase"]) == ("commentary", "final_answer")
    assert final["content"] == [
        {"type": "output_text", "text": "It is 3 °C.", "annotations": [], "logprobs": []}
    ]
    assert (call["name"], call["arguments"]) == ("weather", '{"city": "Oslo"}')
    assert "namespace" not in call
    assert {item["status"] for item in (reasoning, preamble, call, final)} == {"completed"}


@pytest.mark.parametrize("cut", [CUT_FINAL, CUT_CALL])
def test_a_cut_answer_ends_incomplete_and_so_does_its_last_item(cut: tuple[ItemEvent, ...]) -> None:
    seen = answer([*THOUGHT, *cut], Finish.LENGTH)
    *_, item_done, last = seen
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["completed_at"] is None
    assert item_done["type"] == "response.output_item.done"
    assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]
    assert item_done["item"]["status"] == "incomplete"


def test_a_response_has_every_field() -> None:
    for data in answer(FINAL, Finish.STOP):
        if "response" in data:
            assert set(data["response"]) >= REQUIRED


def test_usage_is_numbers() -> None:
    assert body_of(FINAL, Finish.STOP)["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


def test_a_function_of_a_namespace_is_called_by_both_names() -> None:
    call = body_of([CallBegan("files__read"), Delta("{}"), ItemEnded(True)], Finish.CALLS)["output"][0]
    assert (call["namespace"], call["name"]) == ("files", "read")


def test_a_call_that_nobody_offered_keeps_its_name_and_is_a_call_of_a_function() -> None:
    call = body_of([CallBegan("browser.search"), Delta("{}"), ItemEnded(True)], Finish.CALLS)["output"][0]
    assert (call["type"], call["name"]) == ("function_call", "browser.search")


def test_reasoning_is_sealed_when_asked_for() -> None:
    seen = answer([*THOUGHT, *FINAL], Finish.STOP, {"include": ["reasoning.encrypted_content"]})
    [item, _] = seen[-1]["response"]["output"]
    assert SEALER.unseal(item["encrypted_content"]) == "I must look."
    assert item["content"][0]["text"] == "I must look."


def test_reasoning_is_left_out_when_asked_for() -> None:
    seen = answer([*THOUGHT, *FINAL], Finish.STOP, {"include_reasoning": False})
    assert [item["type"] for item in seen[-1]["response"]["output"]] == ["message"]
    assert not [kind for kind in kinds(seen) if "reasoning" in kind]


def test_log_probabilities_of_the_text() -> None:
    token = TokenLogprob(5, -0.5, ((5, -0.5), (6, -1.5)))
    items: list[ItemEvent] = [TextBegan("final"), Delta("It", (token,)), Delta("", (token,)), ItemEnded(True)]
    body = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    seen = answer(items, Finish.STOP, body)
    shown = {"token": "<5>", "logprob": -0.5, "bytes": list(b"<5>")}
    logprob = shown | {"top_logprobs": [shown]}
    assert [data["logprobs"] for data in seen if data["type"].endswith("text.delta")] == [
        [logprob],
        [logprob],
    ]
    part = seen[-1]["response"]["output"][0]["content"][0]
    assert part["logprobs"] == [logprob, logprob]
    assert part["text"] == "It"


def test_an_answer_of_nothing_is_complete() -> None:
    body = body_of([], Finish.STOP)
    assert (body["status"], body["output"]) == ("completed", [])


def test_empty_items_have_an_empty_part() -> None:
    items: list[ItemEvent] = [ReasoningBegan(), ItemEnded(True), TextBegan("final"), ItemEnded(True)]
    reasoning, message = body_of(items, Finish.STOP)["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": ""}]
    assert message["content"][0]["text"] == ""


def test_the_stream_ends_with_done() -> None:
    assert new_encoder().last_bytes() == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineLostError("the engine has died"), "server_error"),
        (OverloadedError("no room"), "rate_limit_exceeded"),
    ],
)
def test_an_error_in_a_stream_is_told_twice(error: ServiceError, code: str) -> None:
    encoder = new_encoder()
    begun = [*encoder.begin(), *encoder.feed(0, [*THOUGHT, TextBegan("final"), Delta("It")], [])]
    first, second, done, rest = encoder.error_bytes(error).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    told, failed = data_of(first + b"\n\n"), data_of(second + b"\n\n")
    assert told["error"]["message"] == told["message"] == str(error)
    assert told["code"] == code
    assert [told["sequence_number"], failed["sequence_number"]] == [len(begun), len(begun) + 1]
    assert isinstance(STREAM_EVENT.validate_python(told), ResponseErrorEvent)
    assert isinstance(STREAM_EVENT.validate_python(failed), ResponseFailedEvent)
    assert failed["response"]["error"] == {"code": code, "message": str(error)}
    assert failed["response"]["status"] == "failed"
    assert [item["status"] for item in failed["response"]["output"]] == ["completed", "incomplete"]


def test_the_number_of_input_tokens() -> None:
    assert input_tokens_body(7) == {"object": "response.input_tokens", "input_tokens": 7}


@examples(25)
@given(ANSWERS)
def test_openais_accumulator_takes_any_answer(made: tuple[list[ItemEvent], Finish]) -> None:
    items, finish = made
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=Omit(), text_format=Omit())
    seen = answer(items, finish)
    texts: dict[str, str] = {}
    for data in seen:
        for event in state.handle_event(STREAM_EVENT.validate_python(data)):
            if event.type in ("response.output_text.delta", "response.function_call_arguments.delta"):
                texts[event.item_id] = event.snapshot
    for item in seen[-1]["response"]["output"]:
        if item["type"] != "reasoning":
            text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
            assert texts.get(item["id"], "") == text


@examples(60)
@given(ANSWERS)
def test_pieces_of_an_answer_may_come_in_any_batches(made: tuple[list[ItemEvent], Finish]) -> None:
    items, finish = made
    one_by_one, at_once = new_encoder({"request_id": "r"}), new_encoder({"request_id": "r"})
    events = [*items, ended(finish)]
    slow = [*one_by_one.begin(), *(made for event in events for made in one_by_one.feed(0, [event], []))]
    fast = [*at_once.begin(), *at_once.feed(0, events, [])]
    assert [type(event) for event in slow] == [type(event) for event in fast]
    assert _without_ids(one_by_one.fold([*slow, *one_by_one.end(USAGE)])) == _without_ids(
        at_once.fold([*fast, *at_once.end(USAGE)])
    )


def _without_ids(body: dict[str, Any]) -> dict[str, Any]:
    items = [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in body["output"]]
    return body | {"output": items, "completed_at": None}
