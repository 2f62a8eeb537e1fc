"""How fast a 2 GiB model folder comes from S3: `stage fetch`, `aws s3 cp --recursive`, the run:ai streamer.

    python -m venv rivals && rivals/bin/pip install awscli 'runai-model-streamer[s3]'
    .venv/bin/python benchmarks/staging/run.py --rivals rivals [--out benchmarks/results/staging.json]

Everybody in turn, several rounds, each in a process of its own, from a loopback server that sends files by
sendfile (s3_files.py); `server` is that server alone, its bytes thrown away. Needs 4 GiB of /dev/shm for the
bucket and the target, and 2 GiB of disk for the rounds on disk.

- `fetch` is the whole command: start-up, every SHA-256, fsync, rename.
- `stage` is the same without its imports, as in a replica that has them.
- `aws` is the whole command; it has no SHA-256 and does not fsync.
- `streamer` reads into memory and writes no file. Timed without its imports (seconds), in its favour.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from serve_app.staging import manifest as manifests  # noqa: E402  # after the path

NUM_FILES, FILE_BYTES = 4, 512 * 1024 * 1024
MIB = 1024 * 1024
BUCKET, PREFIX = "bucket", "models/benchmark"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
# Reads and forgets, as many connections at a time as `fetch` has.
DRAIN = """
import http.client, sys, threading
port, size, files = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
def drain(path, first, last):
    connection, buffer = http.client.HTTPConnection("127.0.0.1", port), bytearray(1 << 20)
    connection.request("GET", path, headers={"Range": f"bytes={first}-{last}"})
    response = connection.getresponse()
    while response.readinto(buffer):
        pass
half = size // 2
work = [(path, first, first + half - 1) for path in files for first in (0, half)]
threads = [threading.Thread(target=drain, args=item) for item in work]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
# What a replica does: `fetch` without the start of Python and the imports.
STAGE = """
import json, resource, sys, time
from pathlib import Path
from serve_app.config.sections import StagingConfig
from serve_app.sources import store
from serve_app.staging.objects import S3Location
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
start, used = time.perf_counter(), cpu()
store(StagingConfig(folder=sys.argv[2])).stage(S3Location.parse(sys.argv[1]))
print(json.dumps({"wall_s": time.perf_counter() - start, "cpu_s": cpu() - used}))
"""
# Its own environment variables: endpoint, and a memory limit that is kind to it.
STREAM = """
import json, resource, sys, time
from runai_model_streamer import FileStreamer
from runai_model_streamer.file_streamer.requests_iterator import FileChunks
size, paths = int(sys.argv[1]), sys.argv[2:]
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
start, used, total = time.perf_counter(), cpu(), 0
chunks = [FileChunks.contiguous(i, path, 0, [64 << 20] * (size >> 26)) for i, path in enumerate(paths)]
with FileStreamer() as streamer:
    streamer.stream_files(chunks, None, "cpu")
    for chunk in streamer.get_chunks():
        total += chunk[2].nbytes
assert total == size * len(paths), total
print(json.dumps({"wall_s": time.perf_counter() - start, "cpu_s": cpu() - used}))
"""


def measured(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall time, CPU time and peak memory of `command`; what it prints as JSON takes precedence.

    `command_s` is the wall time of the whole process in any case.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.DEVNULL,
            cwd=HERE.parents[1],
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} failed: exit status {process.returncode}")
        output.seek(0)
        printed = output.read().decode()
    result = {
        "command_s": wall_s,
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }
    return result | (json.loads(printed) if printed.startswith("{") else {})


def make_bucket(folder: Path) -> None:
    """Writes the model and its manifest where the server looks."""
    model = folder / BUCKET / PREFIX
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    for index in range(NUM_FILES):
        with (model / f"model-{index}.safetensors").open("wb") as file:
            for _ in range(FILE_BYTES // MIB):
                file.write(os.urandom(MIB))
    paths = [path.name for path in model.iterdir()]
    manifest = manifests.of_folder(model, paths, source=f"file:{model}")
    (model / manifests.NAME).write_bytes(manifest.encode())


def rounds(
    subjects: dict[str, Callable[[Path], dict[str, float]]], folder: Path, count: int, server_pid: int
) -> dict[str, Any]:
    """Medians of `count` rounds, each subject in turn, the first again at another place in each round."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    names = list(subjects)
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            target = Path(tempfile.mkdtemp(dir=folder))
            before = cpu_s(server_pid)
            result = subjects[name](target)
            result["server_cpu_s"] = cpu_s(server_pid) - before
            shutil.rmtree(target)
            results[name].append(result)
            print(
                f"{name:>9}: " + ", ".join(f"{key} {value:.2f}" for key, value in result.items()), flush=True
            )
    return {
        name: {
            "median": {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]},
            "gb_per_s": round(NUM_FILES * FILE_BYTES / 1e9 / statistics.median(r["wall_s"] for r in runs), 2),
            "wall_s": [round(run["wall_s"], 3) for run in runs],
        }
        for name, runs in results.items()
    }


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def versions(rivals: Path | None) -> dict[str, str]:
    """Of everything that is measured."""
    found = {name: importlib.metadata.version(name) for name in ("boto3", "botocore", "urllib3")}
    found["python"] = platform.python_version()
    if rivals:
        names = ["awscli", "runai-model-streamer", "runai-model-streamer-s3"]
        program = f"import importlib.metadata as m; print(*(m.version(n) for n in {names}))"
        printed = subprocess.check_output([rivals / "bin/python", "-c", program], text=True)
        found |= dict(zip(names, printed.split(), strict=True))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rivals", type=Path, help="virtual environment of the others; without it: fetch alone"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=9321)
    parser.add_argument("--disk", type=Path, default=Path.home() / ".cache", help="a folder on a real disk")
    parser.add_argument(
        "--sweep", action="store_true", help="also `fetch` with other ranges and concurrencies"
    )
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()

    memory = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="staging-"))
    disk = Path(tempfile.mkdtemp(dir=options.disk, prefix="staging-"))
    server = None
    try:
        make_bucket(memory / "s3")
        server = subprocess.Popen([sys.executable, HERE / "s3_files.py", memory / "s3", str(options.port)])
        results = compare(options, memory, disk, server.pid)
    finally:
        if server:
            server.terminate()
            server.wait()
        shutil.rmtree(memory)
        shutil.rmtree(disk)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


def compare(options: argparse.Namespace, memory: Path, disk: Path, server_pid: int) -> dict[str, Any]:
    """All measurements, against the server that runs."""
    endpoint = f"http://127.0.0.1:{options.port}"
    uri, environment = f"s3://{BUCKET}/{PREFIX}", ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint}
    files = [f"model-{index}.safetensors" for index in range(NUM_FILES)]

    def fetch(*arguments: str) -> Callable[[Path], dict[str, float]]:
        command = [sys.executable, "-m", "serve_app.stage", "fetch", uri]
        return lambda target: measured([*command, str(target), *arguments], environment)

    def stage(target: Path) -> dict[str, float]:
        return measured([sys.executable, "-c", STAGE, uri, str(target)], environment)

    def drain(target: Path) -> dict[str, float]:
        paths = [f"/{BUCKET}/{PREFIX}/{name}" for name in files]
        command = [sys.executable, "-c", DRAIN, str(options.port), str(FILE_BYTES), *paths]
        return measured(command, environment)

    def aws(target: Path) -> dict[str, float]:
        command = [str(options.rivals / "bin/aws"), "s3", "cp", "--recursive", "--only-show-errors"]
        return measured([*command, uri, str(target)], environment)

    def streamer(target: Path) -> dict[str, float]:
        own = {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0", "RUNAI_STREAMER_MEMORY_LIMIT": "400000000"}
        paths = [f"{uri}/{name}" for name in files]
        command = [str(options.rivals / "bin/python"), "-c", STREAM, str(FILE_BYTES), *paths]
        return measured(command, environment | own)

    subjects: dict[str, Callable[[Path], dict[str, float]]] = {
        "server": drain,
        "fetch": fetch(),
        "stage": stage,
    }
    on_disk: dict[str, Callable[[Path], dict[str, float]]] = {"fetch": fetch()}
    if options.rivals:
        subjects |= {"aws": aws, "streamer": streamer}
        on_disk |= {"aws": aws}
    results: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(options.rivals),
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()},
        "model_bytes": NUM_FILES * FILE_BYTES,
        "server": "benchmarks/staging/s3_files.py: ThreadingHTTPServer, bodies by sendfile from tmpfs",
        "to_memory": rounds(subjects, memory, options.rounds, server_pid),
        "to_disk": rounds(on_disk, disk, options.rounds, server_pid),
    }
    if options.sweep:
        settings = [(r, c) for r in (16, 64, 256) for c in (2, 4, 8, 16, 32)]
        sweep = {f"{r} MiB x {c}": fetch("--range-mib", str(r), "--concurrency", str(c)) for r, c in settings}
        results["sweep"] = rounds(sweep, memory, options.rounds, server_pid)
    return results


if __name__ == "__main__":
    main()
