"""Seconds of the phases inside vLLM, measured in the process that they happen in.

vLLM logs some of them and hands out none. So the methods of its worker that its engine core calls in turn
are wrapped. Where a later release has renamed one, a start still works, and its report lacks all or that one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve_app import private_names
from serve_app.staging.timeline import CAPTURE, COMPILE, KERNELS, PROFILE, WEIGHTS, Recorder

logger = logging.getLogger(__name__)

# In the order in which they are called. Both models are loaded, compiled and captured by the same calls.
WORKER_METHODS = {
    "load_model": WEIGHTS,
    # A step of the largest size, in which torch.compile compiles.
    "determine_available_memory": PROFILE,
    # Kernels are warmed up and tuned in it, before and after graphs are captured.
    "compile_or_warm_up_model": KERNELS,
}
RUNNER_METHODS = {"capture_model": CAPTURE}


def install(path: Path) -> None:
    """Makes the workers of this process record their phases in the file `path`, as far as vLLM lets them."""
    if private_names.usable(__name__):
        from vllm.v1.worker.worker_base import WorkerWrapperBase

        watch(WorkerWrapperBase, path)


def watch(wrapper: Any, path: Path) -> None:
    """Makes workers record their phases in the file `path`.

    `wrapper` is vLLM's class `WorkerWrapperBase`: its `init_device` is the first of its methods at whose end
    there are a worker and a model runner.
    """
    init_device = getattr(wrapper, "init_device", None)
    if init_device is None:
        return

    @functools.wraps(init_device)
    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        result = init_device(self, *arguments, **options)
        # An engine matters more than its report.
        try:
            watch_worker(self.worker, Recorder(path))
        except Exception:
            logger.warning("the phases of this start will not be known", exc_info=True)
        return result

    wrapper.init_device = watched


def watch_worker(worker: Any, recorder: Recorder) -> None:
    """Wraps the methods of one worker, if it is the first of its engine."""
    if getattr(worker, "rank", 0):
        return
    compile_time = _CompileTime(worker)
    for target, methods in (
        (worker, WORKER_METHODS),
        (getattr(worker, "model_runner", None), RUNNER_METHODS),
    ):
        for name, phase in methods.items():
            if method := getattr(target, name, None):
                setattr(target, name, _timed(method, phase, recorder, compile_time))


class _CompileTime:
    """vLLM's own sum of what torch.compile took, or loading what it has compiled before."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._known_s = self._sum_s()

    def more_s(self) -> float:
        """Returns what has been added since the last call."""
        before, self._known_s = self._known_s, self._sum_s()
        return self._known_s - before

    def _sum_s(self) -> float:
        config = getattr(getattr(self._worker, "vllm_config", None), "compilation_config", None)
        return float(getattr(config, "compilation_time", 0.0))


def _timed(
    method: Callable[..., Any], phase: str, recorder: Recorder, compile_time: _CompileTime
) -> Callable[..., Any]:
    @functools.wraps(method)
    def timed(*arguments: Any, **options: Any) -> Any:
        with recorder.phase(phase):
            result = method(*arguments, **options)
            # It may compile in each of them.
            if seconds := compile_time.more_s():
                recorder.measured(COMPILE, seconds)
        return result

    return timed
