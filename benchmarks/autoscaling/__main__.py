"""Replays arrival traces through Ray Serve's own autoscaling code and chooses the service's defaults.

    python -m benchmarks.autoscaling --out benchmarks/results/autoscaling.json --picture docs/autoscaling.svg
    python -m benchmarks.autoscaling --picture docs/autoscaling.svg

Nothing is started: the time is virtual and replicas are a model. About five minutes on one core.
Without --out nothing is chosen: the picture is drawn anew with the settings that the results name.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ray.serve._private.constants import CONTROL_LOOP_INTERVAL_S

from benchmarks.autoscaling import choice, picture, policies
from benchmarks.autoscaling.parameters import Parameters
from benchmarks.autoscaling.policies import Policy, candidate
from benchmarks.autoscaling.run import Run
from benchmarks.autoscaling.service import Service
from benchmarks.autoscaling.speed import rounds, steps
from benchmarks.autoscaling.traces import Trace, all_traces

SEED = 1
OTHER_SEEDS = 2, 3, 4
SHORT_ANSWER_TOKENS = 512
# Without staged compile caches (benchmarks/results/bare_node.json).
COLD_START_S = 256.0
STARTED = time.monotonic()
RESULTS = Path(__file__).parents[1] / "results/autoscaling.json"


class Study:
    """All runs, and the results so far."""

    def __init__(self, parameters: Parameters, traces: list[Trace]) -> None:
        self.parameters, self.traces = parameters, traces
        self._known: dict[Policy, choice.Entry] = {}

    def candidates(self, candidates: list[Policy]) -> list[choice.Entry]:
        """Runs those that have not been run yet, each until the rule refuses it."""
        for policy in candidates:
            if policy not in self._known:
                say(policy.name)
                figures: dict[str, dict[str, Any]] = {}
                for trace in self.traces:
                    figures[trace.name] = Service(trace, policy, self.parameters).run().figures()
                    if not choice.is_allowed(trace.name, figures[trace.name]):
                        break
                self._known[policy] = choice.entry(policy, figures)
        return [self._known[policy] for policy in candidates]

    def known(self) -> list[choice.Entry]:
        """Returns the candidates that were run, in that order."""
        return list(self._known.values())

    def entry(self, policy: Policy) -> choice.Entry:
        """Runs a policy on every trace."""
        return choice.entry(policy, {run.trace.name: run.figures() for run in self.runs(policy)})

    def choose(self, entries: list[choice.Entry], others: list[Study]) -> Policy:
        """Returns the first choice of the rule that holds with the traces of the others too."""
        for one in choice.ranked(entries):
            policy = Policy(**one["policy"])
            if all(other.candidates([policy])[0]["is_good"] for other in others):
                return policy
        raise ValueError(f"no candidate satisfies the rule: {choice.RULE}")

    def runs(self, policy: Policy) -> list[Run]:
        """One for each trace."""
        say(policy.name)
        return [Service(trace, policy, self.parameters).run() for trace in self.traces]


def study(parameters: Parameters, seed: int) -> Study:
    """Returns one with the traces that fill as many replicas whatever their speed."""
    return Study(parameters, all_traces(parameters.replica_rate, seed, parameters.mean_answer_tokens))


def named(chosen: Policy) -> list[Policy]:
    """Returns what the chosen defaults are shown beside."""
    up_s, down_s, factor = chosen.upscale_delay_s, chosen.downscale_delay_s, chosen.downscaling_factor
    assert chosen.share is not None
    return [
        replace(chosen, name="chosen"),
        candidate(1.0, up_s, down_s, factor, name="target = cap"),
        candidate(chosen.share, up_s, down_s, name="chosen, factor 1"),
        candidate(chosen.share, up_s, down_s, factor, name="chosen, from zero", min_replicas=0),
        policies.serve_defaults(),
        policies.serve_llm_defaults(),
    ]


def redrawn(chosen: Policy) -> str:
    """Returns the picture of settings that were chosen before, as SVG."""
    parameters = replace(Parameters(), control_interval_s=CONTROL_LOOP_INTERVAL_S)
    exact = study(parameters, SEED)
    exact.traces = [trace for trace in exact.traces if trace.name in picture.TRACES]
    return picture.draw(
        {policy.name: exact.runs(policy) for policy in named(chosen) if policy.name in picture.COLORS}
    )


def variants(chosen: Policy, parameters: Parameters) -> dict[str, choice.Entry]:
    """Returns the chosen defaults where the model is another."""
    short = replace(parameters, speed=steps(SHORT_ANSWER_TOKENS), mean_answer_tokens=SHORT_ANSWER_TOKENS)
    others = {
        "answers of 512 tokens": short,
        "speed of whole rounds": replace(parameters, speed=rounds()),
        "cold starts, 256 s": replace(parameters, start_s=COLD_START_S),
        "a queue of 64": replace(parameters, queue=parameters.cap),
    }
    return {name: study(other, SEED).entry(chosen) for name, other in others.items()}


def say(text: str) -> None:
    """Progress, with the time since the start."""
    print(f"{time.monotonic() - STARTED:5.0f} s  {text}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--picture", type=Path, help="write the picture as SVG")
    options = parser.parse_args()
    gc.disable()  # nothing here makes cycles, and looking for them takes a fifth of the time
    if options.picture and not options.out:
        options.picture.write_text(redrawn(Policy(**json.loads(RESULTS.read_text())["chosen"])))
        return
    parameters = Parameters()
    all_runs = study(parameters, SEED)
    first = all_runs.candidates(choice.first_candidates())
    others = [study(parameters, seed) for seed in OTHER_SEEDS]
    second = all_runs.candidates(choice.second_candidates(all_runs.choose(first, others)))
    chosen = all_runs.choose(second, others)
    say(f"chosen: {chosen.name}")
    exact = study(replace(parameters, control_interval_s=CONTROL_LOOP_INTERVAL_S), SEED)
    runs = {policy.name: exact.runs(policy) for policy in named(chosen)}
    results: dict[str, Any] = {
        "what": "arrival traces through Ray Serve's autoscaling code, replicas simulated",
        "command": " ".join(["python -m benchmarks.autoscaling", *_public(sys.argv[1:])]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "ray": importlib.metadata.version("ray"),
            "numpy": importlib.metadata.version("numpy"),
        },
        "seed": SEED,
        "parameters": asdict(parameters) | {"replica_rate": round(parameters.replica_rate, 3)},
        "traces": {
            trace.name: {"what": trace.what, "duration_s": trace.duration_s, "offered": len(trace.arrivals_s)}
            for trace in all_runs.traces
        },
        "rule": choice.RULE,
        "chosen": asdict(chosen),
        "named_control_interval_s": CONTROL_LOOP_INTERVAL_S,
        "named": {
            name: choice.entry(one[0].policy, {run.trace.name: run.figures() for run in one})
            for name, one in runs.items()
        },
        # Those that the rule would have chosen, in its order, until one held.
        "seeds": {seed: other.known() for seed, other in zip(OTHER_SEEDS, others, strict=True)},
        "variants": variants(chosen, parameters),
        "candidates": first,
        "upscale_delays": second,
    }
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.picture:
        options.picture.write_text(picture.draw({name: runs[name] for name in picture.COLORS}))
    say("done")


def _public(arguments: list[str]) -> list[str]:
    """The command line without folders of this machine."""
    return [Path(a).name if a.startswith("/") else a for a in arguments]


if __name__ == "__main__":
    main()
