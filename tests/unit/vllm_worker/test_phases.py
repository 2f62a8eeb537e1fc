"""Times from inside vLLM: on classes as vLLM has them, and on vLLM's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.staging import starts, timeline
from serve_app.staging.starts import Start
from serve_app.staging.timeline import CAPTURE, COMPILE, KERNELS, PROFILE, WEIGHTS
from serve_app.vllm_worker.phases import RUNNER_METHODS, WORKER_METHODS, watch
from tests.clocks import ManualClock

CLOCK = ManualClock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "time", CLOCK)


class Runner:
    def __init__(self, config: SimpleNamespace) -> None:
        self.config = config

    def capture_model(self) -> int:
        CLOCK.sleep(0.03)
        # A graph that had to be compiled after all.
        self.config.compilation_time += 0.01
        return 7


class Worker:
    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.vllm_config = SimpleNamespace(compilation_config=SimpleNamespace(compilation_time=0.0))
        self.model_runner: Runner

    def init_device(self) -> None:
        self.model_runner = Runner(self.vllm_config.compilation_config)

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        CLOCK.sleep(0.02)

    def determine_available_memory(self) -> int:
        CLOCK.sleep(0.05)
        self.vllm_config.compilation_config.compilation_time += 0.02
        return 3

    def compile_or_warm_up_model(self) -> int:
        CLOCK.sleep(0.02)
        return self.model_runner.capture_model()


def wrapper() -> Any:
    """A class of its own for each test, as it is changed."""

    class WorkerWrapper:
        def __init__(self, worker: Any) -> None:
            self.worker = worker

        def init_device(self) -> str:
            self.worker.init_device()
            return "done"

        def __getattr__(self, name: str) -> Any:
            return getattr(self.worker, name)

    return WorkerWrapper


def run(worker: Any, path: Path) -> list[Any]:
    wrapped = wrapper()
    watch(wrapped, path)
    engine = wrapped(worker)
    assert engine.init_device() == "done"
    calls: list[Callable[..., Any]] = [
        getattr(engine, name) for name in WORKER_METHODS if hasattr(worker, name)
    ]
    return [call() for call in calls]


def read(path: Path) -> Start:
    start = starts.read(path)
    assert start
    return start


def test_phases(tmp_path: Path) -> None:
    assert run(Worker(), tmp_path / "a.jsonl") == [None, 3, 7]
    phases = read(tmp_path / "a.jsonl").phases_s
    assert set(phases) == {WEIGHTS, COMPILE, PROFILE, CAPTURE, KERNELS}
    # Each second once, in whichever it was spent.
    assert phases == pytest.approx(
        {WEIGHTS: 0.02, COMPILE: 0.03, PROFILE: 0.03, CAPTURE: 0.02, KERNELS: 0.02}, abs=0.0011
    )


def test_arguments_are_passed_on(tmp_path: Path) -> None:
    worker, wrapped = Worker(), wrapper()
    watch(wrapped, tmp_path / "a.jsonl")
    wrapped(worker).init_device()
    worker.load_model(load_dummy_weights=True)
    with pytest.raises(TypeError, match="unexpected"):
        worker.load_model(unknown=1)  # type: ignore[call-arg]


def test_only_the_first_worker_writes(tmp_path: Path) -> None:
    assert run(Worker(rank=1), tmp_path / "a.jsonl") == [None, 3, 7]
    assert not (tmp_path / "a.jsonl").exists()


def test_methods_that_a_release_does_not_have(tmp_path: Path) -> None:
    class Other:
        def init_device(self) -> None:
            pass

        def load_model(self) -> None:
            pass

    assert run(Other(), tmp_path / "a.jsonl") == [None]
    assert set(read(tmp_path / "a.jsonl").phases_s) == {WEIGHTS}
    watch(object, tmp_path / "a.jsonl")


def test_a_worker_that_cannot_be_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Slotted:
        __slots__ = ()

        def init_device(self) -> None:
            pass

        def load_model(self) -> str:
            return "loaded"

    assert run(Slotted(), tmp_path / "a.jsonl") == ["loaded"]
    assert "will not be known" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_vllm_has_these_methods() -> None:
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as Second
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as First
    from vllm.v1.worker.gpu_worker import Worker as VLLMWorker
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    assert all(callable(getattr(VLLMWorker, name)) for name in WORKER_METHODS)
    assert all(callable(getattr(runner, name)) for name in RUNNER_METHODS for runner in (First, Second))
    assert callable(WorkerWrapperBase.init_device)
    # What each of them calls leads to the worker's own attribute, which may be wrapped.
    assert not set(WORKER_METHODS) & set(vars(WorkerWrapperBase))
