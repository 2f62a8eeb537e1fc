"""The service as a user of the `openai` and `anthropic` packages sees it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

SUM = "What is 2 + 3?"
COUNT = "Count from 1 to 30."
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.v1, api_key="none", max_retries=0, timeout=120)


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_health_and_version(service: Service) -> None:
    health = httpx.get(f"{service.url}/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ready"
    assert httpx.get(f"{service.url}/version").json() == {"version": "0.29.0"}


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
    assert chunks[-1].usage == whole.usage
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


def test_responses(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input=SUM, temperature=0, reasoning={"effort": "low"})
    assert response.status == "completed"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert "5" in response.output_text


def test_responses_stream(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input=SUM, temperature=0, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


def test_responses_cut_by_the_limit_are_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input=COUNT, max_output_tokens=20)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_messages(service: Service) -> None:
    client = anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0)
    greedy = {"temperature": 0}
    message = client.messages.create(model=MODEL, max_tokens=200, messages=ask(SUM), extra_body=greedy)
    assert message.stop_reason == "end_turn"
    assert "5" in "".join(block.text for block in message.content if block.type == "text")
    stream = client.messages.stream(model=MODEL, max_tokens=200, messages=ask(SUM), extra_body=greedy)
    with stream as events:
        assert "5" in "".join(events.text_stream)


def test_tokenize_and_back(service: Service) -> None:
    text = "Grüße 👋 to all"
    tokens = httpx.post(f"{service.url}/tokenize", json={"model": MODEL, "prompt": text}).json()["tokens"]
    back = httpx.post(f"{service.url}/detokenize", json={"model": MODEL, "tokens": tokens}).json()
    assert back == {"prompt": text}
