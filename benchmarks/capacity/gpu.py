"""What warm-up and CUDA graphs are worth: three engines side by side on one GPU, asked one after another.

    python -m benchmarks.capacity.gpu --model FOLDER --speculator FOLDER --out FILE.json

- full: as this service runs them: graphs for all decode batches, and the whole warm-up.
- cold: the same, but `engine.warm_up` is false.
- naive: capture sizes up to the number of *requests*, as one might set them; no config of this service can.
  No warm-up either: the first of two rounds does that.

Part `warm`: the first requests after the start of `cold` and `full`, then as many again. Part `graphs`:
decode of `full` and `naive`. Needs the checkpoint of `benchmarks.serving.weights`, or a real one, and a GPU
with room for three; `--demo` takes the demo checkpoint, small loads and the CPU, to try it out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bare_node import machine
from benchmarks.capacity.options import KINDS, PARTS, parse, spec
from benchmarks.capacity.service import EngineProcess, FailedError

# Options that say nothing about what was measured.
PATHS = ("model", "speculator", "folder", "out")
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}


class Benchmark:
    """The engines that are up, and the results so far, which are written after every step."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._end = time.monotonic() + options.seconds
        environment = {} if options.num_gpus else CPU_ENVIRONMENT
        names = [
            name
            for name in ("full", "cold", "naive")
            if any(name in PARTS[part] for part in options.part) and name in (options.engines or name)
        ]
        self._engines = {
            name: EngineProcess(spec(name, options, folder), folder, environment) for name in names
        }
        self.results: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.capacity.gpu", *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine("xgrammar", "flashinfer-python"),
            "options": {name: value for name, value in vars(options).items() if name not in PATHS},
            "starts": {},
            "warm": {},
            "graphs": {},
        }
        # One file for all runs, since time on a GPU comes in pieces.
        self._earlier = json.loads(options.out.read_text())["runs"] if options.out.exists() else []

    def start(self) -> None:
        """Waits for all engines, which start at the same time. Those that fail are left out."""
        deadline = time.monotonic() + min(self._options.ready_s, self._options.seconds)
        for name, engine in list(self._engines.items()):
            try:
                found = engine.ready(deadline - time.monotonic())
                print(f"{name}: ready in {found['ready_s']} s, warm-up {found['warm_up_s']} s", flush=True)
            except FailedError as error:
                found = {"failed": str(error)}
                print(f"{name}: {error}", flush=True)
                self._engines.pop(name).stop()
            self.results["starts"][name] = found
            self._write()

    def warm(self) -> None:
        """Time to first token of the first requests, and of those after them."""
        for name in PARTS["warm"]:
            for number, phase in enumerate(("first", "steady")):
                self._measure(
                    "warm",
                    f"{name} {phase}",
                    name,
                    requests=self._options.requests,
                    concurrency=min(self._options.concurrency, self._options.concurrent),
                    lengths=self._options.lengths,
                    output_tokens=self._options.output_tokens,
                    kinds=KINDS,
                    seed=number,
                )

    def graphs(self) -> None:
        """Decode at full batch and at a quarter of it."""
        for concurrency in self._options.decode_concurrency:
            if tokens := self._options.warm_up_tokens:
                self._decode(concurrency, "warm-up", tokens, 9)
            for number in range(self._options.rounds):
                self._decode(concurrency, f"round {number + 1}", self._options.decode_tokens, number)

    def _decode(self, concurrency: int, what: str, tokens: int, number: int) -> None:
        for name in PARTS["graphs"]:
            self._measure(
                "graphs",
                f"{name} {concurrency} {what}",
                name,
                requests=concurrency,
                concurrency=concurrency,
                lengths=[32],
                output_tokens=tokens,
                kinds=["plain"],
                seed=1000 + 10 * concurrency + number,
            )

    def _measure(self, part: str, label: str, name: str, **traffic: Any) -> None:
        left_s = self._end - time.monotonic()
        if name not in self._engines or left_s < self._options.reserve_s:
            return
        try:
            limit_s = left_s - self._options.reserve_s / 2
            found = self._engines[name].measure(traffic | {"limit_s": limit_s}, left_s)
            first, step = found["ttft_ms"], found["step_ms"]
            print(
                f"{label}: {found['requests']} requests in {found['seconds']} s, TTFT p50 {first.get('p50')} "
                f"p90 {first.get('p90')} p99 {first.get('p99')} max {first.get('max')} ms, step p50 "
                f"{step.get('p50')} p99 {step.get('p99')} ms, {found['tokens_per_s']} tokens/s, "
                f"compiled {found['compiled']}, errors {found['errors']}"
                f"{'' if found['is_complete'] else ', cut off'}",
                flush=True,
            )
        except FailedError as error:
            found = {"failed": str(error)}
            print(f"{label}: {error}", flush=True)
            self._engines.pop(name).stop()
        self.results[part][label] = {"traffic": traffic} | found
        self._write()

    def _write(self) -> None:
        document = {"runs": [*self._earlier, self.results]}
        self._options.out.write_text(json.dumps(document, indent=1, default=str) + "\n")

    def stop(self) -> None:
        """Ends all engines."""
        for engine in self._engines.values():
            engine.stop()


def main() -> None:
    """Command line."""
    options = parse(__doc__ or "")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with everything that was started
    folder = options.folder or Path(tempfile.mkdtemp(prefix="capacity-"))
    folder.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(options, folder)
    try:
        benchmark.start()
        for part in options.part:
            getattr(benchmark, part)()
    finally:
        benchmark.stop()
        print(f"logs in {folder}")


if __name__ == "__main__":
    main()
