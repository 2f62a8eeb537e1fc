"""What has failed on Responses: from a request to its prompt, from the tokens to the body."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import AnswerEnded, ItemEvent
from serve_app.answers.offer import Offer
from serve_app.answers.usage import Usage
from serve_app.api.exchange import Exchange, Start
from serve_app.api.responses.exchange import exchange
from serve_app.harmony.renderer import Renderer
from serve_app.harmony.tokens import Vocabulary
from tests.examples import examples
from tests.unit.answers.folding import special_tokens, tokens_of
from tests.unit.api.response_answers import SEALER

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
SHELL = {"type": "function", "name": "shell", "parameters": {"type": "object"}}
PYTHON = {"type": "function", "name": "python", "parameters": {"type": "object"}}
THINK = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"


def prompt_of(body: dict[str, Any]) -> str:
    conversation = exchange(body, SEALER).conversation
    assert conversation
    vocabulary = Vocabulary.load()
    tokens = Renderer(vocabulary).render(conversation)
    return b"".join(map(vocabulary.bytes_of, tokens)).decode()


def answered(
    said: str | Sequence[int],
    tools: Sequence[dict[str, Any]] = (),
    *,
    is_cut: bool = False,
    batches: Sequence[int] = (1,),
    **fields: Any,
) -> dict[str, Any]:
    """The body of an answer; its stream is checked on the way."""
    asked: Exchange[Any] = exchange({"input": "hi", "tools": list(tools)} | fields, SEALER)
    assert isinstance(asked.offer, Offer)
    vocabulary = Vocabulary.load()
    reader = AnswerReader(asked.offer, vocabulary)
    encoder = asked.new_encoder(Start("m", 1, [1], vocabulary.bytes_of))
    tokens = tokens_of(said) if isinstance(said, str) else list(said)
    events = list(encoder.begin())
    ended: list[ItemEvent] = []
    turn = 0
    while tokens and not reader.is_over:
        size = batches[turn % len(batches)]
        events += encoder.feed(0, reader.feed(tokens[:size]), tokens[:size])
        tokens, turn = tokens[size:], turn + 1
    ended += reader.end("length" if is_cut and not reader.is_over else "stop")
    events += encoder.feed(0, ended, [])
    [end] = [event for event in ended if isinstance(event, AnswerEnded)]
    events += encoder.end(Usage(1, end.completion_tokens, end.reasoning_tokens))
    body = encoder.fold(events)
    assert json.loads(encoder.to_bytes(events[-1]).split(b"data: ")[1])["response"] == body
    return body


def short(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Of each item its kind (of a call its name) and text."""
    return [
        (item["name"], item["arguments"])
        if item["type"] == "function_call"
        else (item.get("phase", item["type"]), item["content"][0]["text"])
        for item in body["output"]
    ]


def test_a_preamble_is_commentary_and_the_reasoning_before_it_stays() -> None:
    prompt = prompt_of(
        {
            "input": [
                {"role": "user", "content": "Weather?"},
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "I must call it."}],
                },
                {
                    "type": "message",
                    "role": "assistant",
                    "phase": "commentary",
                    "content": [{"type": "output_text", "text": "Let me look."}],
                },
                {
                    "type": "function_call",
                    "call_id": "c1",
                    "name": "weather",
                    "arguments": '{"city": "Oslo"}',
                },
                {"type": "function_call_output", "call_id": "c1", "output": "3 C"},
            ],
            "tools": [WEATHER],
        }
    )
    places = [
        prompt.index("<|channel|>analysis<|message|>I must call it.<|end|>"),
        prompt.index("<|channel|>commentary<|message|>Let me look.<|end|>"),
        prompt.index('{"city": "Oslo"}<|call|>'),
        prompt.index("3 C"),
    ]
    assert places == sorted(places)
    assert "<|channel|>final" not in prompt


def test_a_result_in_parts_is_one_text() -> None:
    body = {
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [{"type": "input_text", "text": "3 C"}],
            },
        ]
    }
    assert "<|message|>3 C<|end|>" in prompt_of(body)


def test_items_of_hosted_tools_do_not_stop_a_conversation() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    body = {"input": [{"role": "user", "content": "hi"}, search]}
    assert prompt_of(body) == prompt_of({"input": "hi"})


def test_tools_of_other_kinds_are_not_in_the_prompt() -> None:
    assert prompt_of({"input": "hi", "tools": [WEATHER, {"type": "web_search"}]}) == prompt_of(
        {"input": "hi", "tools": [WEATHER]}
    )


@pytest.mark.parametrize(
    ("channel", "name", "arguments"),
    [
        ("commentary", "browser.search", '{"query": "x"}'),
        ("analysis", "python", "print(1)"),
        ("commentary", "container.exec", "{}"),
        ("commentary", "repo_browser.open_file", "{}"),
    ],
)
def test_tools_that_nobody_offered(channel: str, name: str, arguments: str) -> None:
    rest = f"<|channel|>{channel} to={name} code<|message|>{arguments}<|call|>"
    for tools in ([WEATHER, SHELL], [PYTHON]):
        body = answered(THINK + rest, tools)
        assert short(body) == [("reasoning", "Think."), (name, arguments)]
        assert {item["type"] for item in body["output"]} <= {"reasoning", "message", "function_call"}
        results = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "no such tool"}
            for item in body["output"]
            if item["type"] == "function_call"
        ]
        assert "no such tool" in prompt_of({"input": [*body["output"], *results]})
    assert short(answered(THINK + rest)) == [("reasoning", "Think.")]


def test_a_cut_answer_is_incomplete() -> None:
    body = answered(THINK + "<|channel|>final<|message|>1, 2, 3", is_cut=True)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][-1]["status"] == "incomplete"


def test_the_word_beside_final_is_no_name_of_a_tool() -> None:
    said = THINK + '<|channel|>final json<|message|>{"city": "Oslo"}<|return|>'
    assert short(answered(said, [WEATHER])) == [("reasoning", "Think."), ("final_answer", '{"city": "Oslo"}')]


@pytest.mark.parametrize("batch", [1, 4, 40])
def test_a_stop_string_cuts_exactly(batch: int) -> None:
    said = THINK + "<|channel|>final<|message|>One, two, three, STOP four, five, six, seven.<|return|>"
    body = answered(said, batches=[batch], stop="STOP")
    assert short(body) == [("reasoning", "Think."), ("final_answer", "One, two, three, ")]
    assert body["status"] == "completed"


SAID = st.lists(
    st.sampled_from(list(special_tokens().values())[:16])
    | st.sampled_from(
        [
            "assistant",
            "analysis",
            "final",
            "commentary",
            " to=functions.weather",
            "weather",
            " json",
            "Hi",
            " 漢",
            "{}",
        ]
    ).flatmap(lambda word: st.sampled_from([tuple(Vocabulary.load().encode(word))])),
    max_size=25,
).map(lambda parts: [token for part in parts for token in ((part,) if isinstance(part, int) else part)])


@examples(60)
@given(SAID, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_any_tokens_are_an_answer_that_is_accepted_as_input(
    said: list[int], batches: list[int], is_cut: bool
) -> None:
    body = answered(said, [WEATHER, SHELL], is_cut=is_cut, batches=batches)
    whole = answered(said, [WEATHER, SHELL], is_cut=is_cut, batches=[len(said) or 1])
    assert short(body) == short(whole)
    assert body["usage"] == whole["usage"]
    assert not any("<|" in text for _, text in short(body))
    assert exchange({"input": [{"role": "user", "content": "hi"}, *body["output"]]}, SEALER)
