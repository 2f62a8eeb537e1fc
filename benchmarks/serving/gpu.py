"""This service, plain `vllm serve` and Ray Serve LLM on one GPU, under the same loads, in one run.

    python -m benchmarks.serving.gpu --model FOLDER [--speculator FOLDER] --out FILE.json

All of them run at once, each with its own engine and the same engine arguments, and are asked in turn, there
and back: what else the machine does hits them alike. Needs a GPU with room for that, and the checkpoint of
`weights.py` or a real one. With --speculator, drafts are accepted at set rates (vLLM's synthetic acceptance;
not on CPUs).

Two versions of this service, each with the packages of its own environment:

    git worktree add BEFORE COMMIT
    python -m benchmarks.serving.gpu --systems before serve_app --before BEFORE \\
        --before-python BEFORE/.venv/bin/python --model FOLDER --out FILE.json
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml

from benchmarks.bare_node import machine
from benchmarks.serving.first_answers import first_answers
from benchmarks.serving.versions import Version, kernels_compiled
from serve_app.bench import Load, Result, run
from serve_app.config import AppConfig
from serve_app.engine_arguments import engine_arguments
from serve_app.harmony import vocabulary_file

ROOT = Path(__file__).parents[2]
MODEL_ID = "openai/gpt-oss-20b"
MAX_CONCURRENT_REQUESTS = 256
MAX_MODEL_LEN = 4096
# Of gpt-oss-20b with RedHatAI's speculator on MT-Bench, by position (public measurements).
ACCEPTANCE_RATES = [0.72, 0.51, 0.32]
STOP_TIMEOUT_S = 60
# Several engines on the cores of a machine without a GPU, for trying this out.
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Point:
    """A load: a closed loop, in two rounds."""

    input_tokens: int
    output_tokens: int
    concurrency: int

    @classmethod
    def parse(cls, text: str) -> Point:
        """Returns the load that is written as INPUTxOUTPUTxCONCURRENCY."""
        input_tokens, output_tokens, concurrency = map(int, text.split("x"))
        return cls(input_tokens, output_tokens, concurrency)

    @property
    def num_requests(self) -> int:
        """Two waves, one of long answers; alone, enough for a median."""
        waves = 2 if self.output_tokens < 512 else 1
        return max(waves * self.concurrency, 12)


# What matters most comes first: a run that must end early has that.
POINTS = [
    Point(512, 128, 256),
    Point(512, 128, 1),
    Point(1024, 1024, 256),
    Point(512, 128, 128),
    Point(512, 128, 32),
    Point(1024, 1024, 1),
    Point(1024, 1024, 128),
    Point(1024, 1024, 32),
]


def app_config(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of this service's application."""
    overrides: dict[str, Any] = {"jit_monitor_verbose": True}
    speculator = None
    if options.speculator:
        speculator = {"source": f"file:{options.speculator}", "num_draft_tokens": 3}
        overrides["speculative_config"] = {
            "rejection_sample_method": "synthetic",
            "synthetic_acceptance_rates": ACCEPTANCE_RATES,
        }
    return {
        "model": {"id": MODEL_ID, "source": f"file:{options.model}"},
        "speculator": speculator,
        "engine": {
            "max_concurrent_requests": MAX_CONCURRENT_REQUESTS,
            "max_model_len": MAX_MODEL_LEN,
            "gpu_memory_utilization": options.memory_share,
            "kv_cache_memory_bytes": int(options.kv_cache_gib * 2**30),
            "num_gpus": options.num_gpus,
            "accelerator_type": None,
            "engine_overrides": overrides,
            "environment": CPU_ENVIRONMENT if not options.num_gpus else {},
        },
        "ingress": {"replicas": options.ingress_replicas, "num_cpus": 1},
        "drain_timeout_s": 10,
    }


def ray_llm_app(arguments: dict[str, Any], num_gpus: float) -> dict[str, Any]:
    """Ray Serve LLM with the same engine, as a second application of the same Serve instance."""
    names = {"model", "served_model_name"}
    engine = {name: value for name, value in arguments.items() if name not in names}
    llm = {
        "model_loading_config": {"model_id": MODEL_ID, "model_source": arguments["model"]},
        "engine_kwargs": engine,
        "deployment_config": {"num_replicas": 1, "max_ongoing_requests": 2 * MAX_CONCURRENT_REQUESTS},
        "placement_group_config": {"bundles": [{"GPU": num_gpus, "CPU": 1}]},
        "accelerator_type": None,
    }
    return {
        "name": "ray-serve-llm",
        "route_prefix": "/ray-serve-llm",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [llm]},
    }


def serve_document(options: argparse.Namespace, arguments: dict[str, Any], port: int) -> dict[str, Any]:
    """The Serve config file. Ray Serve LLM is an application of this version's Serve instance."""
    apps = [
        {
            "name": "gpt-oss",
            "route_prefix": "/",
            "import_path": "serve_app.app:build",
            "args": app_config(options),
        }
    ]
    if "ray" in options.systems and port == options.port:
        apps.append(ray_llm_app(arguments, options.num_gpus))
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": apps,
    }


def vllm_command(arguments: dict[str, Any], port: int) -> list[str]:
    """`vllm serve` with engine arguments as options."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "openai"]
    for name, value in arguments.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            command += [option, json.dumps(value)]
        elif isinstance(value, list):
            command += [option, *map(str, value)]
        elif value is True:
            command.append(option)
        elif value is not False:
            command += [option, str(value)]
    return command


@contextlib.contextmanager
def started(
    command: list[str], folder: Path, log: Path, variables: dict[str, str], stop: signal.Signals
) -> Iterator[None]:
    """A process, for as long as the block lasts."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | variables, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(urls: dict[str, str], timeout_s: float) -> dict[str, float]:
    """Returns the seconds until each service answered a request; those that never do are missing."""
    begun, ready = time.monotonic(), dict[str, float]()
    body = {"model": MODEL_ID, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    while len(ready) < len(urls) and time.monotonic() - begun < timeout_s:
        for name in urls.keys() - ready.keys():
            with contextlib.suppress(httpx.TransportError):
                path = "/health" if name != "ray" else "/v1/models"
                if httpx.get(urls[name] + path, timeout=5).status_code != 200:
                    continue
                answer = httpx.post(urls[name] + "/v1/chat/completions", json=body, timeout=60)
                if answer.status_code == 200:
                    ready[name] = round(time.monotonic() - begun, 1)
                    print(f"{name}: ready after {ready[name]} s", flush=True)
        time.sleep(1)
    return ready


def measure(url: str, point: Point, options: argparse.Namespace, with_ceiling: bool) -> Result:
    """One round of a load."""
    return run(
        Load(
            url=url,
            model=MODEL_ID,
            concurrency=point.concurrency,
            requests=point.num_requests,
            input_tokens=point.input_tokens,
            output_tokens=point.output_tokens,
            processes=options.processes,
            ceiling=with_ceiling,
        )
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--speculator", type=Path, help="speculator folder; without it: no speculator")
    parser.add_argument("--systems", nargs="+", default=["serve_app", "vllm", "ray"])
    parser.add_argument(
        "--points", type=Point.parse, nargs="+", default=POINTS, help="loads: INPUTxOUTPUTxCONCURRENCY"
    )
    parser.add_argument("--num-gpus", type=float, default=0.4, help="Ray's share for an engine; 0: CPUs")
    parser.add_argument("--ray-points", type=int, default=len(POINTS), help="Ray Serve LLM gets so many")
    parser.add_argument("--memory-share", type=float, default=0.3, help="of the GPU, for each engine")
    parser.add_argument("--kv-cache-gib", type=float, default=20, help="of each engine")
    parser.add_argument("--ingress-replicas", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2, help="of the load generator")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--ready-s", type=float, default=420, help="wait so long for the services")
    parser.add_argument("--seconds", type=float, default=3600, help="begin no new point after this")
    parser.add_argument("--before", type=Path, help="checkout of another version, for the system `before`")
    parser.add_argument(
        "--before-python", type=os.path.abspath, default=sys.executable, help="interpreter of its environment"
    )
    parser.add_argument("--logs", type=Path, default=Path("/tmp"), help="folder; its path must be short")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with everything that was started
    begun = time.monotonic()
    config = AppConfig.model_validate(app_config(options))
    speculator = str(options.speculator) if options.speculator else None
    arguments = engine_arguments(config, str(options.model), speculator)
    folder = options.logs.absolute()
    ports = {name: options.port + number for number, name in enumerate(("serve_app", "vllm", "before"))}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    urls["ray"] = urls["serve_app"] + "/ray-serve-llm"
    urls = {name: urls[name] for name in options.systems}
    versions: dict[str, Version] = {}
    if {"serve_app", "ray"} & set(options.systems):
        versions["serve_app"] = Version(ROOT, sys.executable, folder / "now")
    if "before" in options.systems:
        checkout = options.before.absolute()
        versions["before"] = Version(checkout, options.before_python, folder / "before", number=1)
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.serving.gpu", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine("pyzmq", "msgspec", "uvloop"),
        "versions": {name: version.about() for name, version in versions.items()},
        "engine_arguments": arguments,
        "service": app_config(options),
        "points": [],
    }
    logs = {name: folder / f"{name}.log" for name in (*versions, "vllm")}

    def compiled(name: str) -> int:
        version = versions.get("serve_app" if name == "ray" else name)
        return version.kernels_compiled() if version else kernels_compiled(logs[name])

    vocabulary_file.install(options.model)  # inherited by all of them
    with contextlib.ExitStack() as stack:
        for name, version in versions.items():
            document = folder / f"{name}.yaml"
            document.write_text(yaml.safe_dump(serve_document(options, arguments, ports[name])))
            stack.callback(version.end)
            command, variables = version.command(document), version.environment()
            stack.enter_context(started(command, version.checkout, logs[name], variables, signal.SIGINT))
        if "vllm" in options.systems:
            command = vllm_command(arguments, ports["vllm"])
            variables = CPU_ENVIRONMENT if not options.num_gpus else {}
            stack.enter_context(started(command, ROOT, logs["vllm"], variables, signal.SIGTERM))
        results["ready_s"] = wait_until_ready(urls, options.ready_s)
        results["first_answers"] = {name: first_answers(urls[name], MODEL_ID) for name in results["ready_s"]}
        print(json.dumps(results["first_answers"]), flush=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        for index, point in enumerate(options.points):
            if time.monotonic() - begun > options.seconds:
                break
            found: dict[str, Any] = vars(point) | {"num_requests": point.num_requests, "systems": {}}
            results["points"].append(found)
            names = [name for name in urls if name in results["ready_s"]]
            if index >= options.ray_points:
                names = [name for name in names if name != "ray"]
            for name in there_and_back(names):
                kernels = compiled(name)
                data = measure(urls[name], point, options, with_ceiling="ceiling" not in results).data()
                results.setdefault("ceiling", data.get("ceiling"))
                one = data["rounds"][-1] | {"kernels_compiled": compiled(name) - kernels}
                found["systems"].setdefault(name, []).append(one)
                print(f"{point} {name}: {_line(one)}", flush=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")


def there_and_back(names: list[str]) -> list[str]:
    """Returns each name twice: A B B A, so that a drift of the machine hits all alike."""
    return [*names, *reversed(names)]


def _line(one: dict[str, Any]) -> str:
    def ms(name: str, share: str) -> str:
        return f"{one[name][share] * 1000:.1f}" if one[name] else "-"

    return (
        f"{one['output_tokens_per_s']:.0f} tokens/s, TTFT p50 {ms('ttft_s', 'p50')} ms, "
        f"TPOT p50 {ms('tpot_s', 'p50')} ms, ITL p99 {ms('itl_s', 'p99')} ms, "
        f"{one['kernels_compiled']} kernels compiled, errors {one['errors']}"
    )


if __name__ == "__main__":
    main()
