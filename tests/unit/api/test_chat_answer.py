"""Chunks and bodies of Chat Completions, made of events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serve_app.answers.items import (
    SEPARATOR,
    AnswerEnded,
    CallBegan,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
    TokenLogprob,
)
from serve_app.answers.usage import Usage
from serve_app.api.chat.answer import AnswerOptions, ChatEncoder
from serve_app.api.exchange import Start
from serve_app.errors import EngineLostError
from tests.examples import examples

PROMPT = [200006, 1, 2]
USAGE = Usage(3, 12, 5, 2)
WORDS = {7: b"Hi", 8: b" you", 9: "é".encode()[:1]}
START = Start("gpt-oss", 1700000000, PROMPT, lambda token_id: WORDS.get(token_id, b"?"))

ENDED = ItemEnded(True)
STOP = AnswerEnded(Finish.STOP, 12, 5)
THOUGHT: list[ItemEvent] = [ReasoningBegan(), Delta("Let me"), Delta(" think."), ENDED]
PREAMBLE: list[ItemEvent] = [TextBegan("commentary"), Delta("I look."), ENDED]
FINAL: list[ItemEvent] = [TextBegan("final"), Delta("Hi"), Delta(' "you"\n'), ENDED]
CALL: list[ItemEvent] = [CallBegan("weather"), Delta('{"city":'), Delta(' "Oslo"}'), ENDED]


def chunks_of(events: Sequence[ItemEvent], **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a client reads of the stream, and the body."""
    return said([(0, events, [])], **options)


def said(
    fed: Iterable[tuple[int, Sequence[ItemEvent], Sequence[int]]], **options: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    encoder = ChatEncoder(AnswerOptions(**options), START)
    out = [*encoder.begin()]
    for feed in fed:
        out += encoder.feed(*feed)
    out += encoder.end(USAGE)
    stream = b"".join(map(encoder.to_bytes, out)) + encoder.last_bytes()
    return read(stream), encoder.fold(out)


def read(stream: bytes) -> list[dict[str, Any]]:
    assert stream.endswith(b"data: [DONE]\n\n")
    events = stream.decode().removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    return [json.loads(event.removeprefix("data: ")) for event in events]


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def message(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["choices"][0]["message"]
    return found


def folded(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices of a body that a client makes of chunks by itself."""
    choices: dict[int, dict[str, Any]] = {}
    for part in (part for chunk in chunks for part in chunk["choices"]):
        choice = choices.setdefault(
            part["index"], {"content": "", "reasoning": "", "calls": [], "tokens": []}
        )
        delta = part["delta"]
        choice["content"] += delta.get("content") or ""
        choice["reasoning"] += delta.get("reasoning") or ""
        assert delta.get("reasoning") == delta.get("reasoning_content")
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["type"] == "function"
                choice["calls"].append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
                assert call["index"] == len(choice["calls"]) - 1
            choice["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        if part["logprobs"]:
            choice["tokens"] += part["logprobs"]["content"]
        if part["finish_reason"]:
            assert "finish" not in choice
            choice["finish"] = part["finish_reason"], part["stop_reason"]
    return [choices[index] for index in sorted(choices)]


def choices_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of a body, in the form of `folded`."""
    return [
        {
            "content": choice["message"]["content"] or "",
            "reasoning": choice["message"]["reasoning"] or "",
            "calls": [
                {"id": call["id"], **call["function"]} for call in choice["message"].get("tool_calls", [])
            ],
            "tokens": choice["logprobs"]["content"] if choice["logprobs"] else [],
            "finish": (choice["finish_reason"], choice["stop_reason"]),
        }
        for choice in body["choices"]
    ]


def test_a_whole_answer() -> None:
    chunks, body = chunks_of([*THOUGHT, *FINAL, STOP])
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"reasoning": "Let me", "reasoning_content": "Let me"},
        {"reasoning": " think.", "reasoning_content": " think."},
        {"content": "Hi"},
        {"content": ' "you"\n'},
        {},
    ]
    assert len({chunk["id"] for chunk in chunks}) == 1
    same = {"created": 1700000000, "model": "gpt-oss", "service_tier": "default", "system_fingerprint": None}
    assert all(same.items() <= chunk.items() for chunk in chunks)
    assert body == same | {
        "id": chunks[0]["id"],
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": 'Hi "you"\n',
                    "refusal": None,
                    "reasoning": "Let me think.",
                    "reasoning_content": "Let me think.",
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 12,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == body["usage"]


def test_calls_have_one_id_each_and_the_arguments_as_they_came() -> None:
    chunks, body = chunks_of([*THOUGHT, *PREAMBLE, *CALL, *CALL, AnswerEnded(Finish.CALLS, 9, 3)])
    first, second = message(body)["tool_calls"]
    assert first["id"] != second["id"]
    assert first["id"].startswith("call_")
    assert first["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert message(body)["content"] == "I look."
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert folded(chunks) == choices_of(body)
    began = [call for delta in deltas(chunks) for call in delta.get("tool_calls", []) if "id" in call]
    assert [(call["id"], call["function"]) for call in began] == [
        (call["id"], {"name": "weather", "arguments": ""}) for call in (first, second)
    ]


def test_a_call_without_arguments_and_a_cut_one() -> None:
    cut: list[ItemEvent] = [
        CallBegan("now"),
        ItemEnded(True),
        CallBegan("weather"),
        Delta('{"ci'),
        ItemEnded(False),
    ]
    chunks, body = chunks_of([*cut, AnswerEnded(Finish.LENGTH, 9, 3)])
    assert [call["function"]["arguments"] for call in message(body)["tool_calls"]] == ["", '{"ci']
    assert message(body)["content"] is None
    assert body["choices"][0]["finish_reason"] == "length"
    assert folded(chunks) == choices_of(body)


def test_items_of_one_kind_are_joined_with_the_separator_unless_empty() -> None:
    empty: list[ItemEvent] = [TextBegan("final"), ENDED]
    twice = [*THOUGHT, *empty, *PREAMBLE, *empty, *THOUGHT, *empty, *FINAL, *empty]
    chunks, body = chunks_of([*twice, STOP])
    assert message(body)["content"] == "I look." + SEPARATOR + 'Hi "you"\n'
    assert message(body)["reasoning"] == "Let me think." + SEPARATOR + "Let me think."
    assert folded(chunks) == choices_of(body)


def test_hidden_reasoning_is_nowhere_and_its_tokens_are_counted() -> None:
    chunks, body = chunks_of([*THOUGHT, *FINAL, *THOUGHT, STOP], has_reasoning=False)
    assert "think" not in json.dumps([chunks, body])
    assert message(body)["reasoning"] is None
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (AnswerEnded(Finish.STOP, 3, 0, stop_string="x"), "x"),
        (AnswerEnded(Finish.STOP, 3, 0, stop_token=0), 0),
        (AnswerEnded(Finish.STOP, 3, 0, stop_token=200012), 200012),
        (STOP, None),
    ],
)
def test_the_stop_reason_is_the_string_or_the_token(ended: AnswerEnded, reason: str | int | None) -> None:
    chunks, body = chunks_of([*FINAL, ended])
    assert body["choices"][0]["stop_reason"] == reason
    assert chunks[-2]["choices"][0]["stop_reason"] == reason


def test_usage_is_in_a_stream_only_if_it_was_asked_for() -> None:
    chunks, _ = chunks_of([*FINAL, STOP], has_usage=False)
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_running_usage_counts_up_to_each_chunk() -> None:
    fed: list[Any] = [(0, FINAL[:2], [5, 6, 7]), (0, FINAL[2:], [8]), (0, [STOP], [])]
    chunks, body = said(fed, has_running_usage=True)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 3, 4, 12, 12]
    assert all(chunk["usage"]["prompt_tokens"] == 3 for chunk in chunks)
    assert body["usage"] == chunks[-1]["usage"]


def test_logprobs_are_those_of_the_content() -> None:
    logprobs = (
        TokenLogprob(7, -0.5, ((7, -0.5), (8, -1.5), (9, -2.5))),
        TokenLogprob(9, float("-inf"), ((8, -1.0),)),
    )
    events: list[ItemEvent] = [
        *THOUGHT,
        TextBegan("final"),
        Delta("Hi", logprobs[:1]),
        Delta("", logprobs[1:]),
        Delta("!"),
        ENDED,
        STOP,
    ]
    chunks, body = chunks_of(events, num_top_logprobs=2)
    assert body["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "Hi",
                "logprob": -0.5,
                "bytes": [72, 105],
                "top_logprobs": [
                    {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                    {"token": " you", "logprob": -1.5, "bytes": [32, 121, 111, 117]},
                ],
            },
            {
                "token": "\N{REPLACEMENT CHARACTER}",
                "logprob": -9999.0,
                "bytes": [195],
                "top_logprobs": [{"token": " you", "logprob": -1.0, "bytes": [32, 121, 111, 117]}],
            },
        ],
        "refusal": None,
    }
    assert message(body)["content"] == "Hi!"
    assert folded(chunks) == choices_of(body)
    _, body = chunks_of(events, num_top_logprobs=None, has_token_names=False)
    tokens = body["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in tokens] == ["token_id:7", "token_id:9"]
    assert [len(token["top_logprobs"]) for token in tokens] == [3, 1]


def test_token_ids_are_all_there_whether_there_is_text_or_not() -> None:
    fed: list[Any] = [(0, [], [1, 2]), (0, FINAL[:3], [3, 4]), (0, [], []), (0, [*FINAL[3:], STOP], [5])]
    chunks, body = said(fed, has_token_ids=True, has_prompt_token_ids=True)
    assert chunks[0]["prompt_token_ids"] == body["prompt_token_ids"] == PROMPT
    found = [choice.get("token_ids") for chunk in chunks for choice in chunk["choices"]]
    assert found == [None, [1, 2], None, [3, 4], [5]]
    assert body["choices"][0]["token_ids"] == [1, 2, 3, 4, 5]


def test_an_echoed_text_is_gone_on_with() -> None:
    more: list[ItemEvent] = [TextBegan("final"), Delta("Hi"), ENDED]
    chunks, body = chunks_of([*more, *more, STOP], echoed="I say: ")
    assert message(body)["content"] == "I say: Hi" + SEPARATOR + "Hi"
    assert folded(chunks) == choices_of(body)


def test_the_client_names_the_answer() -> None:
    chunks, body = chunks_of([STOP], request_id="mine", service_tier="flex")
    assert body["id"] == chunks[0]["id"] == "chatcmpl-mine"
    assert body["service_tier"] == chunks[0]["service_tier"] == "flex"


def test_an_error_ends_the_stream() -> None:
    encoder = ChatEncoder(AnswerOptions(), START)
    [event] = read(encoder.error_bytes(EngineLostError("gone")))
    assert event == {"error": {"message": "gone", "type": "server_error", "param": None, "code": None}}


TEXTS = st.text(max_size=6).filter(bool)
LOGPROBS = st.tuples(st.just(TokenLogprob(7, -1.0, ((8, -0.5), (7, -1.0)))))


@st.composite
def answers(draw: st.DrawFn) -> list[ItemEvent]:
    events: list[ItemEvent] = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["reasoning", "commentary", "final", "call"]))
        if kind == "reasoning":
            events.append(ReasoningBegan())
        elif kind == "call":
            events.append(CallBegan(draw(TEXTS)))
        else:
            events.append(TextBegan("final" if kind == "final" else "commentary"))
        for text in draw(st.lists(TEXTS, max_size=4)):
            is_content = kind in ("final", "commentary")
            events.append(Delta(text, draw(LOGPROBS) if is_content and draw(st.booleans()) else ()))
            if is_content and draw(st.booleans()):
                events.append(Delta("", draw(LOGPROBS)))
        events.append(ItemEnded(True))
    finish = draw(st.sampled_from(Finish))
    return [*events, AnswerEnded(finish, draw(st.integers(0, 99)), 0, draw(st.none() | TEXTS))]


@examples(150)
@given(st.lists(answers(), min_size=1, max_size=3), st.booleans(), st.booleans(), st.booleans(), st.data())
def test_a_stream_folds_to_the_body(
    choices: list[list[ItemEvent]],
    has_reasoning: bool,
    has_tokens: bool,
    has_usage: bool,
    data: st.DataObject,
) -> None:
    """However the events of the choices arrive, for OpenAI's types and for OpenAI's own way of adding up."""
    fed: list[tuple[int, list[ItemEvent], list[int]]] = []
    waiting = [list(events) for events in choices]
    while any(waiting):
        index = data.draw(st.sampled_from([index for index, events in enumerate(waiting) if events]))
        size = data.draw(st.integers(1, 5))
        fed.append((index, waiting[index][:size], [1] * size))
        waiting[index] = waiting[index][size:]
    chunks, body = said(
        fed,
        num_choices=len(choices),
        has_reasoning=has_reasoning,
        has_token_ids=has_tokens,
        has_running_usage=has_usage,
    )
    assert folded(chunks) == choices_of(body)
    for index, events in enumerate(choices):
        calls = [event.name for event in events if isinstance(event, CallBegan)]
        assert [call["name"] for call in folded(chunks)[index]["calls"]] == calls
    ChatCompletion.model_validate(body, strict=True)
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
    added_up = state.current_completion_snapshot.model_dump()
    assert added_up["usage"] == ChatCompletion.model_validate(body).model_dump()["usage"]
    for choice, expected in zip(added_up["choices"], choices_of(body), strict=True):
        assert (choice["message"]["content"] or "") == expected["content"]
        found = choice["message"]["tool_calls"] or []
        assert [(call["id"], call["function"]["arguments"]) for call in found] == [
            (call["id"], call["arguments"]) for call in expected["calls"]
        ]
