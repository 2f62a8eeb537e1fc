"""`python -m serve_app.bench URL`: load on an OpenAI-compatible service, and what its answers took.

Prints figures on stdout and its progress on stderr. Exits with 1 when every request failed, with 2 and one
message when the load is not possible.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence

from serve_app.bench import picture, report
from serve_app.bench.load import BenchError
from serve_app.bench.options import load_of, parser
from serve_app.bench.runner import run

INTERRUPTED = 130
LOG_PERIOD_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    progress = _Progress()
    try:
        result = run(load_of(options), progress.show)
        # A key is never among the arguments, and a URL with a password has been refused.
        command = shlex.join(["python", "-m", "serve_app.bench", *arguments])
        if options.json:
            options.json.write_text(json.dumps({"command": command} | result.data(), indent=2) + "\n")
        if options.picture:
            options.picture.write_text(picture.draw(result))
    except (BenchError, OSError) as error:
        progress.clear()
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress.clear()
        return INTERRUPTED
    progress.clear()
    print(report.render(result))
    return 1 if result.has_only_failures else 0


class _Progress:
    """One line that changes, on a terminal; elsewhere a line for each stage and one now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._stage = ""
        self._last_s = 0.0

    def show(self, line: str) -> None:
        """Says how far it is; what comes before a colon is the stage."""
        if self._is_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            return
        stage, now_s = line.partition(":")[0], time.monotonic()
        if stage != self._stage or now_s - self._last_s >= LOG_PERIOD_S:
            self._stage, self._last_s = stage, now_s
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leaves the line to what comes next."""
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
