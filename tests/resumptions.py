"""Answers that are cut off and go on: what is asked for, and an engine with an ingress for its tokens."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from serve_app.harmony.conversation import Conversation, Tool, UserText
from serve_app.harmony.grammar import ContentFormat, structural_tag
from serve_app.harmony.renderer import Renderer
from serve_app.harmony.tokens import Vocabulary
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver

MAX_TOKENS = 60
# Of two log probabilities of a token: a prompt is computed by other kernels than a step.
MAX_DIFFERENCE = 0.05
COUNT = "Count to thirty."
LONG = COUNT + " And then say all of it again." * 20
FACT = "What is the capital of France?"
PERSON = "Give me a JSON object with name and age"
SEVEN, EIGHT = 22, 23  # "7" and "8"
WEATHER_QUESTION = "What is the weather in Paris?"
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


class Answer(NamedTuple):
    """What has come of a request, and what of it came from this engine."""

    token_ids: list[int]
    finish_reason: Any
    stop_reason: Any
    logprobs: list[tuple[int, float]]
    num_prompt_logprobs: int


class Harness:
    """An engine, and the ingress that its tokens go to."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """`arguments` are those of the engine, which is up when this returns."""
        from serve_app.vllm_adapter import TokenEngine
        from serve_app.vllm_adapter.wire import new_decoder

        self.engine = TokenEngine(arguments)
        self.renderer = Renderer(Vocabulary.load(), date=lambda: "2026-01-01")
        self._receiver = FrameReceiver("127.0.0.1")
        self._decode = new_decoder()
        self._open: dict[int, asyncio.Queue[tuple[int, Any]]] = {}
        self._has_come = asyncio.Event()
        self._task = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            for header, parts in await self._receiver.receive():
                outputs = self._decode(parts)
                for number, position, output in zip(header.sequences, header.positions, outputs, strict=True):
                    self._open[number].put_nowait((position, output))
                self._has_come.set()

    async def first_output(self) -> None:
        """Returns when something has come of those that are open."""
        self._has_come.clear()
        await self._has_come.wait()

    def text(self, token_ids: list[int]) -> str:
        """What the tokens say, markers included."""
        vocabulary = self.renderer.vocabulary
        return b"".join(map(vocabulary.bytes_of, token_ids)).decode()

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
        # One that fails has no last output; of another, this may come before it.
        call.add_done_callback(lambda _: outputs.put_nowait((-1, None)))
        token_ids = list(so_far)
        logprobs: list[tuple[int, float]] = []
        num_prompt_logprobs = 0
        while True:
            position, output = await outputs.get()
            if output is None:
                await call
                continue
            assert position == len(token_ids)
            token_ids += output.new_token_ids
            if lists := output.new_logprobs:
                ids, values = lists.logprob_token_ids.tolist(), lists.logprobs.tolist()
                logprobs += [(row[0], value[0]) for row, value in zip(ids, values, strict=True)]
            if tensors := output.new_prompt_logprobs_tensors:
                num_prompt_logprobs += len(tensors.logprob_token_ids)
            if output.finish_reason is not None:
                assert await call == len(token_ids)
                return Answer(
                    token_ids, output.finish_reason, output.stop_reason, logprobs, num_prompt_logprobs
                )

    async def close(self) -> None:
        self.engine.shutdown()
        self._task.cancel()
        self._receiver.close()


@dataclass(frozen=True)
class Case:
    """What is asked for, by vLLM's names."""

    text: str
    options: dict[str, Any] = field(default_factory=dict)
    tag: str | None = None
    tools: tuple[Tool, ...] = ()

    @property
    def conversation(self) -> Conversation:
        return Conversation((UserText(self.text),), self.tools)

    def params(self) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

        options = {"temperature": 0, "max_tokens": MAX_TOKENS} | self.options
        if detection := options.get("repetition_detection"):
            options["repetition_detection"] = RepetitionDetectionParams(**detection)
        if self.tag:
            options["structured_outputs"] = StructuredOutputsParams(structural_tag=self.tag)
        return SamplingParams(**options)


def formatted(kind: str, value: Any = None) -> str | None:
    return structural_tag([], "auto", ContentFormat(kind, value))  # type: ignore[arg-type]


# vLLM refuses logit_bias and min_p beside a speculator, in model runner V1.
CASES = {
    "greedy": Case(COUNT),
    # Some of the answer comes from the prefix cache, and the rest takes more than one step.
    "long": Case(LONG, {"max_tokens": 300, "ignore_eos": True}),
    "repetition": Case(COUNT, {"repetition_penalty": 2.0}),
    "presence": Case(COUNT, {"presence_penalty": 2.0, "logprobs": 2}),
    "frequency": Case(COUNT, {"frequency_penalty": 2.0}),
    "min_tokens": Case(FACT, {"min_tokens": 40}),
    "max_tokens": Case(COUNT, {"max_tokens": 17}),
    "stop_token_ids": Case(COUNT, {"stop_token_ids": [EIGHT]}),
    "stop_token_ids and min_tokens": Case(COUNT, {"stop_token_ids": [EIGHT], "min_tokens": 45}),
    "bad_words": Case(COUNT, {"bad_words": ["5, 6", "8"]}),
    "repetition_detection": Case(
        COUNT,
        {
            "allowed_token_ids": [SEVEN],
            "repetition_detection": {"max_pattern_size": 3, "min_count": 12},
        },
    ),
    "likeliest of a sample": Case(COUNT, {"temperature": 1.0, "top_k": 1, "seed": 5}),
    "prompt_logprobs": Case(COUNT, {"logprobs": 1, "prompt_logprobs": 1, "max_tokens": 20}),
    "json_schema": Case(PERSON, {}, formatted("json_schema", SCHEMA)),
    "json_schema and a penalty": Case(PERSON, {"presence_penalty": 1.0}, formatted("json_schema", SCHEMA)),
    "regex": Case(PERSON, {}, formatted("regex", "[a-z]{3,9}@[a-z]{3,9}[.]com")),
    "choice": Case(FACT, {}, formatted("choice", ["Paris is it", "Paris or so", "Rome"])),
    "tool": Case(WEATHER_QUESTION, {}, structural_tag([WEATHER], "required"), (WEATHER,)),
    "tool or text": Case(
        WEATHER_QUESTION,
        {},
        structural_tag([WEATHER], "auto", ContentFormat("json_schema", SCHEMA)),
        (WEATHER,),
    ),
}


def cuts(num_tokens: int, rng: random.Random) -> list[int]:
    """Where an answer is cut off. At 0 it is not, which shows that a run can be repeated at all."""
    places = {0, 1, 2, num_tokens // 2, num_tokens - 1, rng.randrange(num_tokens)}
    return sorted(place for place in places if place < num_tokens)


async def check(harness: Harness, case: Case, rng: random.Random) -> None:
    """Cuts an answer off in several places; each time the rest must be that of the unbroken run."""
    prompt = harness.renderer.render(case.conversation)
    whole = await harness.answer(prompt, case.params(), [], "kept")
    for cut in cuts(len(whole.token_ids), rng):
        # With what this engine has kept of it, or as in another one.
        salt = rng.choice(["kept", uuid.uuid4().hex])
        resumed = await harness.answer(prompt, case.params(), whole.token_ids[:cut], salt)
        assert resumed[:3] == whole[:3], (cut, salt)
        assert resumed.num_prompt_logprobs == (0 if cut else whole.num_prompt_logprobs)
        expected = whole.logprobs[cut:]
        assert [token_id for token_id, _ in resumed.logprobs] == [token_id for token_id, _ in expected]
        differences = [
            abs(ours - theirs) for (_, ours), (_, theirs) in zip(resumed.logprobs, expected, strict=True)
        ]
        assert max(differences, default=0.0) < MAX_DIFFERENCE, (cut, salt)
