"""The service as a user of the `anthropic` package sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pydantic
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

SUM = "What is 2 + 3?"
COUNT = "Count from 1 to 30."
WEATHER = "What is the weather in Paris? Use get_weather."
TOOL: Any = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0, timeout=600) as client:
        yield client


def ask(text: str, **settings: Any) -> dict[str, Any]:
    """A greedy request."""
    messages = [{"role": "user", "content": text}]
    greedy = {"extra_body": {"temperature": 0}}
    return {"model": MODEL, "max_tokens": 300, "messages": messages, **greedy, **settings}


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def types(message: Any) -> list[str]:
    return [block.type for block in message.content]


def call_of(message: Any) -> anthropic.types.ToolUseBlock:
    """The one call of a message."""
    [call] = [block for block in message.content if isinstance(block, anthropic.types.ToolUseBlock)]
    return call


def prompt_tokens(usage: Any) -> int:
    return int(
        usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    )


def test_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(SUM))
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    # Thinking is shown to who asks for it.
    assert types(message) == ["text"]
    assert "5" in text_of(message)
    assert message.usage.cache_read_input_tokens is not None
    assert message.usage.output_tokens > 0


def test_system_is_text_or_blocks(client: anthropic.Anthropic) -> None:
    for system in (
        "Be brief.",
        [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    ):
        assert "5" in text_of(client.messages.create(**ask(SUM, system=system)))


def test_stream_says_the_same_as_the_answer_at_once(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**ask(COUNT))
    with client.messages.stream(**ask(COUNT)) as stream:
        texts = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(texts) > 5, "an answer of dozens of tokens comes in pieces"
    assert "".join(texts) == text_of(whole)
    assert types(streamed) == types(whole)
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert prompt_tokens(streamed.usage) == prompt_tokens(whole.usage)


def test_events(client: anthropic.Anthropic) -> None:
    events = [event.type for event in client.messages.create(**ask(SUM), stream=True) if event.type != "ping"]
    assert events[:2] == ["message_start", "content_block_start"]
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(events[2:-3]) == {"content_block_delta"}


def test_thinking(client: anthropic.Anthropic) -> None:
    settings = {"thinking": THINKING, "max_tokens": 2000}
    message = client.messages.create(**ask(SUM, **settings))
    assert types(message) == ["thinking", "text"]
    [thinking, _] = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking
    assert thinking.signature
    with client.messages.stream(**ask(SUM, **settings)) as stream:
        streamed = stream.get_final_message()
    assert types(streamed) == ["thinking", "text"]
    assert getattr(streamed.content[0], "thinking", None) == thinking.thinking
    assert getattr(streamed.content[0], "signature", None)


def test_thinking_off(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(SUM, thinking={"type": "disabled"}))
    assert types(message) == ["text"]


@pytest.mark.parametrize("thinking", [None, THINKING])
def test_tool_and_result(client: anthropic.Anthropic, thinking: Any) -> None:
    settings: dict[str, Any] = {"tools": [TOOL], "max_tokens": 2000}
    if thinking:
        settings["thinking"] = thinking
    first = client.messages.create(**ask(WEATHER, **settings))
    assert first.stop_reason == "tool_use"
    assert ("thinking" in types(first)) is bool(thinking)
    call = call_of(first)
    assert call.id.startswith("toolu_")
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    messages = [
        {"role": "user", "content": WEATHER},
        {"role": "assistant", "content": first.content},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": call.id,
                    "content": [{"type": "text", "text": "sunny"}],
                }
            ],
        },
    ]
    second = client.messages.create(**ask(WEATHER, **settings) | {"messages": messages})
    assert second.stop_reason == "end_turn"
    assert "sunny" in text_of(second)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_forced_tool(client: anthropic.Anthropic, choice: dict[str, str]) -> None:
    settings = {"tools": [TOOL], "tool_choice": choice}
    message = client.messages.create(**ask(WEATHER, **settings))
    with client.messages.stream(**ask(WEATHER, **settings)) as stream:
        streamed = stream.get_final_message()
    for answer in (message, streamed):
        assert answer.stop_reason == "tool_use"
        call = call_of(answer)
        assert call.name == "get_weather"
        assert isinstance(call.input, dict)
        assert set(call.input) == {"city"}


def test_no_tool(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(WEATHER, tools=[TOOL], tool_choice={"type": "none"}))
    assert "tool_use" not in types(message)
    assert message.stop_reason == "end_turn"


def test_tool_runner(client: anthropic.Anthropic) -> None:
    asked: list[str] = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        asked.append(city)
        return "sunny"

    message = client.beta.messages.tool_runner(**ask(WEATHER), tools=[get_weather]).until_done()
    assert asked == ["Paris"]
    assert "sunny" in text_of(message)


def test_parsed_output(client: anthropic.Anthropic) -> None:
    text = "Give me a JSON object with name and age"
    message = client.messages.parse(**ask(text), output_format=Person)
    assert isinstance(message.parsed_output, Person)


def test_cut(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(COUNT, max_tokens=40))
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 40
    with client.messages.stream(**ask(COUNT, max_tokens=40)) as stream:
        assert stream.get_final_message().stop_reason == "max_tokens"


def test_cut_call(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**ask(WEATHER, tools=[TOOL]))
    # Not the last token, which ends the call, but the one before it.
    cut = ask(WEATHER, tools=[TOOL], max_tokens=whole.usage.output_tokens - 2)
    assert client.messages.create(**cut).stop_reason == "max_tokens"
    with client.messages.stream(**cut) as stream:
        assert stream.get_final_message().stop_reason == "max_tokens"


def test_stop_sequence(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(COUNT, stop_sequences=["never said", ", 9"]))
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ", 9")
    assert text_of(message).endswith("8")
    # What is thought and what heads a message is no text.
    message = client.messages.create(**ask(COUNT, stop_sequences=["analysis", "assistant", "I count"]))
    assert message.stop_reason == "end_turn"


def test_count_tokens(client: anthropic.Anthropic) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": SUM}]}
    counted = client.messages.count_tokens(**request, tools=[TOOL]).input_tokens
    message = client.messages.create(**ask(SUM, tools=[TOOL]))
    assert counted == prompt_tokens(message.usage)
    assert client.messages.count_tokens(**request).input_tokens < counted


def test_request_id(client: anthropic.Anthropic) -> None:
    first, second = (client.messages.create(**ask(SUM))._request_id for _ in range(2))
    assert first
    assert second
    assert first != second


@pytest.mark.parametrize(
    ("change", "kind", "status"),
    [
        ({"messages": []}, "invalid_request_error", 400),
        ({"model": "missing"}, "not_found_error", 404),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "invalid_request_error", 400),
        ({"tool_choice": {"type": "tool", "name": "missing"}, "tools": [TOOL]}, "invalid_request_error", 400),
        ({"messages": [{"role": "user", "content": "hello " * 40_000}]}, "invalid_request_error", 400),
        ({"max_tokens": 0}, "invalid_request_error", 400),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_errors(
    client: anthropic.Anthropic, change: dict[str, Any], kind: str, status: int, is_streamed: bool
) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.create(**ask(SUM) | change, stream=is_streamed)
    error = raised.value
    assert error.status_code == status
    assert error.request_id
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == kind
    assert 0 < len(error.body["error"]["message"]) < 2000


def test_images_are_refused_by_their_place(client: anthropic.Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    content = [{"type": "text", "text": SUM}, {"type": "image", "source": source}]
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(**ask(SUM) | {"messages": [{"role": "user", "content": content}]})
    assert "messages[0].content[1]" in str(raised.value)


def test_models(client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
