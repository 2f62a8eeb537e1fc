"""`python -m serve_app.stage report`: what the starts of engine replicas spent their time on."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from serve_app.config.sections import StagingConfig
from serve_app.staging import starts, timeline
from serve_app.staging.errors import StagingError
from serve_app.staging.starts import Start

# Of the longest line: a narrower terminal wraps it, and nothing is cut off.
WIDTH = 300
# A node that does not answer for so long is left out.
NODE_TIMEOUT_S = 30.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to those of `serve_app.stage`."""
    parser = commands.add_parser(
        "report", help="show what the starts of engine replicas took", description=run.__doc__
    )
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=_folder,
        default=StagingConfig().folder,
        help="staging folder, as staging.folder in the config (default: %(default)s)",
    )
    parser.add_argument(
        "--all-nodes",
        action="store_true",
        help="of all nodes of the Ray cluster that runs here, or RAY_ADDRESS",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _folder(text: str) -> str:
    """As the config takes it: with ~ and variables, which each node expands for itself, or absolute."""
    return text if text.startswith(("~", "$")) else str(Path(text).absolute())


def run(options: argparse.Namespace) -> int:
    """Prints a line for each start of a replica that is remembered, at most 50 of a node, with the seconds
    of each phase; the newest last.
    """
    found = of_all_nodes(options.folder) if options.all_nodes else of_node(options.folder)
    if options.json:
        sys.stdout.write(json.dumps([msgspec.to_builtins(start) for start in found], indent=1) + "\n")
    elif found:
        console = Console(width=WIDTH)
        console.print(table(found))
        for start in found:
            if error := start.about.get("error"):
                console.print(f"{start.replica}: {error}", markup=False, highlight=False)
    else:
        sys.stdout.write(f"{options.folder} remembers no start of a replica\n")
    return 0


def of_node(folder: str) -> list[Start]:
    """Returns the starts that this node remembers, the oldest first. `folder` is as in the config."""
    return starts.read_all(StagingConfig(folder=folder).path)


def of_all_nodes(folder: str) -> list[Start]:
    """Returns the starts of all nodes of the running Ray cluster, the oldest first; each expands `folder`.

    Nodes that do not answer are named on standard error. Raises `StagingError` where no cluster runs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise StagingError(f"no Ray cluster runs on this machine ({error}); set RAY_ADDRESS") from error
    read = ray.remote(num_cpus=0)(of_node)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    answers = [
        read.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            folder
        )
        for node in nodes
    ]
    found: dict[tuple[str, float], Start] = {}
    for node, answer in zip(nodes, answers, strict=True):
        try:
            for start in ray.get(answer, timeout=NODE_TIMEOUT_S):
                # Once, where nodes share the folder.
                found[start.replica, start.started_at] = start
        except ray.exceptions.RayError as error:
            sys.stderr.write(f"{node['NodeManagerHostname']}: {str(error).splitlines()[0]}\n")
    ray.shutdown()
    return sorted(found.values(), key=lambda start: start.started_at)


def table(found: Sequence[Start]) -> Table:
    """Returns the starts as a table of text, one line each."""
    result = Table(box=None, pad_edge=False, header_style="")
    for heading in ("replica", "node", "model", "started", "status", "caches"):
        result.add_column(heading, no_wrap=True)
    for heading in (*timeline.PHASES, "other", "total"):
        result.add_column(heading, justify="right")
    for start in found:
        about = start.about
        result.add_row(
            start.replica,
            about.get("node", ""),
            about.get("model", ""),
            datetime.fromtimestamp(start.started_at).strftime("%m-%d %H:%M:%S"),
            f"{start.status} in {start.within}" if start.within else start.status,
            about.get("caches", ""),
            *(_seconds(start.phases_s.get(name)) for name in timeline.PHASES),
            _seconds(start.other_s if start.status == "ready" else None),
            _seconds(start.total_s),
        )
    return result


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
