"""The tokens of one answer on their way from the step frames to the handler that streams it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Awaitable, Callable

from vllm.outputs import CompletionOutput, RequestOutput

from serve_app.pace import Pace


class TokenStream:
    """Stands in for vLLM's `RequestOutputCollector`, for handlers that take token ids.

    Most steps bring nothing but tokens. Those come by `push`, past vLLM's output processor, which makes a
    dozen objects of a step and nothing that such a handler needs. The others (the first, the last) come by
    `put`. What arrives while the handler is busy is one step for it; when that grows beyond
    `max_unread_tokens`, `on_overflow` is called.
    """

    def __init__(
        self, max_unread_tokens: int, on_overflow: Callable[[], None], abort: Callable[[], Awaitable[None]]
    ) -> None:
        self._max_unread_tokens, self._on_overflow, self._abort = max_unread_tokens, on_overflow, abort
        self.first: RequestOutput | None = None
        self._token_ids: list[int] = []
        self._output: RequestOutput | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, token_ids: list[int]) -> None:
        """Adds tokens of a step that has nothing else."""
        self._token_ids += token_ids
        if len(self._token_ids) > self._max_unread_tokens:
            self._on_overflow()
        self._wake()

    def put(self, output: RequestOutput | Exception) -> None:
        """Adds what vLLM's output processor made of a step, or the error that ends the answer."""
        if isinstance(output, Exception):
            # In place of the output of the abort that comes before it. The tokens are good.
            self._error, self._output = output, None
        else:
            self._output = output
            self.first = self.first or output
            self._token_ids += output.outputs[0].token_ids
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter and not waiter.done():
            waiter.set_result(None)

    async def get(self) -> tuple[list[int], RequestOutput | None]:
        """Returns the tokens since the last call, and what vLLM's output processor made of them, if it did.

        Waits for either. Raises the error that ended the answer.
        """
        while not self._token_ids and not self._output:
            if self._error:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        token_ids, self._token_ids = self._token_ids, []
        output, self._output = self._output, None
        return token_ids, output

    async def abort(self) -> None:
        """Ends the request in its engine."""
        await self._abort()


class Generation:
    """What `RemoteLLM.generate` returns: an answer to be taken either as vLLM's outputs or as tokens.

    Iterating it is vLLM's way. `next_step` is the other one, for handlers that need no text.
    Nothing is sent to an engine before the one or the other is asked for.
    """

    def __init__(
        self,
        outputs: Callable[[], AsyncGenerator[RequestOutput]],
        open_stream: Callable[[], Awaitable[TokenStream]],
        pace: Pace,
    ) -> None:
        self._new_outputs, self._open_stream, self._pace = outputs, open_stream, pace
        self._outputs: AsyncGenerator[RequestOutput] | None = None
        self._stream: TokenStream | None = None
        self.is_finished = False

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> RequestOutput:
        if self._outputs is None:
            self._outputs = self._new_outputs()
        if self._pace.is_set:
            await self._pace.wait()
        return await self._outputs.__anext__()

    async def next_step(self) -> tuple[list[int], RequestOutput | None]:
        """Returns the tokens since the last call, and vLLM's output if there is more to say than they do.

        Raises the error that ended the answer.
        """
        if self._stream is None:
            self._stream = await self._open_stream()
        if self._pace.is_set:
            await self._pace.wait()
        token_ids, output = await self._stream.get()
        if output:
            self.is_finished = output.finished
        return token_ids, output

    def as_output(self, token_ids: list[int], output: RequestOutput | None) -> RequestOutput:
        """Returns a step as vLLM's handlers want it: `output`, if there is one, with these tokens."""
        assert self._stream
        assert self._stream.first  # the first step of an answer has an output
        step = copy.copy(output or self._stream.first)
        if output:
            completion = copy.copy(output.outputs[0])
            completion.token_ids = token_ids
        else:
            completion = CompletionOutput(0, "", token_ids, None, None)
        step.outputs = [completion]
        return step

    async def aclose(self) -> None:
        """Aborts the request, unless it has ended."""
        if self._outputs is not None:
            await self._outputs.aclose()
        if self._stream is not None and not self.is_finished:
            await self._stream.abort()
