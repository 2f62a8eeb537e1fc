"""Threads that compile grammars: a limit for each request, and room for the quick beside the slow."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.vllm_worker.compile_threads import (
    NICENESS,
    CompileSlots,
    CompileThreads,
    GrammarTimeoutError,
    num_slots,
    yield_to_others,
)
from tests.clocks import ManualClock

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's

WAIT_S = 60


class Compilation:
    """One that takes until a test ends it."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, result: str = "grammar") -> str:
        self.has_begun.set()
        assert self.may_end.wait(WAIT_S)
        if result == "bad":
            raise ValueError(result)
        return result


@pytest.fixture
def compilation() -> Iterator[Compilation]:
    made = Compilation()
    yield made
    made.may_end.set()


def test_a_result_and_an_error_are_the_calls() -> None:
    threads = CompileThreads()
    compilation = Compilation()
    compilation.may_end.set()
    assert threads.submit(compilation).result(WAIT_S) == "grammar"
    with pytest.raises(ValueError, match="bad"):
        threads.submit(compilation, "bad").result(WAIT_S)


def test_a_future_fails_when_its_time_is_up_and_no_sooner(compilation: Compilation) -> None:
    clock = ManualClock()
    future = CompileThreads(60, clock.perf_counter).submit(compilation)
    assert compilation.has_begun.wait(WAIT_S)
    clock.sleep(59)
    assert not future.done()
    clock.sleep(1)
    assert future.done()
    with pytest.raises(GrammarTimeoutError, match="within 60 s"):
        future.result()


@pytest.mark.parametrize("result", ["grammar", "bad"])
def test_what_comes_too_late_changes_nothing(result: str, compilation: Compilation) -> None:
    clock = ManualClock()
    threads_before = set(threading.enumerate())
    future = CompileThreads(60, clock.perf_counter).submit(compilation, result)
    [thread] = set(threading.enumerate()) - threads_before
    clock.sleep(60)
    assert future.done()
    compilation.may_end.set()
    thread.join(WAIT_S)  # without an error of its own, which pytest would report
    with pytest.raises(GrammarTimeoutError):
        future.result()


def test_what_is_done_stays_done() -> None:
    clock = ManualClock()
    future = CompileThreads(60, clock.perf_counter).submit(lambda: "grammar")
    assert future.result(WAIT_S) == "grammar"
    clock.sleep(1000)
    assert future.done()
    assert future.result() == "grammar"


def test_the_end_waits_for_nobody(compilation: Compilation) -> None:
    threads = CompileThreads()
    threads.submit(compilation)
    threads.shutdown(wait=True, cancel_futures=True)
    assert not compilation.may_end.is_set()


@contextmanager
def running(slots: CompileSlots, compilation: Compilation) -> Iterator[threading.Thread]:
    """A compilation that holds a slot, in a thread of its own."""

    def run() -> None:
        with slots.taken():
            compilation()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        compilation.may_end.set()
        thread.join(WAIT_S)


def test_a_quick_one_begins_beside_one_that_has_become_slow() -> None:
    slots = CompileSlots(1, slow_after_s=0.05)
    slow = Compilation()
    with running(slots, slow):
        assert slow.has_begun.wait(WAIT_S)
        with slots.taken():  # by the clock alone: nobody tells of it
            assert not slow.may_end.is_set()


def test_the_next_one_waits_for_a_slot_and_gets_it() -> None:
    slots = CompileSlots(1)
    first, second = Compilation(), Compilation()
    with running(slots, first):
        assert first.has_begun.wait(WAIT_S)
        with running(slots, second):
            first.may_end.set()
            assert second.has_begun.wait(WAIT_S)


def test_no_more_than_the_slots_and_the_slow_ones_run(caplog: pytest.LogCaptureFixture) -> None:
    slots = CompileSlots(1, max_slow=1, slow_after_s=0, max_wait_s=0.01)
    first, second = Compilation(), Compilation()
    with running(slots, first), running(slots, second):
        assert first.has_begun.wait(WAIT_S)
        assert second.has_begun.wait(WAIT_S)
        caplog.set_level(logging.ERROR)
        with pytest.raises(GrammarTimeoutError, match="no thread"), slots.taken():
            pass
        assert "2 others have been compiling for too long" in caplog.text
    with slots.taken():
        pass


def test_many_compilations_keep_within_their_limits() -> None:
    slots = CompileSlots(3, max_slow=2, slow_after_s=0.001)
    lock, now, most = threading.Lock(), 0, 0

    def run(number: int) -> None:
        nonlocal now, most
        with slots.taken():
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.002 * (number % 3))  # some become slow
            with lock:
                now -= 1
        if number % 5 == 0:
            raise ValueError(number)

    with ThreadPoolExecutor(16) as pool:
        done = [pool.submit(run, number) for number in range(100)]
    assert sum(one.exception() is not None for one in done) == 20
    assert now == 0
    assert most <= 5
    assert not slots._begins


def test_a_thread_that_compiles_has_a_lower_priority_and_no_other() -> None:
    def run() -> int:
        yield_to_others()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert CompileThreads().submit(run).result(WAIT_S) == max(before, NICENESS)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_there_is_a_slot_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7})
    assert num_slots() == 1


@pytest.fixture
def new_manager(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Makes vLLM's `StructuredOutputManager` without most of it, in an engine core of ours."""
    from vllm.v1.structured_output import StructuredOutputManager

    from serve_app.vllm_worker import compile_threads

    monkeypatch.setattr(StructuredOutputManager, "grammar_init", StructuredOutputManager.grammar_init)
    compile_threads.install()

    def new(backend: Any) -> Any:
        manager = StructuredOutputManager.__new__(StructuredOutputManager)
        manager.backend = backend
        manager._use_async_grammar_compilation = True
        return manager

    return new


def test_vllm_waits_for_a_grammar_no_longer_than_it_may(
    new_manager: Callable[[Any], Any], compilation: Compilation
) -> None:
    """What its scheduler asks is whether the grammar is there; an exception ends the request alone."""
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams
    from vllm.v1.structured_output.request import StructuredOutputRequest

    params = SamplingParams(structured_outputs=StructuredOutputsParams(structural_tag="{}"))

    def request() -> Any:
        structured = StructuredOutputRequest.from_sampling_params(params)
        return SimpleNamespace(request_id="r", sampling_params=params, structured_output_request=structured)

    manager = new_manager(SimpleNamespace(compile_grammar=lambda *args, **options: compilation()))
    clock = ManualClock()
    manager.executor = CompileThreads(60, clock.perf_counter)
    one, seen = request(), []
    manager.grammar_init(one)
    for _ in range(2):
        seen.append(one.structured_output_request.grammar)
        clock.sleep(60)
    assert seen[0] is None
    assert isinstance(seen[1], GrammarTimeoutError)

    other = request()
    manager.grammar_init(other)
    compilation.may_end.set()
    assert other.structured_output_request._grammar.result(WAIT_S) == "grammar"
    assert other.structured_output_request.grammar == "grammar"


def test_the_threads_of_vllm_are_replaced_once(new_manager: Callable[[Any], Any]) -> None:
    manager = new_manager(None)
    manager.executor = ThreadPoolExecutor(1)
    nothing = SimpleNamespace(structured_output_request=None)
    seen: list[Any] = []
    for _ in range(2):
        manager.grammar_init(nothing)
        seen.append(manager.executor)
    assert isinstance(seen[0], CompileThreads)
    assert seen[0] is seen[1]


def test_a_vllm_without_threads_gets_none(new_manager: Callable[[Any], Any]) -> None:
    manager = new_manager(None)
    manager.grammar_init(SimpleNamespace(structured_output_request=None))
    assert not hasattr(manager, "executor")
