"""The services that are compared, and how each is started."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from benchmarks.serving.processes import ROOT, START_TIMEOUT_S, Cores, NotReadyError, Processes, running
from benchmarks.serving.record import Record
from serve_app.bench import Load, run
from serve_app.demo import CACHE, MODEL_NAME

SERVE = "from ray.serve.scripts import cli; cli()"
OPTIMISED = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Longer than replicas drain, at any of the rates here.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
}
# What Ray reserves: cores are given out by `Processes.pin`.
FEW_CPUS = 0.1
MAX_MODEL_LEN = 32768
# Below those that Linux gives out by itself: a service takes many, and binds some of these late.
PORTS = 20000, 29000
# First requests are slow everywhere: caches fill, connections open.
WARM_UP: dict[str, Any] = {"concurrency": 8, "requests": 32, "input_tokens": 64, "output_tokens": 32}


@dataclass(frozen=True)
class Shape:
    """How large a service is, and how its engines generate."""

    engines: int
    ingresses: int
    max_concurrent_requests: int
    tokens_per_step: float
    steps_per_second: float


@dataclass(frozen=True)
class Arm:
    """One of the services. `app` is the import path of a Serve application; none for the bare server."""

    name: str
    what: str
    app: str | None
    environment: dict[str, str] = field(default_factory=dict)
    is_ray_llm: bool = False
    interval_ms: float | None = None
    is_for_drafts: bool = True  # measured with more than one token a step too
    root: Path = ROOT  # the checkout that is served


ARMS = (
    Arm(
        "step frames",
        "this service: step frames, HAProxy, throughput settings",
        "serve_app.app:build",
        OPTIMISED,
    ),
    Arm(
        "handle",
        "the same ingress, tokens through Serve's streaming handle, HAProxy, throughput settings",
        "benchmarks.serving.handle_app:build",
        OPTIMISED,
        is_for_drafts=False,
    ),
    Arm(
        "Ray LLM",
        "Ray Serve LLM's OpenAI ingress and server over ready-made chunks, HAProxy, throughput settings; "
        "its default batching of chunks, 50 ms",
        "benchmarks.serving.ray_llm_app:build",
        OPTIMISED,
        is_ray_llm=True,
        is_for_drafts=False,
    ),
    Arm(
        "Ray LLM, unbatched",
        "the same without batching: a chunk a step",
        "benchmarks.serving.ray_llm_app:build",
        OPTIMISED,
        is_ray_llm=True,
        interval_ms=0,
        is_for_drafts=False,
    ),
    Arm(
        "Ray LLM, default",
        "Ray Serve LLM as it comes: Serve's Python proxy, chunks batched for 50 ms",
        "benchmarks.serving.ray_llm_app:build",
        is_ray_llm=True,
        is_for_drafts=False,
    ),
    Arm(
        "floor",
        "a bare uvicorn that writes ready-made chunks, one a step and request: no Ray, no vLLM, no proxy",
        None,
    ),
)


@dataclass(frozen=True)
class Service:
    """One that runs."""

    url: str
    processes: Processes
    record: Record


@contextlib.contextmanager
def started(arm: Arm, shape: Shape, cores: Cores, ray_llm_python: str) -> Iterator[Service]:
    """The service of an arm, ready and with its processes on their cores."""
    with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        record = folder / "record"
        url = f"http://127.0.0.1:{port}"
        if arm.app is None:
            numbers = map(str, (port, shape.tokens_per_step, shape.steps_per_second))
            command = [sys.executable, "-m", "benchmarks.serving.floor", *numbers, str(record)]
        else:
            python = ray_llm_python if arm.is_ray_llm else sys.executable
            arguments = _ray_llm(arm, shape, record) if arm.is_ray_llm else _ours(shape, record)
            config = folder / "serve.yaml"
            config.write_text(yaml.safe_dump(_config(arm.app, port, arguments), sort_keys=False))
            command = [python, "-c", SERVE, "run", str(config)]
        health = f"{url}/v1/models" if arm.is_ray_llm else f"{url}/health"
        (folder / "ray").mkdir()
        with running(command, _environment(arm, folder), health, folder / "log", arm.root) as process:
            # Ray Serve LLM lists its models before its engines are up.
            wait_for_answer(url, process)
            processes = Processes(process, is_one_ingress=arm.app is None)
            processes.pin(cores)
            run(Load(url=url, model=MODEL_NAME, ceiling=False, processes=1, **WARM_UP))
            yield Service(url, processes, Record(record))


def _environment(arm: Arm, folder: Path) -> dict[str, str]:
    return arm.environment | {
        "PYTHONPATH": str(arm.root),
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TIKTOKEN_ENCODINGS_BASE": str(CACHE / "vocabulary"),
        # HAProxy's own ports and files are fixed: other services on this machine have the usual ones.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy/server-state"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy/admin.sock"),
    }


def _config(app: str, port: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {"name": "gpt-oss", "route_prefix": "/", "import_path": app, "args": arguments},
        ],
    }


def _timed(shape: Shape, record: Path) -> dict[str, Any]:
    return {
        "tokens_per_step": shape.tokens_per_step,
        "steps_per_second": shape.steps_per_second,
        "record": str(record),
    }


def _ours(shape: Shape, record: Path) -> dict[str, Any]:
    return {
        "model": {"id": MODEL_NAME, "source": f"file:{CACHE / MODEL_NAME}"},
        "engine": {
            "timed": _timed(shape, record),
            "max_concurrent_requests": shape.max_concurrent_requests,
            "max_model_len": MAX_MODEL_LEN,
            "num_gpus": 0,
            "accelerator_type": None,
            "num_cpus": FEW_CPUS,
            "min_replicas": shape.engines,
            "max_replicas": shape.engines,
        },
        "ingress": {"replicas": shape.ingresses, "num_cpus": FEW_CPUS},
    }


def _ray_llm(arm: Arm, shape: Shape, record: Path) -> dict[str, Any]:
    return {
        "model_source": str(CACHE / MODEL_NAME),
        "engines": shape.engines,
        "ingresses": shape.ingresses,
        "interval_ms": arm.interval_ms,
        "timed": _timed(shape, record) | {"max_concurrent_requests": shape.max_concurrent_requests},
    }


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until a short request is answered."""
    body = {"model": MODEL_NAME, "stream": True, "max_tokens": 8}
    body["messages"] = [{"role": "user", "content": "Hello"}]
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            answer = httpx2.post(
                f"{url}/v1/chat/completions", json=body, headers={"X-Request-Id": "first"}, timeout=10
            )
            if answer.status_code == 200 and "[DONE]" in answer.text:
                return
            if "failed to deploy" in answer.text:
                raise NotReadyError(answer.text)
        time.sleep(1)  # it says no more than that it is not ready
    raise NotReadyError(f"{url} answers no request")


def free_port() -> int:
    """One that nobody listens on now, and that the system gives nobody who asks for any."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
