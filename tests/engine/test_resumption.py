"""An answer that is cut off goes on as if it had not been, whatever was asked for: vLLM's engine on a CPU."""

from __future__ import annotations

import asyncio
import gc
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio

from serve_app.config import AppConfig
from serve_app.demo import CACHE, MODEL_NAME, SPECULATOR_NAME
from serve_app.demo.unfolding import unfold
from serve_app.engine_arguments import engine_arguments
from serve_app.harmony.conversation import Conversation, Tool, UserText
from serve_app.harmony.grammar import ContentFormat, structural_tag
from serve_app.harmony.renderer import Renderer
from serve_app.harmony.tokens import Vocabulary
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="module"),
]

MAX_TOKENS = 60
COUNT, FACT, PERSON = (
    "Count to thirty.",
    "What is the capital of France?",
    "Give me a JSON object with name and age",
)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = Tool(
    "get_weather",
    "The weather in a city",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def config() -> AppConfig:
    return AppConfig.model_validate(
        {
            "model": {"id": MODEL_NAME, "source": f"file:{CACHE / MODEL_NAME}"},
            "speculator": {"source": f"file:{CACHE / SPECULATOR_NAME}", "num_draft_tokens": 3},
            "engine": {
                "max_concurrent_requests": 8,
                "max_model_len": 2048,
                # Small steps, so that long prompts take several.
                "max_num_batched_tokens": 256,
                "kv_cache_dtype": "fp8",
                "num_gpus": 0,
                "gpu_memory_utilization": 0.1,
                "kv_cache_memory_bytes": 1 << 27,
            },
        }
    )


class Answer(NamedTuple):
    """What has come of a request, and what of it came from this engine."""

    token_ids: list[int]
    finish_reason: Any
    stop_reason: Any
    logprobs: list[tuple[int, float]]


class Harness:
    """An engine, and the ingress that its tokens go to."""

    def __init__(self) -> None:
        from serve_app.vllm_adapter import TokenEngine
        from serve_app.vllm_adapter.wire import new_decoder

        arguments = engine_arguments(config(), str(CACHE / MODEL_NAME), str(CACHE / SPECULATOR_NAME))
        self.engine = TokenEngine(arguments)
        self.renderer = Renderer(Vocabulary.load(), date=lambda: "2026-01-01")
        self._receiver = FrameReceiver("127.0.0.1")
        self._decode = new_decoder()
        self._open: dict[int, asyncio.Queue[tuple[int, Any]]] = {}
        self._task = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            for header, parts in await self._receiver.receive():
                outputs = self._decode(parts)
                for number, position, output in zip(header.sequences, header.positions, outputs, strict=True):
                    self._open[number].put_nowait((position, output))

    async def answer(
        self, prompt: list[int], params: Any, so_far: list[int], cache_salt: str | None = None
    ) -> Answer:
        """Generates the whole answer, or what is missing of it."""
        number = len(self._open)
        outputs = self._open[number] = asyncio.Queue()
        request = GenerateRequest(
            request_id=f"request-{number}",
            prompt_token_ids=prompt,
            sampling_params=msgspec.msgpack.encode(params),
            reply_to=self._receiver.address,
            sequence=number,
            output_token_ids=so_far,
            cache_salt=cache_salt,
        )
        call = asyncio.create_task(self.engine.generate(request))
        token_ids = list(so_far)
        logprobs: list[tuple[int, float]] = []
        while True:
            position, output = await outputs.get()
            assert position == len(token_ids)
            token_ids += output.new_token_ids
            if lists := output.new_logprobs:
                ids, values = lists.logprob_token_ids.tolist(), lists.logprobs.tolist()
                logprobs += [(row[0], value[0]) for row, value in zip(ids, values, strict=True)]
            if output.finish_reason is not None:
                assert await call == len(token_ids)
                return Answer(token_ids, output.finish_reason, output.stop_reason, logprobs)

    async def close(self) -> None:
        self.engine.shutdown()
        self._task.cancel()
        self._receiver.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness() -> AsyncIterator[Harness]:
    unfold(CACHE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        environment.setenv("OMP_NUM_THREADS", "1")
        one = Harness()
    try:
        yield one
    finally:
        await one.close()
        gc.collect()  # ZeroMQ warns of its context, here and not at the end of all tests


def grammar(kind: str, value: Any = None) -> str | None:
    return structural_tag([], "auto", ContentFormat(kind, value))  # type: ignore[arg-type]


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": (COUNT, {}),
    "repetition": (COUNT, {"repetition_penalty": 1.3}),
    "presence": (COUNT, {"presence_penalty": 1.5}),
    "frequency": (COUNT, {"frequency_penalty": 0.9}),
    "min_tokens": (FACT, {"min_tokens": 40}),
    "max_tokens": (COUNT, {"max_tokens": 17}),
}


def params_of(options: dict[str, Any]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{"temperature": 0, "max_tokens": MAX_TOKENS} | options)


def cuts(num_tokens: int, rng: random.Random) -> Iterator[int]:
    """Where an answer is cut off."""
    places = {0, 1, 2, num_tokens // 2, num_tokens - 1, rng.randrange(num_tokens)}
    yield from sorted(place for place in places if place < num_tokens)


@pytest.mark.parametrize("case", CASES)
async def test_the_answer_is_that_of_an_unbroken_run(harness: Harness, case: str) -> None:
    text, options = CASES[case]
    prompt = harness.renderer.render(Conversation((UserText(text),)))
    whole = await harness.answer(prompt, params_of(options), [], "kept")
    for cut in cuts(len(whole.token_ids), random.Random(case)):
        # With what this engine has kept of it, and as in another one.
        for salt in ("kept", uuid.uuid4().hex):
            resumed = await harness.answer(prompt, params_of(options), whole.token_ids[:cut], salt)
            assert resumed[:3] == whole[:3], (cut, salt)
