"""A drill: a service under load on all APIs, faults from a seed, and what its clients get.

    python -m benchmarks.chaos --minutes 20 --seed 1 --engines timed --out FILE.json --picture FILE.svg
    python -m benchmarks.chaos --minutes 5 --faults kill-replica,kill-gate
    python -m benchmarks.chaos --minutes 60 --faults none --tokens 10 60    (a soak: what grows?)
    python -m benchmarks.chaos --draw FILE.json --picture FILE.svg

The cluster has three nodes on this machine, each with an address of its own, in Linux namespaces: nothing
else of the machine is hit. Where namespaces are not allowed it has one node, and the faults that need them
are left out. Every answer is compared with the one of an unbroken run. The exit status is 1 when an answer
was wrong, no fault explains an error, something did not come back, or something was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.chaos import faults, questions, sandbox
from benchmarks.chaos.drill import NoReferenceError, Plan, drill
from benchmarks.chaos.injection import abilities
from benchmarks.chaos.picture import draw
from benchmarks.chaos.result import result, summary
from benchmarks.chaos.service import NotReadyError, running
from benchmarks.chaos.shape import TIMED, VLLM

CLIENTS = {TIMED: 64, VLLM: 8}


def parser() -> argparse.ArgumentParser:
    """Returns the command line's."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--engines", choices=CLIENTS, default=TIMED, help="timed, or vLLM's on the CPU")
    found.add_argument("--minutes", type=float, default=5.0)
    found.add_argument("--seed", type=int, default=1, help="of faults, questions and clients")
    found.add_argument(
        "--faults", default="all", help=f"all, none, or names with commas: {', '.join(faults.KINDS)}"
    )
    found.add_argument("--spacing-s", type=float, default=45.0, help="between two faults, on average")
    found.add_argument("--nodes", type=int, choices=(1, 2, 3), default=3, help="of the cluster")
    found.add_argument("--clients", type=int, help="at a time; default: 64, or 8 with vLLM's engines")
    found.add_argument("--leaving", type=float, default=0.1, help="share of requests whose client leaves")
    found.add_argument(
        "--pausing", type=float, default=0.1, help="share whose client does not read for a while"
    )
    found.add_argument(
        "--tokens", type=int, nargs=2, default=(60, 240), metavar=("MIN", "MAX"), help="of limited answers"
    )
    found.add_argument("--out", type=Path, help="write the result as JSON")
    found.add_argument("--picture", type=Path, help="draw the result as SVG")
    found.add_argument("--draw", type=Path, metavar="FILE", help="draw this result, and run nothing")
    found.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="where the service's logs go")
    return found


def main() -> int:
    """Command line; returns the exit status."""
    options = parser().parse_args()
    if options.draw:
        options.picture.write_text(draw(json.loads(options.draw.read_text())))
        return 0
    try:
        faults.chosen(options.faults, list(faults.Need))
    except faults.UnknownFaultError as error:
        print(error, file=sys.stderr)
        return 2

    def without(folder: Path) -> int:
        print("no namespaces here: one node, and no faults of network and disk", file=sys.stderr)
        return _drill(options, folder)

    return sandbox.main("benchmarks.chaos", lambda folder: _drill(options, folder), without)


def _drill(options: argparse.Namespace, folder: Path) -> int:
    try:
        found = _run(options, folder)
    except (NotReadyError, NoReferenceError) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if options.keep_logs:
            _keep_logs(folder, options.keep_logs)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        options.picture.write_text(draw(found))
    print(summary(found))
    return 0 if found["is_good"] else 1


def _run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with running(folder, options.engines, options.nodes) as service:
        kinds, left_out = faults.chosen(options.faults, abilities(service))
        ask = questions.model_questions if options.engines == VLLM else questions.timed_questions
        plan = Plan(
            options.seed,
            60 * options.minutes,
            options.spacing_s,
            kinds,
            options.clients or CLIENTS[options.engines],
            options.leaving,
            options.pausing,
            ask(options.seed, *options.tokens),
        )
        return result(service, plan, asyncio.run(drill(service, plan)), left_out)


def _keep_logs(folder: Path, to: Path) -> None:
    """Ray's and Serve's logs, and what the service has printed."""
    to.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "log", to / "service.log")
    for logs in folder.glob("ray/ray/session_2*/logs"):
        shutil.copytree(logs, to / "ray", dirs_exist_ok=True, symlinks=True)


if __name__ == "__main__":
    sys.exit(main())
