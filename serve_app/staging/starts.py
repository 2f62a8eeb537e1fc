"""The starts that a node remembers, read from the files that `timeline` has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from serve_app.staging.locks import Lock
from serve_app.staging.timeline import ENGINE, PHASES, PROCESSES, Event


class Start(msgspec.Struct):
    """One start of a replica."""

    replica: str
    started_at: float = 0.0
    """Seconds since 1970."""
    status: Literal["starting", "died", "ready", "failed"] = "starting"
    total_s: float = 0.0
    """Until it was ready, or failed; otherwise until the last that is known of it."""
    phases_s: dict[str, float] = {}
    """What is known to have ended, by its name in `timeline.PHASES`, without the phases inside it."""
    within: str = ""
    """The innermost phase that had not ended."""
    about: dict[str, Any] = {}

    @property
    def other_s(self) -> float:
        """What no phase accounts for. Known of finished starts."""
        return max(0.0, self.total_s - sum(self.phases_s.values()))

    def __str__(self) -> str:
        phases = [f"{name} {self.phases_s[name]:.1f}" for name in PHASES if name in self.phases_s]
        return (
            f"{self.status} after {self.total_s:.1f} s: {', '.join([*phases, f'other {self.other_s:.1f}'])}"
        )


def read_all(folder: Path) -> list[Start]:
    """Returns the starts below the staging folder `folder`, the oldest first."""
    starts = [read(path) for path in (folder / "starts").glob("*.jsonl")]
    return sorted((start for start in starts if start), key=lambda start: start.started_at)


def read(path: Path) -> Start | None:
    """Returns the start that the file describes, or None if it cannot be read."""
    start, open_phases, engine_at = Start(path.stem), list[str](), 0.0
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            event = msgspec.json.decode(line, type=Event)
        except msgspec.DecodeError:
            continue  # its writer was killed, or the disk was full
        start.started_at = start.started_at or event.at
        start.about |= event.about
        start.total_s = event.at - start.started_at
        if event.kind == "begin":
            open_phases.append(event.phase)
            if event.phase == ENGINE:
                engine_at = event.at
            elif engine_at and PROCESSES not in start.phases_s:
                # The first that the engine says: by then its processes are there.
                start.phases_s[PROCESSES] = event.at - engine_at
        elif event.kind == "end":
            if event.phase in open_phases:
                open_phases.remove(event.phase)
            if event.phase in PHASES:
                start.phases_s[event.phase] = start.phases_s.get(event.phase, 0.0) + event.seconds
        elif event.kind in ("ready", "failed"):
            start.status, start.total_s = event.kind, event.seconds
            break
    start.within = open_phases[-1] if open_phases else ""
    if start.status == "starting" and not _is_held(path):
        start.status = "died"
    return start


def _is_held(path: Path) -> bool:
    """Whether the replica that writes the file lives."""
    try:
        with Lock(path) as lock:
            return not lock.try_exclusive()
    except OSError:
        return True  # another user's
