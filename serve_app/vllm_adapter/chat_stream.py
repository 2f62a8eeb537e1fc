"""Streamed chat answers: vLLM's chunks, at a fraction of the cost for those that hold nothing but text.

In vLLM's chat handler a chunk costs four pydantic objects, a JSON dump, and asking the
harmony parser for all its messages at every token. Almost all chunks differ in their text only. `ChatStreams`
writes those itself, from a template that vLLM's own classes made, and leaves the others (the role, headers
between messages, tool calls, the finish, usage, errors) to vLLM's generator, which gets to see all tokens.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionRequest,
    ChatCompletionResponseStreamChoice,
    ChatCompletionStreamResponse,
)
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.outputs import RequestOutput
from vllm.parser.harmony import HarmonyParser, _SegmentType

from serve_app.vllm_adapter.token_stream import Generation

__all__ = ["ChatStreams"]

# o200k_harmony: what has a meaning other than its text starts here (<|startoftext|>).
FIRST_SPECIAL_TOKEN = 199998
_FIELDS = {_SegmentType.CONTENT: "content", _SegmentType.REASONING: "reasoning"}
_MARK = "\N{SNOWMAN}"


class ChatStreams:
    """Replaces `chat_completion_stream_generator` of `serving`, vLLM's chat handler."""

    def __init__(self, serving: OpenAIServingChat) -> None:
        self._serving = serving
        self._generator = serving.chat_completion_stream_generator

    def __call__(
        self,
        request: ChatCompletionRequest,
        outputs: AsyncIterator[RequestOutput],
        request_id: str,
        model_name: str,
        *args: Any,
        **named: Any,
    ) -> AsyncGenerator[str | bytes]:
        """Returns the events of the answer to `request`; arguments as in vLLM."""
        if not isinstance(outputs, Generation) or not self._has_plain_chunks(request):
            return self._generator(request, outputs, request_id, model_name, *args, **named)
        # vLLM's generator makes its parser itself, of this class.
        serving = copy.copy(self._serving)
        handler = _Handler()
        serving.parser_cls = handler.new_parser
        handler.events = OpenAIServingChat.chat_completion_stream_generator(
            serving, request, handler, request_id, model_name, *args, **named
        )
        return _stream(outputs, handler, _new_templates(request_id, model_name))

    def _has_plain_chunks(self, request: ChatCompletionRequest) -> bool:
        """Whether chunks in the middle of a message hold nothing but its text."""
        options = request.stream_options
        return not (
            (request.n or 1) > 1
            or request.logprobs
            or request.echo
            or request.stop  # found in detokenised text, by vLLM's output processor
            or request.return_token_ids
            or request.stream_interval
            or not request.include_reasoning
            or (options and options.continuous_usage_stats)
            or self._serving.enable_force_include_usage
            or self._serving.enable_log_outputs
        )


class _TextParser(HarmonyParser):
    """A `HarmonyParser` that can be asked for the text of tokens, while it is inside a message."""

    field: str | None = None
    """Where the message's text goes: `content`, `reasoning`, or None between messages and in tool calls."""
    _num_ahead = 0

    def take_text(self, token_ids: list[int]) -> str:
        """Returns the text of ordinary tokens. `parse_delta` will be given them once more."""
        parser = self._harmony_parser._inner
        text = ""
        for token_id in token_ids:
            parser.process(token_id)
            text += parser.last_content_delta or ""
        self._current_message_tokens += token_ids
        self._num_ahead += len(token_ids)
        return text

    def parse_delta(self, delta_text: str, delta_token_ids: list[int], *args: Any, **named: Any) -> Any:
        """As in vLLM, for the tokens that `take_text` has not had."""
        new, self._num_ahead = delta_token_ids[self._num_ahead :], 0
        delta = super().parse_delta(delta_text, new, *args, **named)
        channel = self._harmony_parser.current_channel
        recipient = self._normalize_recipient(self._harmony_parser.current_recipient)
        self.field = _FIELDS.get(_SegmentType.from_channel_and_recipient(channel, recipient))
        return delta


class _Handler:
    """vLLM's generator, run step by step: it is the iterator that the generator takes its outputs from."""

    def __init__(self) -> None:
        self.events: AsyncGenerator[str]
        self.parser: _TextParser
        self.is_done = False
        self._asks: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._output: asyncio.Future[RequestOutput]
        self._event: asyncio.Task[str | None] | None = None

    def new_parser(self, *args: Any, **named: Any) -> HarmonyParser:
        """Returns the one parser of an answer with one choice."""
        self.parser = _TextParser(*args, **named)
        return self.parser

    def __aiter__(self) -> _Handler:
        return self

    async def __anext__(self) -> RequestOutput:
        self._output = asyncio.get_running_loop().create_future()
        self._asks.set_result(None)
        return await self._output

    def put(self, output: RequestOutput | Exception | None) -> None:
        """Gives the generator an output, an error to make an event of, or None for the end."""
        self._asks = asyncio.get_running_loop().create_future()
        if isinstance(output, RequestOutput):
            self._output.set_result(output)
        else:
            self._output.set_exception(output or StopAsyncIteration())

    async def next_events(self) -> AsyncGenerator[str]:
        """Yields what the generator makes of what it has, until it asks for more or is at its end."""
        while True:
            self._event = self._event or asyncio.create_task(self._next_event())
            await asyncio.wait((self._event, self._asks), return_when=asyncio.FIRST_COMPLETED)
            if not self._event.done():
                return
            event, self._event = self._event.result(), None
            if event is None:
                self.is_done = True
                return
            yield event

    async def _next_event(self) -> str | None:
        return await anext(self.events, None)

    async def close(self) -> None:
        """Ends the generator, wherever it is."""
        if self._event:
            self._event.cancel()
        else:
            await self.events.aclose()


async def _stream(
    generation: Generation, handler: _Handler, templates: _Templates
) -> AsyncGenerator[str | bytes]:
    """Yields vLLM's events, and between them those that hold nothing but text."""
    unseen: list[int] = []  # tokens that vLLM's generator has not had yet
    step: RequestOutput | Exception | None
    try:
        while True:
            async for event in handler.next_events():
                yield event
            if handler.is_done:
                return
            step = None
            while step is None and not generation.is_finished:
                try:
                    token_ids, output = await generation.next_step()
                except Exception as error:  # whatever it is, vLLM's generator makes an event of it
                    step = error
                    break
                if output or handler.parser.field is None or max(token_ids) >= FIRST_SPECIAL_TOKEN:
                    step, unseen = generation.as_output(unseen + token_ids, output), []
                    break
                unseen += token_ids
                if text := handler.parser.take_text(token_ids):
                    head, tail = templates[handler.parser.field]
                    yield head + _encode(text) + tail
            handler.put(step)
    finally:
        await generation.aclose()
        await handler.close()


_Templates = dict[str, tuple[bytes, bytes]]
_encode = msgspec.json.Encoder().encode


def _new_templates(request_id: str, model_name: str) -> _Templates:
    """Returns, for each field, the bytes before and after the JSON string of an event's text."""
    created = int(time.time())
    templates = {}
    for field in _FIELDS.values():
        delta = DeltaMessage()
        setattr(delta, field, _MARK)
        choice = ChatCompletionResponseStreamChoice(
            index=0, delta=delta, logprobs=None, finish_reason=None, token_ids=None
        )
        chunk = ChatCompletionStreamResponse(
            id=request_id,
            object="chat.completion.chunk",
            created=created,
            choices=[choice],
            model=model_name,
        )
        event = f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n".encode()
        # From the right: a request id may hold anything.
        head, _, tail = event.rpartition(_encode(_MARK))
        templates[field] = head, tail
    return templates
