"""The service as a user of the `openai` package sees it: Chat Completions, and what all APIs share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pydantic
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

SUM = "What is 2 + 3?"
COUNT = "Count from 1 to 30."
PERSON = "Give me a JSON object with name and age"
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=service.v1, api_key="none", max_retries=0, timeout=600) as client:
        yield client


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def without_cached(usage: Any) -> dict[str, Any]:
    """A usage as a dictionary; what of the prompt was cached depends on what was asked before."""
    return {**usage.model_dump(), "prompt_tokens_details": None}


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("missing/model")
    assert raised.value.code == "model_not_found"


def test_health_and_version(service: Service) -> None:
    health = httpx.get(f"{service.url}/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ready"
    assert httpx.get(f"{service.url}/version").json() == {"version": "0.32.0"}


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask(SUM), temperature=0)
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    assert "5" in (choice.message.content or "")
    assert choice.message.model_dump()["reasoning"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_stream_says_the_same_as_the_answer_at_once(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ask(COUNT), temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=ask(COUNT),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    reasoning = "".join(delta.model_dump().get("reasoning") or "" for delta in deltas)
    assert reasoning == whole.choices[0].message.model_dump()["reasoning"]
    assert len(chunks) > 5, "an answer of dozens of tokens comes in pieces"
    assert without_cached(chunks[-1].usage) == without_cached(whole.usage)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def test_effort_lengthens_the_analysis(client: openai.OpenAI) -> None:
    lengths = {}
    for effort in ("low", "medium", "high"):
        answer = client.chat.completions.create(
            model=MODEL, messages=ask("What is 4 + 5?"), temperature=0, reasoning_effort=effort
        )
        lengths[effort] = len(answer.choices[0].message.model_dump()["reasoning"] or "")
    assert lengths["low"] < lengths["medium"] < lengths["high"]


def test_max_tokens_cuts(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask(COUNT), max_tokens=20)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20


def test_n_stop_seed_and_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ask(COUNT),
        n=3,
        seed=7,
        temperature=1,
        logprobs=True,
        top_logprobs=2,
        max_tokens=60,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert all(len(token.top_logprobs) >= 2 for token in choice.logprobs.content)
    again = client.chat.completions.create(
        model=MODEL, messages=ask(COUNT), n=3, seed=7, temperature=1, max_tokens=60
    )
    assert [c.message.content for c in again.choices] == [c.message.content for c in answer.choices]
    seeded = [
        client.chat.completions.create(
            model=MODEL, messages=ask("Tell me about the sea"), seed=seed, temperature=2, max_tokens=30
        )
        .choices[0]
        .message.model_dump()
        for seed in (1, 1, 2, 3, 4, 5, 6, 7)
    ]
    # Two seeds may well agree: the demo model knows few answers.
    assert seeded[0] == seeded[1]
    assert any(message != seeded[0] for message in seeded[2:])
    cut = client.completions.create(model=MODEL, prompt="1, 2, 3, 4, 5, 6", stop=["9"], max_tokens=40)
    assert "9" not in cut.choices[0].text


def test_seeded_prompts_that_take_several_steps(client: openai.OpenAI) -> None:
    def answer(seed: int) -> str | None:
        messages = ask(f"{seed} hello " * 700)
        completion = client.chat.completions.create(model=MODEL, messages=messages, seed=seed, max_tokens=10)
        return completion.choices[0].finish_reason

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(answer, range(4))) <= {"stop", "length"}


def test_tool_call_and_result(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    messages = ask("What is the weather in Paris? Use get_weather.")
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=tools, temperature=0)
    assert first.choices[0].finish_reason == "tool_calls"
    [call] = first.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=tools, temperature=0)
    assert second.choices[0].finish_reason == "stop"
    assert "sunny" in (second.choices[0].message.content or "")


def test_structured_output(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ask("Give me a JSON object with name and age"),
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
        temperature=0,
        max_tokens=300,
    )
    person = json.loads(answer.choices[0].message.content or "")
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int


class GetWeather(pydantic.BaseModel):
    """Get the weather of a city."""

    city: str


def test_parse(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": ask(PERSON), "temperature": 0}
    answer = client.chat.completions.parse(**request, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)
    with client.chat.completions.stream(**request, response_format=Person) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Person)


def test_json_at_temperature_1(client: openai.OpenAI) -> None:
    """The grammar allows nothing that the reader misreads."""
    schema = {"name": "person", "schema": Person.model_json_schema()}
    response_format: Any = {"type": "json_schema", "json_schema": schema}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ask(PERSON),
        response_format=response_format,
        temperature=1,
        n=16,
        seed=5,
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert choice.message.tool_calls is None
        Person.model_validate_json(choice.message.content or "")


def test_parse_a_call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=ask("What is the weather in Paris? Use get_weather."),
        tools=[openai.pydantic_function_tool(GetWeather, name="get_weather")],
        temperature=0,
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"
    assert isinstance(call.function.parsed_arguments, GetWeather)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_tool(client: openai.OpenAI, choice: Any) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": ask("What is the weather in Paris? Use get_weather."),
        "tools": [{"type": "function", "function": WEATHER}],
        "tool_choice": choice,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**request).choices[0]
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert whole.finish_reason == "tool_calls"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"
    [call] = whole.message.tool_calls or []
    assert call.type == "function"
    pieces = [
        piece.function
        for chunk in chunks
        for choice in chunk.choices
        for piece in choice.delta.tool_calls or []
        if piece.function
    ]
    assert [piece.name for piece in pieces if piece.name] == [call.function.name] == ["get_weather"]
    assert "".join(piece.arguments or "" for piece in pieces) == call.function.arguments


def test_a_cut_call_is_no_complete_call(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": ask("What is the weather in Paris? Use get_weather."),
        "tools": [{"type": "function", "function": WEATHER}],
        "temperature": 0,
    }
    whole = client.chat.completions.create(**request)
    assert whole.usage is not None
    request["max_tokens"] = whole.usage.completion_tokens - 2
    assert client.chat.completions.create(**request).choices[0].finish_reason == "length"
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"


def test_stop_strings_cut_exactly_and_only_content(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": ask(COUNT), "temperature": 0}
    whole = client.chat.completions.create(**request).choices[0].message.content or ""
    for stop in (", 9", ["never said", "12"]):
        expected = whole[: whole.index(stop if isinstance(stop, str) else stop[-1])]
        answer = client.chat.completions.create(**request, stop=stop).choices[0]
        assert (answer.message.content, answer.finish_reason) == (expected, "stop")
        deltas = client.chat.completions.create(**request, stop=stop, stream=True)
        text = "".join(choice.delta.content or "" for chunk in deltas for choice in chunk.choices)
        assert text == expected
    answer = client.chat.completions.create(**request, stop=["analysis", "assistant", "I count"]).choices[0]
    assert answer.message.content == whole


def test_logprobs_are_those_of_the_content(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": ask(SUM), "temperature": 0, "logprobs": True}
    choice = client.chat.completions.create(**request).choices[0]
    assert choice.logprobs is not None
    joined = "".join(token.token for token in choice.logprobs.content or [])
    assert joined == choice.message.content
    chunks = client.chat.completions.create(**request, stream=True)
    tokens = [
        token.token
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert "".join(tokens) == joined


def test_usage_counts_reasoning_and_cached_tokens(client: openai.OpenAI) -> None:
    messages = ask("Repeat exactly: " + "apple tree house " * 200)
    # Of two engines one has had the prompt by the third time.
    for _ in range(3):
        usage = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=30).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens


def test_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ask(SUM))
    assert raw.http_response.headers["content-type"] == "application/json"
    assert raw.headers["x-request-id"]
    assert raw.parse()._request_id == raw.headers["x-request-id"]
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=ask(SUM), stream=True
    ) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", None),
        ({"temperature": 3}, "temperature", None),
        ({"n": 0}, "n", None),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0]", None),
        ({"tools": [{"type": "function"}]}, "tools[0]", None),
        (
            {"messages": [{"role": "user", "content": "hello " * 40_000}]},
            "messages",
            "context_length_exceeded",
        ),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_errors(
    client: openai.OpenAI, change: dict[str, Any], param: str, code: str | None, is_streamed: bool
) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": ask(SUM), "stream": is_streamed}
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**request | change)
    error = raised.value
    assert (error.type, error.code) == ("invalid_request_error", code)
    assert (error.param or "").startswith(param)
    assert len(error.response.content) < 2048


def test_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="missing", messages=ask(SUM))
    assert (raised.value.param, raised.value.code) == ("model", "model_not_found")


def test_tokenize_and_back(service: Service) -> None:
    text = "Grüße 👋 to all"
    tokens = httpx.post(f"{service.url}/tokenize", json={"model": MODEL, "prompt": text}).json()["tokens"]
    back = httpx.post(f"{service.url}/detokenize", json={"model": MODEL, "tokens": tokens}).json()
    assert back == {"prompt": text}
