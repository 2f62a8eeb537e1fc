"""One measurement: so many streams on a service, and what a token costs and how late it comes in a window."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.serving.arms import Service, Shape
from benchmarks.serving.processes import ENGINE, INGRESS, PROXY, REST, Cores, cpu_s, pin
from benchmarks.serving.record import Times
from serve_app.bench import Load, RequestRecord, run
from serve_app.demo import MODEL_NAME
from serve_app.timed.answers import HEADER, WORD_CHARACTERS

INPUT_TOKENS = 64
# Until all streams run: opening one costs an ingress some 10 ms.
SETTLE_S, SETTLE_S_PER_STREAM = 2.5, 0.012
# What streams go on for after the window, so that the last of them does not end in it.
MARGIN_S = 1.0
# A service that is later than this does not keep up, even if it falls behind no further: what waits is sent
# several tokens at a time, so that rates go on growing. Ray Serve LLM's batching alone takes 50 ms.
MAX_P99_MS = 100.0
NS = 1e9


@dataclass(frozen=True)
class Window:
    """When was measured, by the machine's monotonic clock, and the CPU seconds in it by role."""

    begin_ns: int
    end_ns: int
    cpu_s: dict[str, float]
    client_cpu_s: float
    busy_s: float  # of all cores, by anybody

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.begin_ns) / NS

    def count(self, times: Times) -> int:
        """How many of `times` are in it."""
        return int(np.count_nonzero((times >= self.begin_ns) & (times < self.end_ns)))


def measure(service: Service, shape: Shape, streams: int, window_s: float, cores: Cores) -> dict[str, Any]:
    """Returns the figures of one point, as they go into the results."""
    settle_s = SETTLE_S + SETTLE_S_PER_STREAM * streams
    seconds = settle_s + window_s + MARGIN_S
    load = Load(
        url=service.url,
        model=MODEL_NAME,
        concurrency=streams,
        requests=streams,
        input_tokens=INPUT_TOKENS,
        output_tokens=math.ceil(seconds * shape.steps_per_second * shape.tokens_per_step),
        ceiling=False,
        processes=1 if len(cores.others) < 4 else None,
    )
    found: list[Sequence[RequestRecord]] = []
    client = threading.Thread(target=lambda: found.append(run(load).rounds[0].records))
    client.start()
    time.sleep(settle_s)
    window = _window(service, window_s, cores)
    client.join()
    if not found:
        raise SystemExit("the client failed; see above")
    emitted, skipped_share = service.record.read(sum(not one.error for one in found[0]))
    return figures(found[0], emitted, window, streams) | {
        "engine_steps_skipped_share": round(skipped_share, 4),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _window(service: Service, window_s: float, cores: Cores) -> Window:
    clients = [p for p in psutil.Process().children() if "serve_app.bench.worker" in p.cmdline()]
    for process in clients:
        pin(process.pid, cores.others)

    def client_s() -> float:
        return sum(map(cpu_s, clients))

    # HAProxy starts another process when its list of replicas changes.
    service.processes.pin(cores)
    before, client_before, busy_before = service.processes.cpu_s(), client_s(), _busy_s()
    begin_ns = time.monotonic_ns()
    time.sleep(window_s)
    end_ns = time.monotonic_ns()
    after = service.processes.cpu_s()
    spent = {name: after[name] - before[name] for name in after}
    return Window(begin_ns, end_ns, spent, client_s() - client_before, _busy_s() - busy_before)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait)


def figures(
    records: Sequence[RequestRecord], emitted: Mapping[str, Times], window: Window, streams: int
) -> dict[str, Any]:
    """Returns what the window says of the client's answers and of what the engines emitted, by request."""
    num_tokens = num_emitted = num_events = num_open = num_unmatched = 0
    late: list[npt.NDArray[np.float64]] = []
    problems: dict[str, int] = defaultdict(int)
    messages: dict[str, str] = {}
    for record in records:
        if record.error:
            problems[record.error] += 1
            messages.setdefault(record.error, record.message or "")
            continue
        arrivals = np.repeat(record.arrivals_ns, record.num_chars // WORD_CHARACTERS)
        num_tokens += window.count(arrivals)
        inside = (record.arrivals_ns >= window.begin_ns) & (record.arrivals_ns < window.end_ns)
        num_events += int(record.num_events[inside].sum())
        begins = record.arrivals_ns[0] if len(record.arrivals_ns) else record.end_ns
        num_open += bool(begins < window.begin_ns and record.end_ns > window.end_ns)
        emissions = emitted.get(record.request_id, arrivals[:0])[len(HEADER) :]
        if len(emissions) != len(arrivals):
            num_unmatched += 1
            continue
        num_emitted += window.count(emissions)
        inside = (emissions >= window.begin_ns) & (emissions < window.end_ns)
        late.append((arrivals - emissions)[inside] / NS)
    added_s = np.concatenate([np.zeros(0), *late])
    us = {name: seconds / max(1, num_tokens) * 1e6 for name, seconds in window.cpu_s.items()}
    share = {name: seconds / window.seconds for name, seconds in window.cpu_s.items()}
    own_s = sum(window.cpu_s.values()) + window.client_cpu_s
    return {
        "streams": streams,
        "streams_open_all_the_time": num_open,
        "errors": dict(problems),
        "error_messages": messages,
        "answers_without_record": num_unmatched,
        "window_s": round(window.seconds, 2),
        "emitted_tokens_per_s": round(num_emitted / window.seconds),
        "tokens_per_s": round(num_tokens / window.seconds),
        "tokens_per_chunk": round(num_tokens / max(1, num_events), 3),
        "cpu_us_per_token": {name: round(us[name], 1) for name in (ENGINE, INGRESS, PROXY, REST)},
        "cpu_us_per_token_without_rest": round(us[ENGINE] + us[INGRESS] + us[PROXY], 1),
        "core_shares": {name: round(share[name], 3) for name in share}
        | {"client": round(window.client_cpu_s / window.seconds, 3)},
        # Of one core: what somebody else on this machine, or the kernel outside of our processes, took.
        "foreign_core_share": round((window.busy_s - own_s) / window.seconds, 3),
        "added_latency_ms": {
            f"p{q}": round(float(np.percentile(added_s, q)) * 1e3, 2) for q in (50, 90, 99) if len(added_s)
        },
    }


def kept_up(point: dict[str, Any]) -> bool:
    """Whether what was emitted arrived within the window, and no stream failed."""
    enough = 0.97 * point["emitted_tokens_per_s"]
    late = point["added_latency_ms"].get("p99", math.inf) > MAX_P99_MS
    return point["tokens_per_s"] >= enough and not point["errors"] and not late
