"""The timed engine with real sockets, without Ray. Nothing here depends on how fast the machine is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from serve_app.config import AppConfig
from serve_app.demo import CACHE
from serve_app.demo.unfolding import unfold
from serve_app.engine_health import EngineHealth
from serve_app.stall import CANARY_AFTER_S, EngineWatch
from serve_app.timed import engine as timed_engine
from serve_app.timed.answers import (
    HEADER,
    LENGTH,
    MAX_TOKENS,
    MIN_TOKENS,
    RETURN,
    STOP,
    WORD_CHARACTERS,
    WORDS,
    Answer,
    Output,
    Vocabulary,
    encode,
    merge,
)
from serve_app.timed.engine import StepClock, TimedEngine
from serve_app.transport import connections
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver
from tests.clocks import ManualClock

MAX_MODEL_LEN = 1024
RATE = 250.0


def make_request(call: int = 0, prompt: list[int] | None = None, **params: Any) -> GenerateRequest:
    from serve_app.transport.curve import CurveAddress

    return GenerateRequest(
        request_id=f"chatcmpl-{call}-abc",
        prompt_token_ids=prompt or [1, 2, 3],
        sampling_params=msgspec.msgpack.encode({"temperature": 0, "stop": []} | params),
        reply_to=CurveAddress("", b""),
        sequence=call,
    )


def answer_of(request: GenerateRequest, num_tokens: int = 1) -> tuple[list[int], int | None]:
    answer, tokens = Answer(request, Vocabulary(MAX_MODEL_LEN)), []
    while not answer.is_complete:
        output = answer.take(num_tokens)
        tokens += output.new_token_ids
        assert (output.finish_reason is None) == (not answer.is_complete)
    return tokens, output.finish_reason


class Bench:
    """An engine and the ingress's end of its frames."""

    def __init__(self, **engine: Any) -> None:
        timed = {"steps_per_second": RATE} | engine.pop("timed", {})
        base = {"max_concurrent_requests": 4, "max_model_len": MAX_MODEL_LEN, "num_gpus": 0}
        self.config = AppConfig.model_validate({"engine": base | {"timed": timed} | engine})
        self.frames: list[dict[int, list[int]]] = []
        self.reasons: dict[int, int | None] = {}
        self.before: dict[int, int] = {}
        self.raw: list[Any] = []
        self.arrival = asyncio.Condition()

    async def __aenter__(self) -> Bench:
        self.receiver = FrameReceiver("127.0.0.1")
        self.engine = TimedEngine.__new__(TimedEngine)
        await self.engine.__init__(self.config, new_watchdog=lambda: None)  # type: ignore[misc]
        self.reader = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_reading()
        self.engine.close()

    async def stop_reading(self) -> None:
        if not self.reader.done():
            self.reader.cancel()
            with suppress(asyncio.CancelledError):
                await self.reader
            self.receiver.close()

    async def read(self) -> None:
        decoder = msgspec.msgpack.Decoder(list[Output])
        while True:
            for header, parts in await self.receiver.receive():
                outputs = decoder.decode(parts[0])
                self.raw.append([bytes(part) for part in parts])
                frame: dict[int, list[int]] = {}
                for call, position, output in zip(header.sequences, header.positions, outputs, strict=True):
                    assert position == self.before[call] + len(self.tokens(call)) + len(frame.get(call, []))
                    frame[call] = frame.get(call, []) + output.new_token_ids
                    self.reasons[call] = output.finish_reason
                self.frames.append(frame)
            async with self.arrival:
                self.arrival.notify_all()

    def tokens(self, call: int) -> list[int]:
        return [token for frame in self.frames for token in frame.get(call, [])]

    async def until(self, condition: Any) -> None:
        async with self.arrival:
            await self.arrival.wait_for(condition)

    def generate(self, call: int = 0, before: Sequence[int] = (), **options: Any) -> asyncio.Task[int]:
        request = msgspec.structs.replace(
            make_request(call, **options), reply_to=self.receiver.address, output_token_ids=list(before)
        )
        self.before[call] = len(before)
        return asyncio.create_task(self.engine.generate(request))


# --- answers -------------------------------------------------------------------------------------------


def test_an_answer_with_a_limit() -> None:
    tokens, reason = answer_of(make_request(max_tokens=20))
    assert len(tokens) == 20
    assert tokens[:3] == HEADER
    assert reason == LENGTH
    begin = WORDS.index(tokens[3])
    assert tokens[3:] == [WORDS[(begin + i) % len(WORDS)] for i in range(17)]


def test_an_answer_without_a_limit_ends_by_itself() -> None:
    rest = MAX_MODEL_LEN - 3
    for limit in (rest, None, 10 * rest):
        tokens, reason = answer_of(make_request(max_tokens=limit))
        assert MIN_TOKENS <= len(tokens) < MAX_TOKENS
        assert tokens[-1] == RETURN
        assert reason == STOP
    assert answer_of(make_request(max_tokens=rest, ignore_eos=True))[1] == LENGTH
    assert len(answer_of(make_request(max_tokens=rest, ignore_eos=True))[0]) == rest
    assert len(answer_of(make_request(max_tokens=rest, min_tokens=400))[0]) == 400


def test_a_missing_limit_is_vllms_default() -> None:
    assert len(answer_of(make_request())[0]) == 16


def test_pieces_do_not_change_the_answer() -> None:
    for length in (1, 2, 3, 4, 50):
        whole = answer_of(make_request(max_tokens=length), 1000)
        for num_tokens in (1, 2, 3, 5):
            assert answer_of(make_request(max_tokens=length), num_tokens) == whole
        assert len(whole[0]) == length


@pytest.mark.parametrize("params", [{"max_tokens": 40}, {"max_tokens": None}])
def test_another_engine_goes_on(params: dict[str, Any]) -> None:
    whole, reason = answer_of(make_request(**params))
    for num_before in range(len(whole)):
        before = whole[:num_before]
        request = msgspec.structs.replace(make_request(**params), output_token_ids=before)
        assert answer_of(request, 3) == (whole[num_before:], reason)


def test_the_prompt_decides_and_nothing_else() -> None:
    assert answer_of(make_request(1, max_tokens=40)) == answer_of(make_request(2, max_tokens=40))
    first_words = {answer_of(make_request(prompt=[p], max_tokens=4))[0][3] for p in range(100)}
    assert len(first_words) == len(WORDS)


def test_the_last_piece_of_a_full_context() -> None:
    prompt = [7] * (MAX_MODEL_LEN - 1)
    assert answer_of(make_request(prompt=prompt, max_tokens=1)) == ([HEADER[0]], LENGTH)


def test_merging() -> None:
    merged = merge(Output("a", [1]), Output("a", [2, 3], finish_reason=STOP))
    assert merged == Output("a", [1, 2, 3], finish_reason=STOP)


def test_words_are_tokens_of_equal_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openai_harmony

    unfold(CACHE)
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(CACHE / "vocabulary"))
    encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
    assert {len(encoding.decode([word])) for word in WORDS} == {WORD_CHARACTERS}
    assert encoding.decode(HEADER) == "<|channel|>final<|message|>"
    assert encoding.decode([RETURN]) == "<|return|>"


@pytest.mark.filterwarnings("ignore")  # vLLM is imported
def test_vllm_reads_what_is_sent() -> None:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, FinishReason

    from serve_app.vllm_adapter import wire

    decode = wire.new_decoder()
    sent = [Output("a", [1, 2]), Output("b", [3], finish_reason=LENGTH), Output("c", [], finish_reason=STOP)]
    assert decode(encode(sent)) == [
        EngineCoreOutput("a", [1, 2]),
        EngineCoreOutput("b", [3], finish_reason=FinishReason.LENGTH),
        EngineCoreOutput("c", [], finish_reason=FinishReason.STOP),
    ]
    for params in (SamplingParams(), SamplingParams(max_tokens=50, ignore_eos=True), SamplingParams(n=3)):
        request = msgspec.structs.replace(make_request(), sampling_params=msgspec.msgpack.encode(params))
        assert len(answer_of(request)[0]) == params.max_tokens


# --- the engine ----------------------------------------------------------------------------------------


async def test_one_output_a_step() -> None:
    async with Bench() as bench:
        assert await bench.generate(max_tokens=30) == 30
        await bench.until(lambda: len(bench.tokens(0)) == 30)
        assert bench.tokens(0) == answer_of(make_request(max_tokens=30))[0]
        assert bench.reasons == {0: LENGTH}
        num_steps, _ = await bench.engine.num_steps()
        assert num_steps == 30
        assert await bench.engine.num_unfinished_requests() == 0


async def test_going_on_at_the_same_rate() -> None:
    whole, _ = answer_of(make_request(max_tokens=20))
    async with Bench() as bench:
        assert await bench.generate(before=whole[:15], max_tokens=20) == 20
        await bench.until(lambda: bench.tokens(0) == whole[15:])
        assert bench.reasons == {0: LENGTH}
        num_steps, _ = await bench.engine.num_steps()
        assert num_steps == 5


async def test_two_and_a_half_tokens_a_step(tmp_path: Path) -> None:
    async with Bench(timed={"tokens_per_step": 2.5, "record": str(tmp_path)}) as bench:
        assert await bench.generate(max_tokens=11) == 11
    [line] = read_record(tmp_path)
    assert [num_tokens for _, num_tokens in line["emissions"]] == [2, 3, 2, 3, 1]


async def test_requests_share_the_steps() -> None:
    async with Bench() as bench:
        calls = [bench.generate(call, max_tokens=20) for call in range(4)]
        assert await asyncio.gather(*calls) == [20] * 4
        assert (await bench.engine.num_steps())[0] == 20
        await bench.until(lambda: all(len(bench.tokens(call)) == 20 for call in range(4)))
        assert all(len(frame) == 4 for frame in bench.frames)


async def test_more_requests_than_run_at_once_wait_in_order(tmp_path: Path) -> None:
    async with Bench(max_concurrent_requests=2, timed={"record": str(tmp_path)}) as bench:
        calls = [bench.generate(call, max_tokens=5) for call in range(5)]
        await asyncio.sleep(0)
        assert await bench.engine.num_unfinished_requests() == 5
        assert await asyncio.gather(*calls) == [5] * 5
        assert (await bench.engine.num_steps())[0] == 15
    starts = [line["emissions"][0][0] for line in read_record(tmp_path)]
    assert starts[0] == starts[1] < starts[2] == starts[3] < starts[4]


async def test_prompts_take_time_one_after_another(tmp_path: Path) -> None:
    timed = {"prefill_tokens_per_second": 1000, "record": str(tmp_path)}
    async with Bench(timed=timed) as bench:
        await asyncio.gather(*(bench.generate(i, prompt=[i] * 50, max_tokens=2) for i in range(3)))
    lines = read_record(tmp_path)
    waits_s = [(line["emissions"][0][0] - lines[0]["received_ns"]) / 1e9 for line in lines]
    assert all(wait_s >= 0.05 * (i + 1) for i, wait_s in enumerate(waits_s))


async def test_cancelling_frees_the_place_at_once(tmp_path: Path) -> None:
    async with Bench(max_concurrent_requests=1, timed={"record": str(tmp_path)}) as bench:
        first, second, third = (bench.generate(call, max_tokens=900) for call in range(3))
        await bench.until(lambda: len(bench.tokens(0)) > 2)
        for call in (second, first):  # one that waits, one that runs
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert await bench.engine.num_unfinished_requests() == 1
        await bench.until(lambda: len(bench.tokens(2)) > 2)
        assert not bench.tokens(1)
        third.cancel()
        with suppress(asyncio.CancelledError):
            await third
    emitted = [sum(n for _, n in line["emissions"]) for line in read_record(tmp_path)]
    assert emitted[0] == 0  # the one that waited
    assert all(num_tokens > 2 for num_tokens in emitted[1:])


async def test_it_rests_and_goes_on() -> None:
    async with Bench() as bench:
        for call in range(3):
            assert await bench.generate(call, max_tokens=3) == 3
            await asyncio.sleep(5 / RATE)
        assert (await bench.engine.num_steps())[0] == 9
        await bench.engine.check_health()


async def test_an_ingress_that_does_not_read_ends_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.errors import IngressBlockedError
    from serve_app.transport import sockets as frame_sockets

    monkeypatch.setattr(frame_sockets, "MAX_WAITING_TOKENS", 5)

    async with Bench() as bench:
        await bench.stop_reading()
        with pytest.raises(IngressBlockedError):
            await bench.generate(max_tokens=500)
        assert await bench.engine.num_unfinished_requests() == 0


async def test_an_ingress_that_is_gone_ends_its_requests_whether_they_run_or_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "RECONNECT_S", 0.3)
    async with Bench() as bench:
        stays = FrameReceiver("127.0.0.1")
        other = msgspec.structs.replace(make_request(9, max_tokens=500), reply_to=stays.address)
        whole = asyncio.create_task(bench.engine.generate(other))
        lost = [bench.generate(call, max_tokens=1000) for call in range(6)]
        await bench.until(lambda: len(bench.frames) > 5)
        assert await bench.engine.num_unfinished_requests() == 7
        await bench.stop_reading()
        assert all(0 <= num_tokens < 1000 for num_tokens in await asyncio.gather(*lost))
        assert await bench.engine.num_unfinished_requests() == 1
        assert bench.engine.watch.num_running == 1
        assert await whole == 500
        stays.close()


async def test_parameters_that_are_not_vllms() -> None:
    async with Bench() as bench:
        request = msgspec.structs.replace(make_request(), sampling_params=b"\xc1")
        with pytest.raises(msgspec.MsgspecError):
            await bench.engine.generate(request)
        assert await bench.engine.num_unfinished_requests() == 0


@pytest.mark.parametrize("has_request", [False, True])
async def test_a_hang_is_found_with_a_request_and_without(has_request: bool) -> None:
    left: list[int] = []
    clock = ManualClock()
    async with Bench() as bench:
        engine = bench.engine
        engine.watch = EngineWatch(clock.perf_counter)
        engine._health = EngineHealth(engine, 5, left.append)
        await engine.generate_token()
        await engine.hang()
        request = bench.generate(max_tokens=5) if has_request else None
        await asyncio.sleep(0)  # it begins
        num_checks = 0
        while not left:
            clock.sleep(1)
            await engine.check_health()
            await asyncio.sleep(0)
            num_checks += 1
        assert left == [1]
        assert num_checks == (5 if has_request else CANARY_AFTER_S + 5)
        if request:
            request.cancel()
            with suppress(asyncio.CancelledError):
                await request


def read_record(folder: Path) -> list[dict[str, Any]]:
    [file] = folder.iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_the_record(tmp_path: Path) -> None:
    before_ns = time.monotonic_ns()
    async with Bench(timed={"record": str(tmp_path / "made")}) as bench:
        await bench.generate(7, max_tokens=4)
        assert len(read_record(tmp_path / "made")) == 1  # nobody waits for the file
    [line] = read_record(tmp_path / "made")
    assert line["request_id"] == "chatcmpl-7-abc"
    times = [line["received_ns"], *(at for at, _ in line["emissions"])]
    assert times == sorted(times)
    assert before_ns < times[0] <= times[-1] < time.monotonic_ns()
    assert [n for _, n in line["emissions"]] == [1, 1, 1, 1]
    assert line["steps"] == 4


# --- the clock -----------------------------------------------------------------------------------------


class FakeTime:
    """Time that passes only in `sleep` and by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(timed_engine, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(timed_engine, "asyncio", SimpleNamespace(sleep=self.sleep))

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


async def test_the_clock_keeps_to_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    clock = StepClock(10)
    clock.resume()

    moments = []
    for lag in (0.0, 0.03, 0.09, 0.0, 0.25, 0.0):
        await clock.wait()
        moments.append(round(fake.now - 1000, 6))
        fake.now += lag
    assert moments == [0.0, 0.1, 0.2, 0.3, 0.4, 0.7]
    assert (clock.num_steps, clock.num_skipped) == (6, 2)
    fake.now += 100
    clock.resume()  # a rest is no delay
    await clock.wait()
    assert (clock.num_steps, clock.num_skipped) == (7, 2)
