"""Whole runs with worker processes, against a small service."""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from serve_app.bench import BenchError, Load, Slo, picture, report, run
from serve_app.bench.__main__ import INTERRUPTED, main
from serve_app.bench.arrivals import poisson
from serve_app.bench.load import DEFAULT_DURATION_S
from serve_app.bench.options import load_of, parser, slo
from serve_app.bench.target import Target
from tests.unit.bench.services import (
    END,
    HEAD,
    PATIENCE_S,
    STREAM,
    Act,
    Request,
    chunked,
    document,
    serving,
    whole,
)

# So long that a worker has sent something by then, also on a busy machine.
DURATION_S = 1.5
ROOT = Path(__file__).parents[3]
MODELS = document(200, {"data": [{"id": "m"}]})


def answer(request: Request) -> list[bytes]:
    return MODELS if request.path == "/v1/models" else whole(*STREAM)


def test_a_closed_loop_in_two_processes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines: list[str] = []
    with serving(answer) as service:
        result = run(
            Load(
                url=service.url,
                concurrency=3,
                requests=11,
                rounds=2,
                warm_up=2,
                processes=2,
                seed=5,
                input_tokens=4,
                ceiling=False,
                trace=trace,
                slo=Slo(ttft_s=60),
            ),
            lines.append,
        )
    sent = [request for request in service.requests if request.path != "/v1/models"]
    assert result.model == "m"
    assert [one.num_completed for one in result.rounds] == [11, 11]
    assert [one.seed for one in result.rounds] == [5, 6]
    assert len(sent) == 2 + 22
    # No prompt twice, not even in the warm-up.
    assert len({request.body["messages"][0]["content"] for request in sent}) == 24
    assert {one.request_id for one in result.rounds[0].records} == {f"bench-5-{n}" for n in range(11)}
    assert result.rounds[0].output_tokens == 55
    assert result.rounds[0].tokens_from == "usage"
    assert result.rounds[0].goodput is not None
    assert result.rounds[0].goodput.share == 1
    assert len(result.rounds[0].generator.cpu_shares) == 2

    traced = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["round"] for line in traced] == [1] * 11 + [2] * 11
    by_id = {one.request_id: one for one in result.rounds[1].records}
    for line in traced[11:]:
        record = by_id[line["request_id"]]
        assert line["start_ns"] == record.start_ns
        assert [tuple(arrival) for arrival in line["arrivals"]] == list(
            zip(
                record.arrivals_ns.tolist(),
                record.num_chars.tolist(),
                record.num_events.tolist(),
                strict=True,
            )
        )
        assert line["start_ns"] <= line["arrivals"][0][0] <= line["end_ns"]
        assert sum(chars for _, chars, _ in line["arrivals"]) == 8
        assert (line["response_id"], line["status"], line["error"]) == ("chatcmpl-x", 200, None)


def test_a_closed_loop_keeps_so_many_open() -> None:
    def hold(_: Request) -> Iterator[bytes | Act]:
        yield from whole(*STREAM)[:-1]
        while len(service.requests) < 4:
            yield Act.PAUSE
        yield END

    with serving(hold) as service:
        one = run(
            Load(url=service.url, model="m", concurrency=4, requests=20, processes=1, ceiling=False)
        ).rounds[0]
    spans = sorted((record.sent_ns, record.end_ns) for record in one.records)
    assert len(spans) == 20
    # Whenever one begins, at most three others are open; at the start, all four begin.
    for begin_ns, _ in spans:
        assert sum(other <= begin_ns < end_ns for other, end_ns in spans) <= 4
    assert spans[3][0] < min(end_ns for _, end_ns in spans)


def test_a_duration_ends_a_closed_loop_and_open_answers_are_waited_for() -> None:
    with serving(answer) as service:
        load = Load(
            url=service.url, model="m", concurrency=2, duration_s=DURATION_S, input_tokens=4, ceiling=False
        )
        one = run(load).rounds[0]
    assert one.num_requests == one.num_completed >= 2
    last_s = max(record.start_ns - one.start_ns for record in one.records) / 1e9
    assert last_s < DURATION_S
    assert one.output_tokens_per_s_at_full_load is not None


def test_an_open_loop_sends_when_due_however_many_are_open() -> None:
    def answer_when_all_are_there(_: Request) -> Iterator[bytes | Act]:
        yield from (HEAD, *chunked(*STREAM[:3]))
        while len(service.requests) < 40:
            yield Act.PAUSE
        yield from (*chunked(*STREAM[3:]), END)

    with serving(answer_when_all_are_there) as service:
        load = Load(
            url=service.url,
            model="m",
            rate=200.0,
            requests=40,
            processes=2,
            seed=3,
            input_tokens=4,
            ceiling=False,
        )
        one = run(load).rounds[0]
    assert one.num_completed == 40
    # Each counts from when it was due, in whichever process.
    due_ns = poisson(200.0, 3, requests=40, duration_s=None) + one.start_ns
    assert [record.start_ns for record in one.records] == due_ns.tolist()
    assert all(record.sent_ns >= record.start_ns for record in one.records)
    assert one.output_tokens_per_s_at_full_load is None


@pytest.mark.slow
def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    out, svg, prompts = tmp_path / "out.json", tmp_path / "out.svg", tmp_path / "prompts.jsonl"
    prompts.write_text('{"messages": [{"role": "user", "content": "a"}]}\n\n')
    with serving(answer) as service:
        arguments = [service.url, "--concurrency=2", "--requests=4", "--rounds=2", "--slo=ttft=60s"]
        arguments += ["--json", str(out), "--picture", str(svg), "--prompt-file", str(prompts)]
        assert main([*arguments, "--extra-body", '{"temperature": 0}']) == 0
    shown = capsys.readouterr()
    assert "goodput, share" in shown.out
    assert "measuring what the generator itself can take" in shown.err
    assert {request.body.get("temperature") for request in service.requests if request.body} == {0}
    found = json.loads(out.read_text())
    assert found["command"].startswith(f"python -m serve_app.bench {service.url} --concurrency=2")
    assert found["load"]["model"] == "m"
    assert found["ceiling"]["chunks_per_cpu_s"] > 0
    assert found["rounds"][1]["ttft_s"]["count"] == 4
    assert "records" not in found["rounds"][0]
    assert set(found["versions"]) >= {"python", "uvloop", "httptools"}
    assert "sk-hidden" not in out.read_text() + shown.out + shown.err
    texts = [element.text for element in ElementTree.fromstring(svg.read_text()).iter() if element.text]
    assert {"Time to first token, cumulative share", "round 2"} <= set(texts)


def test_every_failure_is_a_failure_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    refusal = document(503, {"error": {"message": "no replica", "code": "not_ready"}})
    with serving(lambda _: refusal) as service:
        arguments = [service.url, "--model=m", "--concurrency=2", "--requests=3", "--no-ceiling"]
        assert main(arguments) == 1
        assert "3 times HTTP 503 not_ready: no replica" in capsys.readouterr().out
        assert main([service.url, "--concurrency=2", "--no-ceiling"]) == 2
        assert "no replica (HTTP 503)" in capsys.readouterr().err


def test_an_interrupt_ends_it_and_its_workers() -> None:
    def answer_slowly(request: Request) -> Iterator[bytes | Act]:
        is_asked.set()
        yield from (HEAD, Act.HANG)

    is_asked = threading.Event()
    with serving(answer_slowly) as service:
        command = [sys.executable, "-m", "serve_app.bench", service.url, "--model=m", "--concurrency=2"]
        with subprocess.Popen([*command, "--no-ceiling"], cwd=ROOT, stderr=subprocess.PIPE) as process:
            assert is_asked.wait(PATIENCE_S)
            workers = psutil.Process(process.pid).children()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
    assert workers
    assert process.returncode == INTERRUPTED
    assert b"Traceback" not in errors
    assert not any(worker.is_running() for worker in workers)


def test_a_worker_that_dies_ends_the_run() -> None:
    def kill_workers(_: Request) -> Iterator[bytes | Act]:
        for child in psutil.Process().children():
            if "serve_app.bench.worker" in child.cmdline():
                child.kill()
        yield Act.HANG

    with serving(kill_workers) as service, pytest.raises(BenchError, match="died with status -9"):
        run(Load(url=service.url, model="m", concurrency=1, ceiling=False))


def test_a_result_without_answers_can_be_shown() -> None:
    with serving(lambda _: [Act.RESET]) as service:
        result = run(Load(url=service.url, model="m", rate=100, requests=2, timeout_s=5, ceiling=False))
    assert result.has_only_failures
    assert "2 times reset" in report.render(result)
    assert "nothing was measured" in picture.draw(result)


def test_a_refusing_service_is_not_asked_in_a_frenzy() -> None:
    with serving(answer) as service:
        url = service.url
    begin_s = time.monotonic()
    one = run(Load(url=url, model="m", concurrency=2, duration_s=0.3, ceiling=False)).rounds[0]
    assert set(one.errors) == {"refused"}
    # A tenth of a second lies between a slot's attempts.
    assert one.num_requests <= 2 * (time.monotonic() - begin_s) / 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"concurrency": 1, "rate": 1.0},
        {"concurrency": 0},
        {"rate": 0.0},
        {"concurrency": 1, "duration_s": 0.0},
        {"concurrency": 1, "warm_up": -1},
    ],
)
def test_a_load_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(BenchError):
        Load(url="x", **wrong)  # type: ignore[arg-type]


def test_a_load_ends_by_default() -> None:
    assert Load(url="x", concurrency=1).end_after_s == DEFAULT_DURATION_S
    assert Load(url="x", concurrency=1, requests=1).end_after_s is None


def test_options_make_a_load() -> None:
    options = parser().parse_args(
        ["http://h", "--rate=2.5", "--duration=3", "--no-exact-output", "--no-stream", "--slo", "ttft=500ms"]
    )
    load = load_of(options)
    assert load == Load(
        url="http://h", rate=2.5, duration_s=3, exact_output=False, stream=False, slo=Slo(ttft_s=0.5)
    )
    assert load_of(parser().parse_args(["h", "--concurrency=1"])) == Load(url="h", concurrency=1)


def test_demands() -> None:
    assert slo("ttft=500ms, tpot=0.02,e2e=2s") == Slo(ttft_s=0.5, tpot_s=0.02, e2e_s=2)
    for wrong in ("ttft", "ttft=5m", "itl=5ms", "ttft=fast"):
        with pytest.raises(argparse.ArgumentTypeError, match="write ttft"):
            slo(wrong)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://h/v1", "https://h:443"),
        ("http://h/base/v1/", "http://h:80/base"),
        ("http://[::1]:5", "http://[::1]:5"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert Target.of(url).url == shown


def test_addresses_that_are_none() -> None:
    for wrong in ("ftp://h", "http://", "h:port"):
        with pytest.raises(BenchError, match="not a URL"):
            Target.of(wrong)
    with pytest.raises(BenchError, match="password") as refused:
        Target.of("http://user:hunter2@h")
    assert "hunter2" not in str(refused.value)
