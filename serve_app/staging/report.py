"""`python -m serve_app.stage report`: what the starts of engine replicas spent their time on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from serve_app.config.sections import StagingConfig
from serve_app.staging import starts, timeline
from serve_app.staging.starts import Start

# Of the longest line: a narrower terminal wraps it, and nothing is cut off.
WIDTH = 300
StartsOf = Callable[[str], list[Start]]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], of_all_nodes: StartsOf) -> None:
    """Adds the command to those of `serve_app.stage`.

    `of_all_nodes` returns the starts of all nodes of the cluster, the oldest first, given the staging folder.
    """
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
    parser.set_defaults(run=partial(run, of_all_nodes=of_all_nodes))


def _folder(text: str) -> str:
    """As the config takes it: with ~ and variables, which each node expands for itself, or absolute."""
    return text if text.startswith(("~", "$")) else str(Path(text).absolute())


def run(options: argparse.Namespace, *, of_all_nodes: StartsOf) -> int:
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
