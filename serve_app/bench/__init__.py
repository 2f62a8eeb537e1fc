"""Load on OpenAI-compatible services: `run(Load(url=..., concurrency=...))`, `python -m serve_app.bench`."""

from serve_app.bench.load import BenchError, Load, Slo
from serve_app.bench.request_record import RequestRecord
from serve_app.bench.result import Ceiling, Generator, Result, Round
from serve_app.bench.runner import run
from serve_app.bench.statistics import Distribution, Goodput

__all__ = [
    "BenchError",
    "Ceiling",
    "Distribution",
    "Generator",
    "Goodput",
    "Load",
    "RequestRecord",
    "Result",
    "Round",
    "Slo",
    "run",
]
