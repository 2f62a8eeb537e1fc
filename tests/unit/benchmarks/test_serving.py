"""The arithmetic of `benchmarks.serving.cpu`; services are not started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.serving import chunks, picture, stub
from benchmarks.serving.points import Window, figures, kept_up
from benchmarks.serving.processes import Cores
from benchmarks.serving.record import Record
from serve_app.bench import RequestRecord
from serve_app.timed.answers import HEADER, WORD_CHARACTERS

MS = 1_000_000
WINDOW = Window(
    begin_ns=1000 * MS,
    end_ns=2000 * MS,
    cpu_s={"engine": 0.1, "ingress": 0.5, "proxy": 0.2, "rest": 0.01},
    client_cpu_s=0.1,
    busy_s=1.0,
)


def stream(number: int, late_ms: int, step_ms: int = 10) -> tuple[RequestRecord, Any]:
    """An answer of 300 tokens after its header, from 0 to 3 s, each `late_ms` after its emission."""
    emissions = np.arange(-len(HEADER), 300) * step_ms * MS
    arrivals = emissions[len(HEADER) :] + late_ms * MS
    ones = np.ones(len(arrivals), np.int64)
    return RequestRecord(
        request_id=f"bench-5-{number}",
        start_ns=0,
        sent_ns=0,
        end_ns=int(arrivals[-1]),
        status=200,
        arrivals_ns=arrivals,
        num_chars=ones * WORD_CHARACTERS,
        num_events=ones,
    ), emissions


def test_figures() -> None:
    (first, emitted), (second, emitted_too) = stream(0, 2), stream(1, 4)
    emissions = {first.request_id: emitted, second.request_id: emitted_too}
    point = figures([first, second], emissions, WINDOW, 2)
    assert point["tokens_per_s"] == point["emitted_tokens_per_s"] == 200
    assert point["streams_open_all_the_time"] == 2
    assert point["added_latency_ms"] == {"p50": 3.0, "p90": 4.0, "p99": 4.0}
    assert point["cpu_us_per_token"] == {"engine": 500, "ingress": 2500, "proxy": 1000, "rest": 50}
    assert point["cpu_us_per_token_without_rest"] == 4000
    assert point["tokens_per_chunk"] == 1
    assert point["foreign_core_share"] == pytest.approx(0.09)
    assert kept_up(point)
    json.dumps(point)


def test_late_and_failed_streams_are_no_keeping_up() -> None:
    late, emitted = stream(0, 101)
    assert not kept_up(figures([late], {late.request_id: emitted}, WINDOW, 1))
    good, emitted = stream(0, 2)
    failed = RequestRecord("bench-5-1", 0, 0, 5, 503, error="HTTP 503", message="full")
    point = figures([good, failed], {good.request_id: emitted}, WINDOW, 2)
    assert point["errors"] == {"HTTP 503": 1}
    assert point["error_messages"] == {"HTTP 503": "full"}
    assert not kept_up(point)


def test_answers_without_a_record_are_counted() -> None:
    point = figures([stream(0, 2)[0]], {}, WINDOW, 1)
    assert point["answers_without_record"] == 1
    assert not kept_up(point)


def test_the_record_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"

    def line(name: str, steps: int, skipped: int) -> str:
        emissions = [[5, 2], [9, 1]]
        entry = {"request_id": name, "emissions": emissions, "steps": steps, "skipped": skipped}
        return json.dumps(entry) + "\n"

    record = Record(tmp_path)
    file.write_text(line("chatcmpl-bench-1-7-ab", 10, 0) + line("first", 12, 3)[:10])
    found, skipped_share = record.read(1)
    assert {name: times.tolist() for name, times in found.items()} == {"bench-1-7": [5, 5, 9]}
    assert skipped_share == 0
    with file.open("a") as more:
        more.write(line("first", 12, 3)[10:] + line("bench-1-8", 15, 5))
    found, skipped_share = record.read(1)
    assert list(found) == ["bench-1-8"]
    assert skipped_share == 0.5


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert Cores.of_this_machine(4) == Cores((0, 1, 2, 3), tuple(range(4, 16)))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert Cores.of_this_machine(1) == Cores.of_this_machine(2) == Cores((0,), (1,))


async def test_ready_made_chunks() -> None:
    engine = stub.StreamingEngine.__new__(stub.StreamingEngine)
    config = stub.config(max_concurrent_requests=2, tokens_per_step=2.5, steps_per_second=250, record=None)
    await engine.__init__(config)  # type: ignore[misc]  # as Serve does
    try:
        *events, end, done = [chunk async for chunk in chunks.chat_chunks(engine, "bench-1-1", 10)]
    finally:
        engine.close()
    assert done == "data: [DONE]\n\n"
    texts = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events]
    assert texts == ["", *(chunks.WORD * n for n in (2, 2, 3))]
    assert len(chunks.WORD) == WORD_CHARACTERS
    assert json.loads(end[6:])["usage"] == {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13}


def test_the_picture() -> None:
    (one, emitted) = stream(0, 2)
    point = figures([one], {one.request_id: emitted}, WINDOW, 1)
    arm = {
        "name": "a & b",
        "tokens_per_step": 1.0,
        "max_tokens_per_s": 12345,
        "at_the_most": point,
        "at_shares_of_it": {"50%": point},
    }
    drawn = picture.draw({"machine": {"model": "a processor"}, "arms": [arm, arm]})
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "12,345" in drawn
