"""Responses as a user of the `openai` package sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

SUM = "What is 2 + 3?"
COUNT = "Count from 1 to 30."
WEATHER = "What is the weather in Paris? Use get_weather."
PERSON = "Give me a JSON object with name and age"
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
GREEDY: Any = {"model": MODEL, "temperature": 0}


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=service.v1, api_key="none", max_retries=0, timeout=600) as client:
        yield client


def items(response: Response, kind: str) -> list[Any]:
    return [item for item in response.output if item.type == kind]


def test_response(client: openai.OpenAI) -> None:
    response = client.responses.create(**GREEDY, input=SUM, reasoning={"effort": "low"})
    assert (response.object, response.status, response.model) == ("response", "completed", MODEL)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert "5" in response.output_text
    assert response.error is None
    assert response.incomplete_details is None
    assert response.tools == []
    assert response.tool_choice == "auto"
    assert response.reasoning is not None
    assert response.reasoning.effort == "low"
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "text"
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert response.usage.input_tokens_details.cached_tokens >= 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_events(client: openai.OpenAI) -> None:
    events: list[Any] = list(client.responses.create(**GREEDY, input=SUM, stream=True))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last.type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for kind, part in (("reasoning_text", "reasoning"), ("output_text", "message")):
        text = "".join(event.delta for event in events if event.type == f"response.{kind}.delta")
        [item] = items(last.response, part)
        assert text == item.content[0].text
        [done] = [event.text for event in events if event.type == f"response.{kind}.done"]
        assert done == text
    assert [
        event.item for event in events if event.type == "response.output_item.done"
    ] == last.response.output
    for event in events:
        # One id for one thing.
        if item_id := getattr(event, "item_id", None):
            assert item_id == last.response.output[event.output_index].id
        if response := getattr(event, "response", None):
            assert response.id == last.response.id


def test_stream_says_the_same_as_the_answer_at_once(client: openai.OpenAI) -> None:
    request = {**GREEDY, "input": WEATHER, "tools": [TOOL]}
    whole = client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        streamed = stream.get_final_response()

    def said(response: Any) -> list[Any]:
        return [
            item.model_dump(exclude={"id", "call_id", "parsed_arguments", "encrypted_content"})
            for item in response.output
        ]

    assert said(streamed) == said(whole)
    assert streamed.status == whole.status == "completed"


def test_parse(client: openai.OpenAI) -> None:
    response = client.responses.parse(**GREEDY, input=PERSON, text_format=Person)
    assert isinstance(response.output_parsed, Person)
    with client.responses.stream(**GREEDY, input=PERSON, text_format=Person) as stream:
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Person)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_call_and_result(client: openai.OpenAI, is_sealed: bool) -> None:
    settings: dict[str, Any] = {**GREEDY, "tools": [TOOL], "store": False}
    if is_sealed:
        settings["include"] = ["reasoning.encrypted_content"]
    conversation: list[Any] = [{"role": "user", "content": WEATHER}]
    first = client.responses.create(**settings, input=conversation)
    [call] = items(first, "function_call")
    [reasoning] = items(first, "reasoning")
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    assert bool(reasoning.encrypted_content) is is_sealed
    returned: list[Any] = [item.model_dump() for item in first.output]
    if is_sealed:
        # As clients do that keep no chain of thought.
        returned = [
            {key: value for key, value in item.items() if item["type"] != "reasoning" or key != "content"}
            for item in returned
        ]
    conversation += returned
    conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    second = client.responses.create(**settings, input=conversation)
    assert "sunny" in second.output_text


def test_result_in_parts(client: openai.OpenAI) -> None:
    conversation: list[Any] = [
        {"role": "user", "content": WEATHER},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "sunny"}],
        },
    ]
    response = client.responses.create(**GREEDY, input=conversation, tools=[TOOL])
    assert "sunny" in response.output_text


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_forced_tool(client: openai.OpenAI, choice: Any) -> None:
    request: dict[str, Any] = {**GREEDY, "input": WEATHER, "tools": [TOOL], "tool_choice": choice}
    response = client.responses.create(**request)
    [call] = items(response, "function_call")
    assert (call.name, call.status, response.status) == ("get_weather", "completed", "completed")
    assert set(json.loads(call.arguments)) == {"city"}


def test_cut_by_the_limit(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {**GREEDY, "input": COUNT, "max_output_tokens": 40}
    response = client.responses.create(**request)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    events: list[Any] = list(client.responses.create(**request, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output[-1].status == "incomplete"
    [*_, done] = [event.item for event in events if event.type == "response.output_item.done"]
    assert done.status == "incomplete"


def test_a_cut_call_is_no_complete_call(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {**GREEDY, "input": WEATHER, "tools": [TOOL]}
    whole = client.responses.create(**request)
    assert whole.usage is not None
    request["max_output_tokens"] = whole.usage.output_tokens - 2
    response = client.responses.create(**request)
    [call] = items(response, "function_call")
    assert (call.status, response.status) == ("incomplete", "incomplete")


def test_input_tokens(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input=WEATHER, tools=[TOOL])
    response = client.responses.create(**GREEDY, input=WEATHER, tools=[TOOL])
    assert response.usage is not None
    assert counted.input_tokens == response.usage.input_tokens


def test_nulls_are_as_left_out(client: openai.OpenAI) -> None:
    nulls = {"background": None, "truncation": None, "service_tier": None, "metadata": None, "tools": None}
    for is_streamed in (False, True):
        raw = client.responses.with_raw_response.create(
            **GREEDY, input=SUM, stream=is_streamed, extra_body=nulls
        )
        assert raw.http_response.status_code == 200


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", None),
        ({"input": [{"role": "nobody", "content": "x"}]}, "input[0]", None),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", None),
        ({"input": "hello " * 40_000}, "input", "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_errors(
    client: openai.OpenAI, change: dict[str, Any], param: str, code: str | None, is_streamed: bool
) -> None:
    request: dict[str, Any] = {**GREEDY, "input": SUM, "stream": is_streamed}
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(**request | change)
    error = raised.value
    assert (error.type, error.code) == ("invalid_request_error", code)
    assert (error.param or "").startswith(param)
    assert len(error.response.content) < 2048


def test_nothing_is_stored(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.responses.create(**GREEDY, input=SUM, previous_response_id="resp_missing")
    assert raised.value.status_code in (400, 404)
    assert raised.value.param == "previous_response_id"
