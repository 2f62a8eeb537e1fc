"""A `RemoteEngine` over a script in place of the engine replicas: real sockets, vLLM's structs."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from serve_app import migration
from serve_app.admission.slot_grants import SlotGrant
from serve_app.api.inbox import Inbox
from serve_app.api.sampling import Sampling
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver, FrameSender
from tests.unit.admission.grants import Owner
from tests.waiting import pass_until

MAX_MODEL_LEN = 100
PROMPT = [1, 2, 3]
TOKENS = list(range(10, 20))

Step = tuple[int, list[int]]
Generate = Callable[["Harness", GenerateRequest], Awaitable[int]]


class Harness:
    """A `RemoteEngine`, and the replicas that it calls: `generate`, given by the test."""

    def __init__(self, generate: Generate, max_engines: int) -> None:
        from serve_app.vllm_adapter import RemoteEngine, SamplingParamsEncoder
        from serve_app.vllm_adapter.wire import merge, new_encoder

        self.sender = FrameSender(new_encoder(), merge)
        self.requests: list[GenerateRequest] = []
        self.generate, self.owner = generate, Owner(moves_to="b")
        self.causes: list[str] = []
        self.remote = RemoteEngine(
            self._generate,
            FrameReceiver("127.0.0.1"),
            SamplingParamsEncoder({"top_p": 0.9}, MAX_MODEL_LEN),
            migration.Limits(max_engines, max_wait_s=600.0),
            migration.Report(self.causes.append),
        )

    async def _generate(self, request: GenerateRequest, grant: SlotGrant) -> int:
        await grant.granted()
        # It crosses a process boundary.
        self.requests.append(pickle.loads(pickle.dumps(request)))
        return await self.generate(self, request)

    def start(self, inbox: Inbox, sampling: Sampling | None = None, choice: int = 0) -> Any:
        sampling = sampling or Sampling()
        params = self.remote.sampling_params(sampling, None)
        grant = SlotGrant(self.owner, 0)
        grant.give("a")
        return self.remote.start("r", PROMPT, params, sampling, grant, inbox, choice, choice)

    async def send(self, request: GenerateRequest, steps: list[tuple[int, Any]]) -> None:
        """Sends outputs, each in a frame of its own, and its position."""
        link = self.sender.open(request.reply_to)
        try:
            for position, output in steps:
                link.add(request.sequence, position, output, len(output.new_token_ids))
                self.sender.flush()
                # What waits for the connection would be merged.
                await pass_until(lambda: not (link._frame or link._sending))
        finally:
            self.sender.release(link)


def output(*token_ids: int, ends: Any = None, **fields: Any) -> Any:
    """`ends` is a `FinishReason`, or True for the ordinary one."""
    from vllm.v1.engine import EngineCoreOutput, FinishReason

    reason = FinishReason.STOP if ends is True else ends
    return EngineCoreOutput("engine-0", list(token_ids), finish_reason=reason, **fields)


@asynccontextmanager
async def harness(generate: Generate, max_engines: int = 1) -> AsyncIterator[Harness]:
    one = Harness(generate, max_engines)
    try:
        yield one
        await pass_until(lambda: one.remote.num_open == 0)
    finally:
        one.remote.close()
        one.sender.close()


async def whole(inbox: Inbox, choice: int = 0) -> Any:
    """All that comes of a choice, as one step."""
    step = None
    while step is None or step.finish is None:
        new = (await inbox.take()).get(choice)
        if new and step:
            step.token_ids += new.token_ids
            step.finish, step.stop_token = new.finish, new.stop_token
            step.logprobs = (step.logprobs or []) + (new.logprobs or []) or None
        step = step or new
    return step


async def all_tokens(one: Harness, request: GenerateRequest) -> int:
    steps = [(index, output(token)) for index, token in enumerate(TOKENS[:-1])]
    await one.send(request, [*steps, (len(steps), output(TOKENS[-1], ends=True))])
    return len(TOKENS)
