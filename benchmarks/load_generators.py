"""What a chunk costs a load generator: aiperf, guidellm and ours, against answers that cost nothing.

    python benchmarks/load_generators.py [--aiperf FILE] [--guidellm FILE] --out FILE.json

`FILE` is the tool's executable, each best in an environment of its own (`python -m venv FOLDER`, then
`FOLDER/bin/pip install aiperf`); a tool that is not named is left out. 64 streams of 256 chunks come from
`serve_app.bench.canned`, first every 4 ms, then as fast as they are taken. The CPU time is that of all of the
tool's processes. What it takes to start and to report is subtracted by comparing a short run with a long one.
`timed_path` is what serve_app.bench takes of it while requests are open; it reads the answers afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from serve_app.bench import ceiling  # noqa: E402  # after the path
from serve_app.bench.runner import versions  # noqa: E402
from serve_app.demo import CACHE, MODEL_NAME  # noqa: E402
from serve_app.harmony import vocabulary_file  # noqa: E402

STREAMS, CHUNKS = 64, 256
SHORT, LONG = 256, 1280  # requests
PERIOD_S = ceiling.PERIOD_S
# Where aiperf's tokenizer would download it from; tiktoken looks for the file under this name's SHA-1.
VOCABULARY_URL = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"

OURS = [sys.executable, "-m", "serve_app.bench"]


@dataclass(frozen=True)
class Tool:
    """A load generator: what to run, and the options, in which URL, REQUESTS and FOLDER are filled in."""

    name: str
    executable: list[str]
    options: str

    def command(self, **values: object) -> list[str]:
        """Returns the arguments of one run."""
        text = self.options
        for name, value in values.items():
            text = text.replace(name, str(value))
        return [*self.executable, *text.split()]

    def version(self) -> str:
        """Returns the installed version."""
        if self.executable == OURS:
            return versions()["gpt-oss-serve"]
        done = subprocess.run(
            [Path(self.executable[0]).parent / "pip", "show", self.name],
            capture_output=True,
            text=True,
            check=True,
        )
        return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("Version:"))


AIPERF = (
    "profile -m canned --url URL --endpoint-type chat --streaming --tokenizer builtin "
    f"--use-server-token-count --concurrency {STREAMS} --request-count REQUESTS --isl 32 --osl {CHUNKS} "
    "--num-dataset-entries 64 --workers-max 1 --record-processors 1 --no-gpu-telemetry --no-server-metrics "
    "--ui none --export-level summary --artifact-dir FOLDER/aiperf"
)
GUIDELLM = (
    f"run --backend kind=openai_http,target=URL,model=canned --profile kind=concurrent,streams={STREAMS} "
    "--constraint kind=max_requests,count=REQUESTS "
    f"--data kind=synthetic_text,prompt_tokens=32,output_tokens={CHUNKS} "
    "--tokenizer kind=hf_auto,model=TOKENIZER --disable-progress --output kind=json,path=FOLDER/guidellm.json"
)
BENCH = (
    f"URL --concurrency {STREAMS} --requests REQUESTS --input-tokens 32 --output-tokens {CHUNKS} "
    "--processes 1 --no-ceiling"
)


def measured(tool: Tool, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """Runs the tool three times; returns its costs."""
    runs = {}
    for name, requests, period_s in (
        ("short", SHORT, PERIOD_S),
        ("long", LONG, PERIOD_S),
        ("unpaced", LONG, 0.0),
    ):
        with ceiling.canned_service(period_s) as url:
            command = tool.command(URL=url, REQUESTS=requests, FOLDER=folder, TOKENIZER=tokenizer)
            cpu_s = cpu_of(command, folder)
            stats = httpx2.get(f"{url}/stats").json()
        if stats["chunks"] != requests * CHUNKS:
            raise RuntimeError(f"{tool.name} took {stats['chunks']} chunks instead of {requests * CHUNKS}")
        runs[name] = {
            "requests": requests,
            "chunks_per_s": round(stats["chunks"] / stats["seconds"]),
            "cpu_s": round(cpu_s, 2),
        }
        print(tool.name, name, runs[name], flush=True)
    cpu_s = runs["long"]["cpu_s"] - runs["short"]["cpu_s"]
    num_chunks = (LONG - SHORT) * CHUNKS
    return {
        "version": tool.version(),
        "options": tool.options,
        "cpu_us_per_chunk": round(cpu_s / num_chunks * 1e6, 1),
        "chunks_per_cpu_s": round(num_chunks / cpu_s),
        "chunks_per_s": runs["unpaced"]["chunks_per_s"],
        "runs": runs,
    }


def cpu_of(command: list[str], folder: Path) -> float:
    """Runs a command; returns the CPU seconds of its processes."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TIKTOKEN_CACHE_DIR": str(folder),
        "PYTHONPATH": str(ROOT) if command[: len(OURS)] == OURS else "",
    }
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command}: {(folder / 'output.log').read_text(errors='replace')[-3000:]}")
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def vocabulary_folder() -> Iterator[Path]:
    """Yields a folder for what the tools write, with the vocabulary for aiperf's tokenizer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = hashlib.sha1(VOCABULARY_URL.encode(), usedforsecurity=False).hexdigest()
        (folder / key).write_bytes(vocabulary_file.packaged())
        yield folder


def cpu_name() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--aiperf", type=Path)
    parser.add_argument("--guidellm", type=Path)
    parser.add_argument(
        "--tokenizer", type=Path, default=CACHE / MODEL_NAME, help="for guidellm (default: the demo model's)"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tools = [Tool("serve_app.bench", OURS, BENCH)]
    if options.aiperf:
        tools.append(Tool("aiperf", [str(options.aiperf.absolute())], AIPERF))
    if options.guidellm:
        tools.append(Tool("guidellm", [str(options.guidellm.absolute())], GUIDELLM))
    load_average = os.getloadavg()
    with vocabulary_folder() as folder:
        found = {tool.name: measured(tool, folder, options.tokenizer.absolute()) for tool in tools}
        found[tools[0].name]["timed_path"] = dataclasses.asdict(ceiling.measure(duration_s=5.0))
    named = [f"--{name} {name}" for name in ("aiperf", "guidellm") if name in found]
    out = f"benchmarks/results/{options.out.name}"
    document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/load_generators.py", *named, "--out", out]),
        "machine": {
            "cpu": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "load_average": [round(value, 1) for value in load_average],
        },
        "versions": versions(),
        "load": {"streams": STREAMS, "chunks_of_a_request": CHUNKS, "period_s": PERIOD_S},
        "tools": found,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
