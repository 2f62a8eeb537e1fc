"""Chat completion chunks as vLLM writes them, put together from strings: no handler, parser or model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from benchmarks.serving.stub import StreamingEngine
from serve_app.timed.answers import HEADER
from serve_app.transport.curve import CurveAddress
from serve_app.transport.requests import GenerateRequest

# Five characters each, as the timed engine's are.
WORD = " word"
PROMPT = [1, 2, 3]


async def chat_chunks(engine: StreamingEngine, request_id: str, max_tokens: int) -> AsyncIterator[str]:
    """Yields the events of a streamed answer; the tokens of the harmony header are no content."""
    request = GenerateRequest(
        request_id=request_id,
        prompt_token_ids=PROMPT,
        sampling_params=msgspec.msgpack.encode({"max_tokens": max_tokens, "ignore_eos": True}),
        reply_to=CurveAddress("", b""),
        sequence=0,
    )
    head = (
        f'data: {{"id":"chatcmpl-{request_id}","object":"chat.completion.chunk","created":1795482368,'
        '"model":"gpt-oss-demo","choices":[{"index":0,"delta":'
    )
    tail = ',"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
    yield f'{head}{{"role":"assistant","content":""}}{tail}'
    num_tokens = 0
    async for position, output in engine.stream(request):
        num_tokens = position + len(output.new_token_ids)
        if (num_words := num_tokens - max(position, len(HEADER))) > 0:
            yield f'{head}{{"content":"{WORD * num_words}"}}{tail}'
    usage: dict[str, Any] = {"prompt_tokens": len(PROMPT), "completion_tokens": num_tokens}
    usage["total_tokens"] = sum(usage.values())
    end = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}],
        "usage": usage,
    }
    yield f"data: {msgspec.json.encode(end).decode()}\n\n"
    yield "data: [DONE]\n\n"
