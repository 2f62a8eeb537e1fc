"""An engine that hangs under open answers: its replica leaves by itself, with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import psutil
import pytest

from tests.app.test_engine_death import REQUESTS, TIMEOUT_S, ask_all, engine_processes
from tests.services import Service
from tests.waiting import TimeUpError, wait_until

pytestmark = pytest.mark.app

KILL_TIMEOUT_S = 300


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that live on. Who has been killed takes its time to give its memory back."""
    with contextlib.suppress(TimeUpError):
        # They are not children of this process, which hears nothing of their end.
        wait_until(lambda: not any(map(lives, processes)), KILL_TIMEOUT_S, lambda: processes, interval_s=0.05)
    return [one for one in processes if lives(one)]


def test_a_replica_whose_engine_hangs_is_replaced(service: Service) -> None:
    """Its answers go on in the other engine."""
    begun = Semaphore(0)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        answers = ask_all(service, pool, begun)
        for _ in REQUESTS:
            assert begun.acquire(timeout=TIMEOUT_S)
        stuck = engine_processes(service)[0]
        replica = stuck.parent()
        assert replica
        family = [stuck, *stuck.children(recursive=True)]
        # As if its GPU did not answer: it lives, and does nothing.
        os.kill(stuck.pid, signal.SIGSTOP)
        try:
            for answer in answers.values():
                answer.result()
        finally:
            # Nothing stopped may be left, whatever was seen.
            left = left_of(family)
            for process in left:
                process.kill()
    assert not lives(replica)
    assert not left, "the replica has killed them"

    service.wait_for_engines(2)
    assert "the vLLM engine hangs: no token for " in service.log.read_text(errors="replace")
