"""An engine process of the benchmark, from the outside: its spec, its log, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from serve_app.staging.cache_folder import VARIABLES

ROOT = Path(__file__).parents[2]
STOP_TIMEOUT_S = 20
# vLLM's monitor, which says so of each kernel and shape with `jit_monitor_verbose`.
COMPILED = re.compile(rb"(\w+ (?:kernel JIT compilation|JIT compilation)) during inference: ([\w.<>]*\w)")
AUTOTUNED = re.compile(rb"Triton autotuning for function (\w+)")


class FailedError(Exception):
    """The process has ended, or does not answer in time; the text has the end of its log."""


class EngineProcess:
    """One engine. Caches of compiled code are its own, so that engines do not warm each other's."""

    def __init__(self, spec: dict[str, Any], folder: Path, environment: dict[str, str]) -> None:
        self.name = spec["name"]
        self.log = folder / f"{self.name}.log"
        file = folder / f"{self.name}.json"
        file.write_text(json.dumps(spec))
        caches = {name: str(folder / "caches" / self.name / value) for name, value in VARIABLES.items()}
        # On some hosts the packages come by PYTHONPATH too.
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        read, write = os.pipe()
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.capacity.engine", str(file), str(write)],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": path} | caches | environment,
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                pass_fds=(write,),
                start_new_session=True,
            )
        os.close(write)
        self._results: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(read,), daemon=True).start()
        self._ready_at = 0

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor) as results:
            for line in results:
                self._results.put(line)
        self._results.put("")

    def ready(self, timeout_s: float) -> dict[str, Any]:
        """Waits for the start and returns what is known of it."""
        found = self._result(timeout_s)
        self._ready_at = self.log.stat().st_size
        return found | {"compiled_before_ready": self._compiled(0, self._ready_at)}

    def measure(self, traffic: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Returns the figures of a `Traffic`, and what was compiled meanwhile."""
        begin = self.log.stat().st_size
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(traffic).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedError(self._tail()) from None
        found = self._result(timeout_s)
        return found | {"compiled": self._compiled(begin, self.log.stat().st_size)}

    def _result(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._results.get(timeout=max(0.1, timeout_s))
        except queue.Empty:
            raise FailedError(f"no answer in {timeout_s:.0f} s: {self._tail()}") from None
        if not line:
            raise FailedError(self._tail())
        found: dict[str, Any] = json.loads(line)
        return found

    def _compiled(self, begin: int, end: int) -> dict[str, Any]:
        """How often something was compiled or tuned, by kernel."""
        with self.log.open("rb") as log:
            log.seek(begin)
            text = log.read(end - begin)
        kernels: dict[str, int] = {}
        for kernel in [name for _, name in COMPILED.findall(text)] + AUTOTUNED.findall(text):
            kernels[kernel.decode()] = kernels.get(kernel.decode(), 0) + 1
        return {"times": sum(kernels.values()), "kernels": dict(sorted(kernels.items()))}

    def _tail(self) -> str:
        return (
            f"exit status {self._process.poll()}; {self.log} ends:\n"
            + self.log.read_text(errors="replace")[-3000:]
        )

    def stop(self) -> None:
        """In order, and then by force, with everything that it has started."""
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            assert self._process.stdin
            self._process.stdin.close()
            self._process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
