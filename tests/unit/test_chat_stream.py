"""Streamed chats are what vLLM's own generator makes of the same tokens, whoever wrote a chunk."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from serve_app.errors import EngineLostError
from tests.unit.test_vllm_adapter import (
    CHAT_SCOPE,
    MAX_UNREAD_TOKENS,
    Script,
    Service,
    chat_body,
    events_of,
    module_service,
    service,
)

__all__ = ["module_service", "service"]
pytestmark = pytest.mark.filterwarnings("ignore")

ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>"
CALL = "<|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ANSWERS = {
    "reasoning and content": f"{ANALYSIS}Let me think about that.<|end|>{FINAL}The answer is 42.<|return|>",
    "content only": "<|channel|>final<|message|>Hello there, my friend.<|return|>",
    "tokens that are parts of a character": f"{ANALYSIS}🧑🏽‍🚀 🏴󠁧󠁢󠁷󠁬󠁳󠁿<|end|>{FINAL}𒀀𒁀 né 漢字 🜚🜛<|return|>",
    "what JSON escapes": f'{ANALYSIS}"a\\b"\n\t\r\x00\x07\x1f\x7f </a> \u2028 é☃<|end|>{FINAL}/<|return|>',
    "a preamble and a tool call": (
        "<|channel|>commentary<|message|>I will look it up.<|end|>" + CALL + '{"city": "Oslo"}<|call|>'
    ),
    "two messages": f"{ANALYSIS}One.<|end|><|start|>assistant{ANALYSIS}Two.<|end|>{FINAL}Three.<|return|>",
    "an empty message": f"{ANALYSIS}<|end|>{FINAL}<|return|>",
    "a channel that nobody shows": f"<|channel|>comment<|message|>Secret.<|end|>{FINAL}Open.<|return|>",
    "cut off in the header": f"{ANALYSIS}Well.<|end|><|start|>assistant<|channel|>final<|return|>",
    "no header at all": "Plain text without any header.<|return|>",
}


def said(answer: httpx2.Response) -> dict[str, Any]:
    """What the events of an answer add up to, and which fields they have. How they are cut is left out."""
    total: dict[str, Any] = {"content": "", "reasoning": "", "tool_calls": {}, "ends": [], "fields": set()}
    for event in events_of(answer):
        event.pop("created", None)
        choices = event.pop("choices", [])
        total["fields"].add(tuple(event))
        if not choices:
            total["ends"].append(event)  # usage, or an error
            continue
        [choice] = choices
        delta = choice.pop("delta")
        total["fields"].add((*choice, *delta))
        for field in ("content", "reasoning"):
            total[field] += delta.get(field) or ""
        for call in delta.get("tool_calls", []):
            name, arguments = total["tool_calls"].get(call["index"], (None, ""))
            function = call["function"]
            name, arguments = name or function.get("name"), arguments + function["arguments"]
            total["tool_calls"][call["index"]] = name, arguments
        if choice["finish_reason"]:
            total["ends"].append(choice | event)
    return total


@pytest.fixture
def chat(service: Service) -> Iterator[Any]:
    """vLLM's chat handler; tests change its generator."""
    serving = service.app.state.openai_serving_chat
    streams = serving.chat_completion_stream_generator
    yield serving
    serving.chat_completion_stream_generator = streams


def both(service: Service, chat: Any, script: Script, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and vLLM's."""
    service.engine.script = script
    streams = chat.chat_completion_stream_generator
    answers = []
    for generator in (streams, streams._generator):
        chat.chat_completion_stream_generator = generator
        path = "/v1/chat/completions"
        headers = {"x-request-id": "one"}
        answer = service.request("POST", path, json=chat_body(stream=True, **body), headers=headers)
        answers.append(said(answer))
    return answers[0], answers[1]


@pytest.mark.parametrize("usage", [False, True], ids=["", "usage"])
@pytest.mark.parametrize("text", ANSWERS.values(), ids=list(ANSWERS))
def test_the_same_as_vllms(service: Service, chat: Any, text: str, usage: bool) -> None:
    body = {"stream_options": {"include_usage": True}} if usage else {}
    ours, vllms = both(service, chat, lambda _: [text], tools=[TOOL], **body)
    # A field that only an end has may come with the end of the text or after it.
    ours_fields, vllms_fields = ours.pop("fields"), vllms.pop("fields")
    assert ours == vllms
    assert {name for names in ours_fields for name in names} == {n for names in vllms_fields for n in names}
    assert ours["ends"]


@pytest.mark.parametrize(
    "body",
    [
        {"stop": ["answer"]},
        {"include_reasoning": False},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"return_token_ids": True},
        {"stream_interval": 4},
    ],
    ids=lambda body: next(iter(body)),
)
def test_what_asks_for_more_than_text_is_left_to_vllm(
    service: Service, chat: Any, body: dict[str, Any]
) -> None:
    ours, vllms = both(service, chat, lambda _: [ANSWERS["reasoning and content"]], **body)
    assert ours == vllms


def test_an_error_in_the_middle_comes_after_the_text_before_it(service: Service, chat: Any) -> None:
    text = f"{ANALYSIS}Let me think about"
    ours, vllms = both(service, chat, lambda _: [text, EngineLostError("it died")])
    assert ours["reasoning"] == "Let me think about"
    assert ours["ends"] == vllms["ends"]
    assert ours["ends"][-1]["error"]["message"] == "it died"


def test_most_chunks_are_not_made_by_vllm(
    service: Service, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionStreamResponse

    dumped = 0
    dump = ChatCompletionStreamResponse.model_dump_json

    def counted_dump(*args: Any, **named: Any) -> str:
        nonlocal dumped
        dumped += 1
        text: str = dump(*args, **named)
        return text

    monkeypatch.setattr(ChatCompletionStreamResponse, "model_dump_json", counted_dump)
    service.engine.script = lambda _: ["<|channel|>final<|message|>" + "word " * 300 + "<|return|>"]
    events = events_of(service.chat(stream=True))
    assert len(events) > 50
    # The role, the first text after the header, the finish, and two templates.
    assert dumped <= 6


def test_chunks_of_text_are_vllms_to_the_byte() -> None:
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.entrypoints.openai.chat_completion.protocol import (
        ChatCompletionResponseStreamChoice,
        ChatCompletionStreamResponse,
    )

    from serve_app.vllm_adapter.chat_stream import _encode, _new_templates

    for name in ("content", "reasoning"):
        head, tail = _new_templates('chatcmpl-"☃"', "a \\ model")[name]
        created = json.loads(head.removeprefix(b"data: ") + b'""' + tail)["created"]
        for text in ["plain", "", '"\\/', "".join(map(chr, range(0x80))), "é☃\u2028\U0001f9d1"]:
            choice = ChatCompletionResponseStreamChoice(
                index=0, delta=DeltaMessage(**{name: text}), logprobs=None, finish_reason=None, token_ids=None
            )
            chunk = ChatCompletionStreamResponse(
                id='chatcmpl-"☃"',
                object="chat.completion.chunk",
                created=created,
                choices=[choice],
                model="a \\ model",
            )
            event = f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n".encode()
            assert head + _encode(text) + tail == event


# --- clients that read slowly --------------------------------------------------------------------------


def test_a_client_that_does_not_read_gets_an_error_and_its_request_ends(service: Service) -> None:
    words = "<|channel|>final<|message|>" + "word " * (3 * MAX_UNREAD_TOKENS)
    service.engine.script = lambda _: [words, None]
    content = json.dumps(chat_body(stream=True)).encode()
    pieces: list[bytes] = []

    async def work() -> None:
        reads = asyncio.Event()
        arrived = [{"type": "http.request", "body": content}]

        async def receive() -> Any:
            if arrived:
                return arrived.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                pieces.append(message["body"])
                if len(pieces) > 3:
                    await reads.wait()

        answer = asyncio.create_task(service.app(CHAT_SCOPE.copy(), receive, send))
        await service.engine.is_left.wait()  # the engine is free while the client still does not read
        reads.set()
        await answer

    service.run(work())
    text = b"".join(pieces).decode()
    assert "unread" in text
    assert text.rstrip().endswith("data: [DONE]")
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert events[-1]["error"]["code"] == 408
    shown = "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1])
    assert MAX_UNREAD_TOKENS < len(shown.split()) < 3 * MAX_UNREAD_TOKENS
    assert service.engine.left_early == [service.engine.requests[0].request_id]
