"""The simulation of `benchmarks.autoscaling`, in cases that can be computed by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from ray.serve._private import autoscaling_state

from benchmarks.autoscaling import choice, picture, policies, speed, traces
from benchmarks.autoscaling.autoscaler import Autoscaler, Clock, serve_reads
from benchmarks.autoscaling.parameters import Parameters, initial_replicas
from benchmarks.autoscaling.policies import Policy
from benchmarks.autoscaling.replica import Replica
from benchmarks.autoscaling.run import Run
from benchmarks.autoscaling.service import Service
from benchmarks.autoscaling.speed import MAX_RUNNING, Speed
from benchmarks.autoscaling.traces import Trace

# Ten tokens a second for each request, however many there are.
EVEN = Speed("even", "", (0.1,) * MAX_RUNNING)
PARAMETERS = Parameters(speed=EVEN, cap=2, queue=2, deadline_s=30, start_s=40, mean_answer_tokens=100)
PREFILL_S = speed.prefill_s(speed.PROMPT_TOKENS)


def trace(*arrivals_s: float, tokens: int = 100, duration_s: float = 600, rate: float = 0) -> Trace:
    return Trace("by hand", "", duration_s, rate, arrivals_s, (tokens,) * len(arrivals_s))


def policy(target: float = 1, up_s: float = 0, down_s: float = 60, **others: Any) -> Policy:
    return Policy("by hand", target, up_s, down_s, **{"max_replicas": 4, **others})


def play(arrivals: Trace, by: Policy | None = None, **others: Any) -> Run:
    return Service(arrivals, by or policy(), replace(PARAMETERS, **others)).run()


# --- engines -------------------------------------------------------------------------------------------


def test_points_are_joined_by_lines() -> None:
    values = speed.interpolated({1: 1.0, 3: 2.0, 64: 2.0})
    assert values[:4] == (1.0, 1.5, 2.0, 2.0)
    assert len(values) == 64


def test_the_speed_meets_what_was_measured_at_256_requests() -> None:
    """1,024 / 1,024 tokens, 28.5 ms between steps: 16,252 and 16,791 tokens/s."""
    assert 256 / speed.seconds_per_token(0.0285, 256, 1024, 1024) == pytest.approx(16500, rel=0.05)


def test_requests_share_a_replica() -> None:
    """Two at half the speed: the second ends when both have run for 2 s, and the first goes on alone."""
    replica = Replica(0, 0.0, 0.0, Speed("", "", (0.1, 0.2)), 1)
    replica.start(0.0, 7, 30, 0)
    assert replica.done_s == pytest.approx(3.0)
    replica.start(1.0, 8, 10, 0)
    assert replica.done_s == pytest.approx(3.0)  # 10 tokens at 0.2 s
    assert replica.finish() == 8
    assert replica.done_s == pytest.approx(4.0)  # 10 + 10 tokens are there, 10 more at 0.1 s
    assert replica.finish() == 7
    assert (replica.running, replica.done_s) == (0, float("inf"))


# --- the service ---------------------------------------------------------------------------------------


def test_a_load_below_the_limit_never_waits() -> None:
    """An answer takes 10 s and one request comes every 10 s: one runs at any time, one replica will do."""
    found = play(trace(*range(0, 600, 10)), policy(target=2))
    figures = found.figures()
    assert (figures["served"], figures["refused"]) == (60, {})
    assert figures["ttft_s"]["p99"] == round(PREFILL_S, 2)
    assert found.scalings == []
    assert figures["gpu_hours"] == round(600 / 3600, 2)
    assert figures["utilisation"] == pytest.approx(0.5)


def test_what_finds_no_room_waits_and_what_finds_the_queue_full_is_refused() -> None:
    """Two run, two wait for their ends, one is too many."""
    found = play(trace(0, 0, 0, 0, 0), policy(max_replicas=1))
    assert found.refusals == {"full": 1}
    assert sorted(found.started_s.values()) == [0, 0, 10, 10]
    _, ttft_s = found.ttft_s()
    assert ttft_s.tolist() == pytest.approx([PREFILL_S] * 2 + [10 + PREFILL_S] * 2)


def test_who_waits_too_long_is_refused() -> None:
    found = play(trace(0, 0, 1, tokens=1000), policy(max_replicas=1))
    assert found.refusals == {"deadline": 1}
    found = play(trace(0, 0, 1, tokens=300), policy(max_replicas=1))
    assert found.started_s[2] == 30


def test_a_burst_gets_the_replicas_that_it_needs() -> None:
    """Six at once with a target of two: three replicas, two of which have to start."""
    found = play(trace(*[60.0] * 6, tokens=1000), policy(target=2, up_s=20), queue=4, deadline_s=100)
    assert max(after for _, _, after in found.scalings) == 3
    up_s, before, _ = found.scalings[0]
    assert before == 1
    # A point is recorded every 6 s and reported every 10, and the need has to last for 20.
    assert 80 <= up_s <= 96
    assert [found.started_s[request] for request in range(2, 6)] == pytest.approx([up_s + 40] * 4)
    assert max(sample.starting for sample in found.samples) >= 1


def test_drains_cut_nothing() -> None:
    """Eight long answers, and a way down while the last of them run."""
    arrivals = [*[0.0] * 4, *[50.0] * 4]
    found = play(trace(*arrivals, tokens=1200, rate=0.4), policy(target=2, down_s=0), queue=8, deadline_s=200)
    assert any(after < before for _, before, after in found.scalings)
    assert any(sample.draining for sample in found.samples)
    assert len(found.finished_s) == len(arrivals)
    assert all(
        found.finished_s[request] - start_s == pytest.approx(120)
        for request, start_s in found.started_s.items()
    )


def test_everybody_is_served_or_refused_and_a_seed_repeats_itself() -> None:
    for one in traces.all_traces(0.05, seed=3, answer_tokens=100)[:2]:
        runs = [play(one) for _ in range(2)]
        assert runs[0].figures() == runs[1].figures()
        assert runs[0].samples == runs[1].samples
        figures = runs[0].figures()
        assert figures["served"] + sum(figures["refused"].values()) == figures["offered"] > 0
        assert sorted(runs[0].finished_s) == sorted(runs[0].started_s)


def test_from_zero_the_first_request_is_held() -> None:
    """It would be past its deadline, but there is nobody yet who could have served it."""
    found = play(trace(60), policy(min_replicas=0), deadline_s=5)
    [(up_s, _, after), *_] = found.scalings
    assert after == 1
    assert found.started_s[0] == pytest.approx(up_s + 40)
    assert found.refusals == {}
    assert [after for _, _, after in found.scalings][-1] == 0


def test_a_trace_begins_with_what_its_first_load_needs() -> None:
    full_rate = 2 * 10 / 100
    assert initial_replicas(2.5 * full_rate, policy(target=2), PARAMETERS) == 3
    assert initial_replicas(99, policy(target=2), PARAMETERS) == 4
    assert initial_replicas(99, policy(target=1e9), PARAMETERS) == 1


# --- Serve's code --------------------------------------------------------------------------------------


def test_serve_takes_the_time_from_the_simulation() -> None:
    clock = Clock()
    clock.now_s = 12.5
    with serve_reads(clock):
        assert autoscaling_state.time.time() == 12.5
    assert autoscaling_state.time is time


def test_serve_averages_and_delays() -> None:
    """12 requests wait for 30 s: at a target of 4, three replicas once that has been so for 20 s."""
    autoscaler, clock = Autoscaler(policy(target=4, up_s=20).autoscaling_config(), 1), Clock()
    replica = Replica(0, 0.0, 0.0, EVEN, 1)
    decisions = {}
    with serve_reads(clock):
        for second in range(100, 140):
            clock.now_s = float(second)
            autoscaler.handles[0].count(12, {replica.id: 0})
            if second % 6 == 0:
                autoscaler.record(0)
            if second % 10 == 0:
                autoscaler.push(0)
            decisions[second] = autoscaler.decide([replica.id], 1)
    assert autoscaler.total_requests() == pytest.approx(12)
    assert next(second for second, number in decisions.items() if number == 3) == 120
    assert decisions[119] == 1


def test_serve_counts_twice_what_goes_to_a_new_replica() -> None:
    """The queue as last recorded, beside what runs on a replica that no record has yet; and no look back."""
    autoscaler, clock = Autoscaler(policy(target=4).autoscaling_config(), 1), Clock()
    old, new = (Replica(number, 0.0, 0.0, EVEN, 1) for number in range(2))
    handle = autoscaler.handles[0]
    with serve_reads(clock):
        for second in range(100, 131, 6):
            clock.now_s = float(second)
            handle.count(4, {old.id: 4})
            autoscaler.record(0)
        clock.now_s = 132.0
        handle.count(0, {old.id: 4, new.id: 4})
        autoscaler.push(0)
        clock.now_s = 135.0
        autoscaler.decide([old.id, new.id], 2)
        assert autoscaler.total_requests() == pytest.approx(12)  # there are 8


def test_ray_serve_llm_never_asks_for_a_second_replica() -> None:
    assert policies.serve_llm_defaults().target == 1e9
    assert policies.serve_defaults().target == 2


# --- the choice ----------------------------------------------------------------------------------------


def figures(
    refused: float = 0.0, p99: float = 0.1, gpu_hours: float = 1.0, scalings: int = 0
) -> dict[str, Any]:
    return {
        "refused_share": refused,
        "ttft_s": {"p99": p99},
        "gpu_hours": gpu_hours,
        "scalings": {"up": scalings, "down": scalings},
    }


def entry(
    name: str, gpu_hours: float = 1.0, fast_refused: float = 0.05, p99: float = 0.1, scalings: int = 0
) -> choice.Entry:
    found = {trace: figures(p99=p99, gpu_hours=gpu_hours, scalings=scalings) for trace in choice.SLOW}
    found |= {trace: figures(refused=fast_refused, gpu_hours=gpu_hours) for trace in choice.FAST}
    return choice.entry(replace(policy(), name=name), found)


def test_the_rule() -> None:
    entries = [
        entry("refuses", 0.5, fast_refused=0.11),
        entry("waits", 0.5, p99=1.1),
        entry("flaps", 0.5, scalings=4),
        entry("dear", 2.0),
        entry("cheap", 1.0),
        entry("refuses less for the same", 1.005, fast_refused=0.04),
    ]
    names = [one["policy"]["name"] for one in choice.ranked(entries)]
    assert names == ["refuses less for the same", "cheap", "dear"]


def test_candidates_differ() -> None:
    first = choice.first_candidates()
    assert len(set(first)) == len(first) == 56
    second = choice.second_candidates(first[0])
    assert [one.upscale_delay_s for one in second if one in first] == [10]
    assert {one.target for one in first} == {32, 38, 44, 48, 51, 57, 64}


def test_the_picture() -> None:
    runs = {
        name: [
            play(replace(trace(0, 0, 30, 60), name=one), replace(policy(), name=name))
            for one in picture.TRACES
        ]
        for name in picture.COLORS
    }
    drawn = picture.draw(runs)
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "daily: requests a second" in drawn
