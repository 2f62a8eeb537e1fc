"""What the generator itself can take: a worker against answers that cost nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.bench.load import BenchError, Load
from serve_app.bench.protocol import Prepare
from serve_app.bench.result import Ceiling
from serve_app.bench.target import Target
from serve_app.bench.workers import Workers, environment

DURATION_S = 1.0
STREAMS = 64
TOKENS = 256
# Between two chunks of a stream: slow enough for the worker to receive each chunk alone.
PERIOD_S = 0.004


@contextmanager
def canned_service(period_s: float = 0.0) -> Iterator[str]:
    """Yields the address of a canned service in a process of its own; `period_s` lies between its chunks."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serve_app.bench.canned", "--period", str(period_s)],
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
            process.wait()


def measure(duration_s: float = DURATION_S) -> Ceiling:
    """Returns the ceiling of one worker on this machine as it is now; takes a second longer than it measures.

    64 streams get their chunks at the same time, as in an engine's steps, each chunk in a write of its own.
    The worker is not kept busy for this: its CPU time tells what a core could take.
    """
    with canned_service(PERIOD_S) as url:
        load = Load(url=url, concurrency=STREAMS, duration_s=duration_s, output_tokens=TOKENS, input_tokens=8)
        with Workers(load, "canned", Target.of(url), 1) as workers:
            plan = Prepare(seed=0, concurrency=STREAMS, requests=None, end_after_s=duration_s)
            _, (share,) = workers.round(plan, lambda _elapsed_s, _progress: None)
    num_receipts = sum(len(record.arrivals_ns) for record in share.records)
    num_chunks = sum(record.num_chunks for record in share.records)
    if not num_receipts:
        raise BenchError("the generator could not measure itself: no request to its own service succeeded")
    return Ceiling(
        chunks_per_cpu_s=num_receipts / share.cpu_s,
        cpu_us_per_chunk=share.cpu_s / num_receipts * 1e6,
        chunks_per_receipt=num_chunks / num_receipts,
    )
