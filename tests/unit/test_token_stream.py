"""What reaches the handler when an error comes in between."""

import asyncio
from typing import Any

import pytest

from serve_app.pace import Pace

pytestmark = pytest.mark.filterwarnings("ignore")  # of what vLLM imports


def output(*token_ids: int, finish_reason: str | None = None) -> Any:
    from vllm.outputs import CompletionOutput, RequestOutput

    completion = CompletionOutput(0, "", list(token_ids), None, None, finish_reason=finish_reason)
    return RequestOutput("r", None, [1, 2, 3], None, [completion], finished=finish_reason is not None)


async def never() -> None:
    raise AssertionError


def generation_and_stream() -> Any:
    from serve_app.vllm_adapter.token_stream import Generation, TokenStream

    stream = TokenStream(100, lambda: None, never)

    async def open_stream() -> Any:
        return stream

    return Generation(never, open_stream, Pace(None)), stream  # type: ignore[arg-type]


def test_an_error_before_the_first_output_was_read_loses_no_tokens() -> None:
    async def work() -> None:
        generation, stream = generation_and_stream()
        stream.put(output(10))
        stream.push([11, 12])
        stream.put(output(finish_reason="abort"))  # vLLM's, of the request that is given up
        stream.put(RuntimeError("lost"))
        stream.push([13])  # arrived together with what was found missing
        token_ids, found = await generation.next_step()
        assert (token_ids, found) == ([10, 11, 12, 13], None)
        step = generation.as_output(token_ids, found)
        assert step.prompt_token_ids == [1, 2, 3]
        assert step.outputs[0].token_ids == token_ids
        assert not step.finished
        with pytest.raises(RuntimeError, match="lost"):
            await generation.next_step()

    asyncio.run(work())


def test_steps_that_nobody_has_read_are_one() -> None:
    async def work() -> None:
        generation, stream = generation_and_stream()
        stream.put(output(10))
        assert (await generation.next_step())[0] == [10]
        stream.push([11])
        stream.push([12])
        assert await generation.next_step() == ([11, 12], None)
        stream.push([13])
        last = output(14, finish_reason="stop")
        stream.put(last)
        assert await generation.next_step() == ([13, 14], last)
        assert generation.is_finished

    asyncio.run(work())
