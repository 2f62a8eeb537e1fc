"""A run: the ceiling, the warm-up, the rounds."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import secrets
from collections.abc import Callable
from functools import partial

from serve_app.bench import arrivals, ceiling
from serve_app.bench.load import BenchError, Load
from serve_app.bench.protocol import Prepare, Progress
from serve_app.bench.result import Result, Round
from serve_app.bench.statistics import errors
from serve_app.bench.target import Target
from serve_app.bench.workers import Workers, default_processes

# Seeds are drawn below this, short enough to type again.
SEED_LIMIT = 10**9
# What the warm-up adds to its round's seed, so that no measured prompt has been seen.
WARM_UP_SEED = SEED_LIMIT
WARM_UP_CONCURRENCY = 16


def run(load: Load, show: Callable[[str], None] = lambda _line: None) -> Result:
    """Sends the load and returns what came of it; calls `show` with what is going on, in words.

    Raises `BenchError` when the service cannot be asked for its model, a worker dies or the trace cannot be
    written. Failed requests are no error here: the result counts them.
    """
    target = Target.of(load.url)
    model = load.model or target.first_model()
    processes = _processes(load)
    if load.trace:
        _write_trace(load, None)
    limit = None
    if load.ceiling:
        show("measuring what the generator itself can take")
        limit = ceiling.measure()
    rounds: list[Round] = []
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with Workers(load, model, target, processes) as workers:
        for number in range(load.rounds):
            seed = secrets.randbelow(SEED_LIMIT) if load.seed is None else load.seed + number
            if load.warm_up and number == 0:
                _warm_up(load, workers, seed, show)
            label = f"round {number + 1} of {load.rounds}"
            start_ns, shares = workers.round(_plan(load, seed), partial(_show, show, label))
            rounds.append(Round.of(load, seed, start_ns, shares, limit))
            if load.trace:
                _write_trace(load, rounds)
    return Result(load, model, processes, date, versions(), limit, tuple(rounds))


def versions() -> dict[str, str]:
    """Returns what the generator consists of."""
    names = ("gpt-oss-serve", "uvloop", "httptools", "msgspec", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return {"python": platform.python_version()} | found


def _processes(load: Load) -> int:
    wanted = load.processes or default_processes()
    # A worker without a request of its own would only start.
    return max(1, min(wanted, load.concurrency or wanted, load.requests or wanted))


def _plan(load: Load, seed: int) -> Prepare:
    if load.rate is None:
        concurrency = min(load.concurrency or 1, load.requests or load.concurrency or 1)
        return Prepare(seed, concurrency, load.requests, load.end_after_s)
    due_ns = arrivals.poisson(load.rate, seed, requests=load.requests, duration_s=load.end_after_s)
    return Prepare(seed, 0, None, None, due_ns)


def _warm_up(load: Load, workers: Workers, seed: int, show: Callable[[str], None]) -> None:
    # In an open loop, each worker has a part in it.
    concurrency = min(load.warm_up, load.concurrency or max(WARM_UP_CONCURRENCY, load.processes or 0))
    plan = Prepare(seed + WARM_UP_SEED, concurrency, load.warm_up, None)
    _, shares = workers.round(plan, partial(_show, show, "warm-up"))
    failures = errors(record for share in shares for record in share.records)
    if failures:
        show("warm-up: " + ", ".join(f"{count} times {kind}" for kind, count in failures.items()))


def _show(show: Callable[[str], None], label: str, elapsed_s: float, so_far: Progress) -> None:
    failed = f", {so_far.num_failed} failed" if so_far.num_failed else ""
    show(f"{label}: {elapsed_s:.0f} s, {so_far.num_done} done, {so_far.num_open} open{failed}")


def _write_trace(load: Load, rounds: list[Round] | None) -> None:
    """Writes the last of `rounds`, or begins the file."""
    assert load.trace is not None
    try:
        with load.trace.open("a" if rounds else "w") as file:
            for record in rounds[-1].records if rounds else ():
                file.write(json.dumps(record.trace(len(rounds or ()))) + "\n")
    except OSError as error:
        raise BenchError(f"the trace cannot be written: {error}") from None
