"""Admission under load: ten times what the engines can take, and a flood beside a few urgent requests.

    python -m benchmarks.admission --out benchmarks/results/admission.json

No GPU: two timed engines, two ingresses, HAProxy, the defaults of `admission`. An answer keeps its slot for
a second. The overload is of engines with four slots each: so few that two cores are not what is measured.
The tiers are of 16 each, of which `flex_leaves_free` keeps three free.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.admission.loads import Outcome, beside, load
from benchmarks.bare_node import machine
from benchmarks.serving.arms import ARMS, Shape, started
from benchmarks.serving.processes import Cores
from serve_app.demo import CACHE
from serve_app.demo.unfolding import unfold

NUM_TOKENS = 50
OVERLOADED = Shape(
    engines=2, ingresses=2, max_concurrent_requests=4, tokens_per_step=1.0, steps_per_second=NUM_TOKENS
)
SHARED = replace(OVERLOADED, max_concurrent_requests=16)
OVERLOAD, FLOOD = 10, 2
URGENT_PER_S = 1.0


def num_slots(shape: Shape) -> int:
    """All engines' together; as many answers a second are served."""
    return shape.engines * shape.max_concurrent_requests


def overload(url: str, seconds: float) -> dict[str, Any]:
    """As much as the engines take, then ten times that."""
    slots = num_slots(OVERLOADED)
    peak = load(url, seconds / 2, NUM_TOKENS, concurrency=slots)
    flood = load(url, seconds, NUM_TOKENS, rate=OVERLOAD * slots)
    assert flood.refused_after_s
    say(
        f"overload: {flood.served_per_s:.2f} served a second, at the peak {peak.served_per_s:.2f}; "
        f"{flood.refused_after_s.count} refused, after p50 {1000 * flood.refused_after_s.p50:.1f} ms, "
        f"p99 {1000 * flood.refused_after_s.p99:.1f} ms; {len(flood.cut)} cut"
    )
    share = flood.served_per_s / peak.served_per_s
    return {"peak": plain(peak), "overload": plain(flood), "goodput_of_peak": round(share, 3)}


def tiers(url: str, seconds: float) -> dict[str, Any]:
    """Requests of the priority tier alone, then beside a flood of the flex tier."""
    alone = load(url, seconds, NUM_TOKENS, tier="priority", rate=URGENT_PER_S)
    flood, urgent = beside(url, seconds, NUM_TOKENS, flood_rate=FLOOD * num_slots(SHARED), rate=URGENT_PER_S)
    assert alone.ttft_s
    assert urgent.ttft_s
    ratios = {
        name: round(getattr(urgent.ttft_s, name) / getattr(alone.ttft_s, name), 3)
        for name in ("mean", "p50", "p90", "p99")
    }
    say(
        f"priority: TTFT p50 {1000 * urgent.ttft_s.p50:.0f} ms beside the flood, "
        f"{1000 * alone.ttft_s.p50:.0f} ms alone ({ratios}); the flood: {flood.served_per_s:.2f} a second"
    )
    return {
        "alone": plain(alone),
        "beside_flex": plain(urgent),
        "flex": plain(flood),
        "ttft_ratios": ratios,
    }


def plain(outcome: Outcome) -> dict[str, Any]:
    """For JSON: six digits are more than enough of each number."""
    result: dict[str, Any] = json.loads(
        json.dumps(asdict(outcome)), parse_float=lambda digits: float(f"{float(digits):.6g}")
    )
    return result


def say(text: str) -> None:
    """Progress."""
    print(text, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load in each round")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    # Whoever stops this program stops the service too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    unfold(CACHE)
    results: dict[str, Any] = {
        "what": "admission under overload, and the priority tier beside a flood; timed engines, no GPU",
        "command": " ".join(["python -m benchmarks.admission", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine("pyzmq", "msgspec"),
        "tokens_an_answer": NUM_TOKENS,
    }
    for part, shape in ((overload, OVERLOADED), (tiers, SHARED)):
        rounds: list[dict[str, Any]] = []
        results[part.__name__] = {"shape": asdict(shape), "rounds": rounds}
        with started(ARMS[0], shape, Cores.of_this_machine(shape.ingresses), "") as service:
            for _ in range(options.rounds):
                rounds.append(part(service.url, options.seconds))
                if options.out:
                    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
