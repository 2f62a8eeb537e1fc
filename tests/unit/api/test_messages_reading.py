"""From the model's tokens to what Anthropic's client makes of the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import AnswerEnded
from serve_app.answers.offer import Offer
from serve_app.answers.usage import Usage
from serve_app.api.messages.answer import Display, View
from serve_app.harmony.tokens import Vocabulary
from tests.examples import examples
from tests.unit.answers.folding import tokens_of
from tests.unit.api.messages_client import Answer, checked

THOUGHT = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"
WEATHER = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
FORCED = Offer(tools=frozenset({"weather"}))

Reason = Literal["stop", "length"]
PIECES = (
    *("<|start|>assistant", "<|channel|>analysis<|message|>", "<|channel|>final<|message|>", WEATHER),
    *("<|channel|>commentary<|message|>", "<|channel|>commentary to=functions.other<|message|>"),
    *("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"),
    *(
        "{",
        "}",
        '"city"',
        ": ",
        '"Oslo"',
        "1e999",
        "[1]",
        " ",
        "Hi",
        "STOP",
        "ST",
        "é",
        "🙂",
        "\u2028",
        "json",
    ),
)
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=25).map(lambda pieces: tokens_of("".join(pieces)))
OFFERS = (
    Offer(),
    FORCED,
    Offer(tools=frozenset({"weather"}), forbidden_tools=frozenset({"other"}), stop=("STOP", "i")),
    Offer(tools=frozenset({"weather", "other"}), is_parallel=False, stop=("{",)),
    Offer(tools=frozenset({"weather"}), is_continued=True, stop=("STOP",)),
)


def read(
    tokens: Sequence[int], offer: Offer, reason: Reason, batches: Sequence[int], display: Display
) -> Answer:
    reader = AnswerReader(offer, Vocabulary.load())
    steps, position, num_steps = [], 0, 0
    while position < len(tokens) and not reader.is_over:
        size = batches[num_steps % len(batches)]
        steps.append(reader.feed(tokens[position : position + size]))
        position, num_steps = position + size, num_steps + 1
    steps.append(reader.end("stop" if reader.is_over else reason))
    end = steps[-1][-1]
    assert isinstance(end, AnswerEnded)
    usage = Usage(10, end.completion_tokens, end.reasoning_tokens)
    return Answer([item for step in steps for item in step], View(display=display), usage=usage)


def without_ids(body: dict[str, Any]) -> dict[str, Any]:
    content = [{key: value for key, value in block.items() if key != "id"} for block in body["content"]]
    return {**body, "id": "", "content": content}


@given(
    ANSWERS,
    st.sampled_from(OFFERS),
    st.sampled_from(("stop", "length")),
    st.lists(st.integers(1, 7), min_size=1, max_size=10),
    st.sampled_from((Display.NOTHING, Display.TEXT)),
)
@examples(120)
def test_any_tokens_are_a_message(
    tokens: list[int], offer: Offer, reason: Reason, batches: list[int], display: Display
) -> None:
    bodies = []
    for sizes in ([1], batches, [1000]):
        answer = read(tokens, offer, reason, sizes, display)
        body = checked(answer.body)
        assert answer.folded_by_client() == body
        bodies.append(without_ids(answer.body))
    assert bodies[0] == bodies[1] == bodies[2]
    _check_body(bodies[0], offer, display)


def _check_body(body: dict[str, Any], offer: Offer, display: Display) -> None:
    kinds = {block["type"] for block in body["content"]}
    assert display is Display.TEXT or "thinking" not in kinds
    assert offer.tools or "tool_use" not in kinds
    assert all(block.get("text") or block["type"] != "text" for block in body["content"])
    assert "<|" not in json.dumps(body)
    assert (body["stop_reason"] == "stop_sequence") is (body["stop_sequence"] is not None)
    if body["stop_reason"] == "tool_use":
        assert "tool_use" in kinds
    if "tool_use" in kinds:
        assert body["stop_reason"] in ("tool_use", "max_tokens", "stop_sequence")


@pytest.mark.parametrize(
    ("said", "reason", "value", "stop_reason"),
    [
        (THOUGHT + WEATHER + '{"city": "Os', "length", {}, "max_tokens"),
        (THOUGHT + WEATHER + '{"day": 1, "city": "Os', "length", {}, "max_tokens"),
        (THOUGHT + WEATHER + "<|call|>", "stop", {}, "tool_use"),
        (THOUGHT + WEATHER + '["Oslo"]<|call|>', "stop", {}, "tool_use"),
        (THOUGHT + WEATHER + '{"n": 1e400}<|call|>', "stop", {}, "tool_use"),
        (THOUGHT + WEATHER + "Oslo, please<|call|>", "stop", {}, "tool_use"),
        (WEATHER + '{"city": "Oslo"}<|call|>', "stop", {"city": "Oslo"}, "tool_use"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_calls(said: str, reason: Reason, value: object, stop_reason: str, batch: int) -> None:
    answer = read(tokens_of(said), FORCED, reason, [batch], Display.NOTHING)
    body = checked(answer.body)
    [block] = body["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "weather", value)
    assert body["stop_reason"] == stop_reason
    assert answer.folded_by_client() == body
