"""An engine that hangs while streams are open: its replica leaves by itself, with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.app.test_engine_death import NUM_STREAMS, engine_processes, error_of, stream
from tests.services import Service
from tests.waiting import TimeUpError, wait_until

pytestmark = pytest.mark.app

KILL_TIMEOUT_S = 20


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
    opened = threading.Semaphore(0)
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        paths = ["chat/completions", "responses"] * (NUM_STREAMS // 2)
        answers = [pool.submit(stream, service, path, opened) for path in paths]
        for _ in paths:
            assert opened.acquire(timeout=60)
        stuck = engine_processes()[0]
        replica = stuck.parent()
        assert replica
        family = [stuck, *stuck.children(recursive=True)]
        # As if its GPU did not answer: it lives, and does nothing.
        os.kill(stuck.pid, signal.SIGSTOP)
        try:
            ends = [answer.result() for answer in answers]
        finally:
            # Nothing stopped may be left, whatever was seen.
            left = left_of(family)
            for process in left:
                process.kill()
    failed = [error for end in ends if (error := error_of(end))]
    assert failed, "the streams of the engine that hangs"
    assert len(failed) < NUM_STREAMS, "the other engine goes on"
    assert all("can be sent again" in error["message"] for error in failed)
    assert not lives(replica)
    assert not left, "the replica has killed them"

    service.wait_for_engines(2)
    assert "the vLLM engine hangs: no token for 2" in service.log.read_text(errors="replace")
