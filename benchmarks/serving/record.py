"""Reads what the timed engines recorded: when each token of each request was emitted."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
# The client's name of a request, which services put into theirs.
REQUEST = re.compile(r"bench-\d+-\d+")
# An engine's line about a request may come after the client's last byte.
TIMEOUT_S, POLL_S = 3.0, 0.05


class Record:
    """A folder with a file of each engine, which grow. Every line is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets: dict[Path, int] = {}
        self._counts: dict[Path, tuple[int, int]] = {}

    def read(self, num_requests: int) -> tuple[dict[str, Times], float]:
        """Returns the times of each token by the client's id, and the share of steps that were skipped.

        Of what was added since the last time; waits a moment for `num_requests`.
        """
        before = np.sum(list(self._counts.values()) or [(0, 0)], axis=0)
        found: dict[str, Times] = {}
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            self._read_new(found)
            if len(found) >= num_requests or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        steps, skipped = np.sum(list(self._counts.values()) or [(0, 0)], axis=0) - before
        return found, float(skipped / max(1, steps + skipped))

    def _read_new(self, found: dict[str, Times]) -> None:
        for path in self.folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            for line in whole.splitlines():
                entry = msgspec.json.decode(line)
                self._counts[path] = entry["steps"], entry["skipped"]
                if (name := REQUEST.search(entry["request_id"])) and entry["emissions"]:
                    times, numbers = np.array(entry["emissions"], np.int64).T
                    found[name[0]] = np.repeat(times, numbers)
