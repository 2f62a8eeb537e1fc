"""The rounds of a warm-up on an engine that says what a test wants."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.warm_up.rounds import FEATURES, Round, WarmUpRequest

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's

ROUNDS = [
    Round("alone", (WarmUpRequest(1, 8, 4),)),
    Round(
        "two",
        (WarmUpRequest(2, 8, 4, FEATURES["JSON schema"]), WarmUpRequest(3, 8, 4, FEATURES["top_p"])),
        "batches",
    ),
]


class Llm:
    """In place of an `AsyncLLM`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.requests: list[Any] = []
        self.num_resets = 0

    async def generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncIterator[int]:
        self.requests.append((params, request_id, options))
        await asyncio.sleep(0)
        if self.error and params.temperature:
            raise self.error
        yield 1

    async def reset_prefix_cache(self) -> None:
        self.num_resets += 1


async def run(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Returns what was refused, and the lines of the log."""
    from serve_app.vllm_adapter import warming

    lines: list[str] = []

    class Logger:
        def info(self, text: str, *values: Any) -> None:
            lines.append(text % values)

        warning = info

    monkeypatch.setattr(warming, "logger", Logger())
    made: Any = llm
    return await warming.warm_up(made, ROUNDS), lines


async def test_rounds_run_and_the_log_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = Llm()
    refused, [first, second, line] = await run(llm, monkeypatch)
    assert refused == []
    assert first.startswith("warm-up: first: 1 rounds in ")
    assert second.startswith("warm-up: batches: 1 rounds in ")
    assert line.startswith("warm-up: 2 rounds with 3 requests in ")
    assert "two" in line
    assert llm.num_resets == 1
    assert len({request_id for _, request_id, _ in llm.requests}) == 3
    for params, _, options in llm.requests:
        # Structured output must begin at once, and may end; everything else must not.
        assert options == {"reasoning_ended": True}
        assert params.ignore_eos == (params.structured_outputs is None)


async def test_what_vllm_refuses_no_user_can_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    refused, lines = await run(Llm(ValueError("not supported")), monkeypatch)
    assert refused == ["{'temperature': 1.0, 'top_p': 0.9}"]
    assert lines[-1] == "warm-up: vLLM refuses {'temperature': 1.0, 'top_p': 0.9}: not supported"


async def test_a_failing_round_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="the engine died"):
        await run(Llm(RuntimeError("the engine died")), monkeypatch)
