"""From the model's tokens to what a client of Chat Completions makes of the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import AnswerEnded, TokenLogprob
from serve_app.answers.usage import Usage
from serve_app.api.exchange import Start
from serve_app.harmony.tokens import Vocabulary
from tests.examples import examples
from tests.unit.answers.folding import tokens_of
from tests.unit.api.chat_bodies import PERSON_FORMAT, TOOLS, exchange, offer_of
from tests.unit.api.test_chat_answer import choices_of, folded

Reason = Literal["stop", "length"]
THOUGHT = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"
WEATHER = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
PIECES = (
    "<|start|>assistant", "<|channel|>analysis<|message|>", "<|channel|>final<|message|>", WEATHER,
    "<|channel|>commentary<|message|>", "<|channel|>final json<|message|>", "<|start|>", "<|channel|>",
    "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>",
    "{", "}", '"city"', ": ", '"Oslo"', " ", "Hi", "STOP", "ST", "é", "🙂", "\u2028", "json", " to=now",
    "final",
)  # fmt: skip
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=25).map(lambda pieces: tokens_of("".join(pieces)))
REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"tools": TOOLS},
    {"tools": TOOLS, "stop": ["STOP", "i"], "include_reasoning": False},
    {"tools": TOOLS, "parallel_tool_calls": False, "stop": "{", "include_stop_str_in_output": True},
    {"tools": TOOLS, "tool_choice": "none", "logprobs": True, "top_logprobs": 1},
    {
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "now"}},
        "return_token_ids": True,
    },
    {
        "messages": [{"role": "assistant", "content": "So"}],
        "continue_final_message": True,
        "echo": True,
        "stop": ["STOP"],
    },
)


def answer(
    request: dict[str, Any], tokens: Sequence[int], reason: Reason = "stop", batches: Sequence[int] = (3,)
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks and the body of what a model has said to a request."""
    asked = exchange(**request)
    vocabulary = Vocabulary.load()
    reader = AnswerReader(offer_of(asked), vocabulary)
    encoder = asked.new_encoder(Start("gpt-oss", 1700000000, [1, 2, 3], vocabulary.bytes_of))
    out = [*encoder.begin()]
    position, num_steps = 0, 0
    while position < len(tokens) and not reader.is_over:
        batch = tokens[position : position + batches[num_steps % len(batches)]]
        logprobs = [TokenLogprob(token, -0.5, ((token, -0.5), (1, -1.0))) for token in batch]
        events = reader.feed(batch, logprobs if asked.sampling.logprobs is not None else None)
        out += encoder.feed(0, events, batch)
        position, num_steps = position + len(batch), num_steps + 1
    events = reader.end("stop" if reader.is_over else reason)
    end = events[-1]
    assert isinstance(end, AnswerEnded)
    out += encoder.feed(0, events, [])
    out += encoder.end(Usage(3, end.completion_tokens, end.reasoning_tokens))
    return [json.loads(encoder.to_bytes(chunk)[6:]) for chunk in out], encoder.fold(out)


def without_ids(body: dict[str, Any]) -> dict[str, Any]:
    [choice] = body["choices"]
    # More tokens than up to the stop string may have come.
    choice = {key: value for key, value in choice.items() if key != "token_ids"}
    message = dict(choice["message"])
    message["tool_calls"] = [call["function"] for call in message.get("tool_calls", [])]
    return {**body, "id": "", "choices": [{**choice, "message": message}]}


@examples(150)
@given(
    ANSWERS,
    st.sampled_from(REQUESTS),
    st.sampled_from(["stop", "length"]),
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_any_tokens_are_an_answer_the_same_however_they_arrive(
    tokens: list[int], request: dict[str, Any], reason: Reason, batches: list[int]
) -> None:
    chunks, body = answer(request, tokens, reason, batches)
    assert folded(chunks) == choices_of(body)
    ChatCompletion.model_validate(body, strict=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    _, at_once = answer(request, tokens, reason, [max(len(tokens), 1)])
    assert without_ids(body) == without_ids(at_once)
    [choice] = body["choices"]
    shown = choice["message"]
    assert "<|" not in (shown["content"] or "") + (shown["reasoning"] or "")
    calls = shown.get("tool_calls", [])
    assert all(call["function"]["name"] for call in calls)
    if choice["finish_reason"] == "tool_calls":
        assert calls
    if reason == "stop" and not calls:
        assert choice["finish_reason"] == "stop"


def test_a_cut_call_ends_as_cut() -> None:
    chunks, body = answer({"tools": TOOLS}, tokens_of(THOUGHT + WEATHER + '{"city": "Os'), "length")
    [choice] = body["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Os'
    assert folded(chunks) == choices_of(body)


def test_a_format_with_tools_may_be_answered_with_either() -> None:
    request = {"tools": TOOLS, "response_format": PERSON_FORMAT}
    _, body = answer(request, tokens_of(THOUGHT + WEATHER + '{"city": "Paris"}<|call|>'))
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    _, body = answer(
        request, tokens_of(THOUGHT + '<|channel|>final <|constrain|>json<|message|>{"name": "Al"}')
    )
    assert body["choices"][0]["message"]["content"] == '{"name": "Al"}'
    assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_call_ends_as_a_call(choice: Any) -> None:
    request = {"tools": TOOLS, "tool_choice": choice}
    chunks, body = answer(request, tokens_of(THOUGHT + WEATHER + '{"city": "Paris"}<|call|>'))
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
