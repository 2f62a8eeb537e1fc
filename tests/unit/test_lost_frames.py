"""What a network, or a mixture of versions, can do to frames: the text is right, or the request fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve_app.messages import GenerateRequest
from serve_app.step_frames import AnswerSequence
from tests.unit.test_vllm_adapter import Service, events_of, module_service, openai_error, service

__all__ = ["module_service", "service"]
pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "one two three four five six seven eight"
Tokens = list[int]
Step = tuple[int, Tokens]


def script(service: Service, reorder: Callable[[list[Step]], list[Step]]) -> Callable[..., Awaitable[int]]:
    """An engine that sends each token in a frame of its own, as `reorder` has it."""
    header: Tokens = service.engine._encoding.encode("<|channel|>final<|message|>", allowed_special="all")
    tokens: Tokens = [*header, *service.engine._encoding.encode(TEXT), 200002]

    async def generate(request: GenerateRequest, _: AnswerSequence) -> int:
        from vllm.v1.engine import EngineCoreOutput, FinishReason

        link = service.engine.sender.open(request.reply_to)
        try:
            for position, step in reorder([(index, [token]) for index, token in enumerate(tokens)]):
                ends = FinishReason.STOP if step[-1] == 200002 else None
                output = EngineCoreOutput("engine-0", step, finish_reason=ends)
                link.add(request.call, position, output, len(step))
                service.engine.sender.flush()
                # Each in a frame of its own: what waits for the connection would be merged.
                while link._frame or link._sending:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            return len(tokens)
        finally:
            service.engine.sender.release(link)

    return generate


def repeated(steps: list[Step]) -> list[Step]:
    return [step for step in steps for _ in range(2)]


def repeated_late(steps: list[Step]) -> list[Step]:
    return [*steps[:5], steps[1], *steps[5:], steps[2]]


def overlapping(steps: list[Step]) -> list[Step]:
    """The first half once more, as one: a sender that merged what it had sent already."""
    half = [token for _, step in steps[:5] for token in step]
    return [*steps[:5], (0, half), *steps[5:]]


def lost_in_the_middle(steps: list[Step]) -> list[Step]:
    return [*steps[:5], *steps[6:]]


def lost_at_the_start(steps: list[Step]) -> list[Step]:
    return steps[1:]


def swapped(steps: list[Step]) -> list[Step]:
    return [*steps[:5], steps[6], steps[5], *steps[7:]]


def lost_at_the_end(steps: list[Step]) -> list[Step]:
    return steps[:-1]


def all_lost(_: list[Step]) -> list[Step]:
    return []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mishap", [repeated, repeated_late, overlapping])
def test_the_text_is_right(
    service: Service, monkeypatch: pytest.MonkeyPatch, mishap: Any, stream: bool
) -> None:
    monkeypatch.setattr(service.engine.core, "_generate", script(service, mishap))
    answer = service.chat(stream=stream)
    if stream:
        deltas = [choice["delta"] for event in events_of(answer) for choice in event["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == TEXT
    else:
        assert answer.json()["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "mishap", [lost_in_the_middle, lost_at_the_start, swapped, lost_at_the_end, all_lost]
)
def test_the_request_fails(
    service: Service, monkeypatch: pytest.MonkeyPatch, mishap: Any, stream: bool
) -> None:
    monkeypatch.setattr("serve_app.vllm_adapter.remote_llm.LAST_FRAME_TIMEOUT_S", 0.1)
    monkeypatch.setattr(service.engine.core, "_generate", script(service, mishap))
    answer = service.chat(stream=stream)
    if answer.status_code == 200:
        *events, last = events_of(answer)
        shown = "".join(e["choices"][0]["delta"].get("content") or "" for e in events)
        assert TEXT.startswith(shown)
        assert last["error"]["code"] == 503
        message = last["error"]["message"]
    else:
        status, message = openai_error(answer)
        assert status == 503
    assert "can be sent again" in message


def test_frames_of_requests_that_have_ended_are_left_out(service: Service) -> None:
    from vllm.v1.engine import EngineCoreOutput

    engine = service.engine

    async def late() -> None:
        link = engine.sender.open(engine.core._receiver.address)
        for call in (0, 10**6):
            link.add(call, 0, EngineCoreOutput("engine-0", [1, 2]), 2)
        engine.sender.flush()
        engine.sender.release(link)

    service.run(late())
    assert service.chat().json()["choices"][0]["message"]["content"] == "Hello there, friend."
