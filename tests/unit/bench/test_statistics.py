"""Figures against answers that are known."""

import numpy as np
import pytest

from serve_app.bench import statistics
from serve_app.bench.load import Load, Slo
from serve_app.bench.protocol import Share
from serve_app.bench.request_record import RequestRecord
from serve_app.bench.result import Ceiling, Round
from serve_app.bench.statistics import Distribution

S = 1_000_000_000
MS = 1_000_000


def record(
    start_ns: int, arrivals_ns: list[int], *, tokens: int | None = None, error: str | None = None
) -> RequestRecord:
    return RequestRecord(
        "bench-1-0",
        start_ns,
        start_ns + MS,
        arrivals_ns[-1] if arrivals_ns else start_ns + S,
        200,
        error,
        prompt_tokens=10,
        completion_tokens=tokens,
        arrivals_ns=np.array(arrivals_ns, np.int64),
        num_chars=np.ones(len(arrivals_ns), np.int64),
        num_events=np.ones(len(arrivals_ns), np.int64),
    )


def share(*records: RequestRecord, cpu_s: float = 0.1, lag_s: float = 0.001, sent_ns: int = 0) -> Share:
    return Share(list(records), cpu_s, 1.0, np.array([lag_s]), sent_ns)


def test_a_distribution() -> None:
    found = Distribution.of(range(1, 102))
    assert found == Distribution(count=101, mean=51, p50=51, p90=91, p99=100, max=101)
    assert Distribution.of([]) is None
    assert Distribution.of([3.0]) == Distribution(1, 3, 3, 3, 3, 3)


def test_times_of_a_request() -> None:
    one = record(1 * S, [2 * S, 2 * S + 100 * MS, 2 * S + 400 * MS], tokens=8)
    assert one.ttft_s == 1
    assert one.e2e_s == pytest.approx(1.4)
    assert one.tpot_s == pytest.approx(0.4 / 7)
    assert one.gaps_s.tolist() == pytest.approx([0.1, 0.3])


def test_goodput_wants_all_demands_at_once() -> None:
    quick = record(0, [S, 2 * S], tokens=2)
    late = record(0, [3 * S, 4 * S], tokens=2)
    slow = record(0, [S, 9 * S], tokens=2)
    failed = record(0, [S, 2 * S], tokens=2, error="reset")
    short = record(0, [S], tokens=1)
    slo = Slo(ttft_s=1.5, tpot_s=2)
    kept = [statistics.is_good(one, slo) for one in (quick, late, slow, failed, short)]
    assert kept == [True, False, False, False, True]
    found = statistics.goodput([quick, late, slow, failed, short], slo, 4.0)
    assert found == statistics.Goodput(requests_per_s=0.5, share=0.4)
    assert statistics.goodput([quick], Slo(), 4.0) is None
    assert not statistics.is_good(quick, Slo(e2e_s=1.9))


def test_tokens_are_counted_by_usage_where_there_is_one() -> None:
    with_usage, without = record(0, [S], tokens=4), record(0, [S, 2 * S])
    assert statistics.tokens_from([with_usage]) == "usage"
    assert statistics.tokens_from([without]) == "chunks"
    assert statistics.tokens_from([with_usage, without]) == "usage and chunks"


def test_rate_within_a_window_spreads_tokens_over_chunks() -> None:
    one = record(0, [1 * S, 2 * S, 3 * S, 4 * S], tokens=8)
    assert statistics.rate_within([one], 0, 2 * S) == pytest.approx(1.0)
    assert statistics.rate_within([one], 0, 5 * S) == pytest.approx(8 / 5)
    assert statistics.rate_within([one], S, S) is None


def test_a_round() -> None:
    load = Load(url="x", concurrency=2, slo=Slo(ttft_s=1))
    good = record(0, [1 * S, 2 * S, 4 * S], tokens=6)
    late = record(0, [2 * S, 4 * S], tokens=2)
    refused = record(0, [], error="HTTP 503")
    refused.message = "full"
    shares = [share(good, sent_ns=3 * S), share(late, refused, sent_ns=2 * S)]
    one = Round.of(load, 7, 0, shares, None)
    assert (one.num_requests, one.num_completed, one.duration_s) == (3, 2, 4)
    assert (one.errors, one.error_messages) == ({"HTTP 503": 1}, {"HTTP 503": "full"})
    assert (one.requests_per_s, one.output_tokens, one.output_tokens_per_s) == (0.5, 8, 2)
    # Until the first worker sends no more, at 2 s: two of three chunks were at or after that.
    assert one.output_tokens_per_s_at_full_load == pytest.approx(2 / 2)
    assert one.tokens_per_chunk == pytest.approx(8 / 5)
    assert one.ttft_s is not None
    assert one.ttft_s.mean == 1.5
    assert one.itl_s is not None
    assert one.itl_s.max == 2
    assert one.goodput == statistics.Goodput(0.25, 1 / 3)
    assert one.prompt_tokens_mean == 10
    assert one.generator.send_delay_s is not None
    assert one.generator.send_delay_s.p50 == pytest.approx(0.001)
    assert one.warnings == ()


def test_a_round_without_an_answer() -> None:
    load = Load(url="x", rate=1)
    for shares in ([share()], [share(record(0, [], error="refused"))]):
        one = Round.of(load, 7, 0, shares, None)
        assert (one.num_completed, one.ttft_s, one.itl_s, one.output_tokens_per_s) == (0, None, None, 0)


def test_a_round_says_when_the_generator_was_the_bottleneck() -> None:
    load = Load(url="x", concurrency=2)
    one = record(0, [S // 2, S], tokens=2)
    busy = Round.of(load, 7, 0, [share(one, cpu_s=0.9), share(cpu_s=0.2)], None)
    assert [text for text in busy.warnings if "bottleneck" in text and "90%" in text]
    ceiling = Ceiling(chunks_per_cpu_s=3.0, cpu_us_per_chunk=1e6 / 3, chunks_per_receipt=1.0)
    near = Round.of(load, 7, 0, [share(one)], ceiling)
    assert [text for text in near.warnings if "limit" in text and "67%" in text]
    assert Round.of(load, 7, 0, [share(one), share()], ceiling).warnings == ()
    starved = Round.of(load, 7, 0, [share(one, lag_s=0.05)], None)
    assert ["50 ms late" in text for text in starved.warnings] == [True]


def test_answers_without_content_are_noted() -> None:
    load = Load(url="x", concurrency=1)
    one = Round.of(load, 7, 0, [share(record(0, []))], None)
    assert one.num_without_content == 1
    assert "had no content" in one.warnings[0]
