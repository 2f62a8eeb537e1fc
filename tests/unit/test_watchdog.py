"""A process beside a replica kills it when its event loop stands still, and never before."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.watchdog import Watchdog
from serve_app.watchdog.process import LOOK_S, MAX_GAP_S, Silence
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
# Says that it is watched, and then does what its argument says.
REPLICA = """
import asyncio, sys, time
from serve_app.watchdog import Watchdog

async def main():
    dog = Watchdog(2.0)
    print(dog._process.pid, flush=True)
    if sys.argv[1] == "blocked":
        time.sleep(600)
    await asyncio.sleep(600)

asyncio.run(main())
"""


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TestSilence:
    @given(st.lists(st.tuples(st.floats(0, 100), st.booleans())), st.floats(3, 60))
    def test_time_counts_where_somebody_listened(
        self, looks: list[tuple[float, bool]], timeout_s: float
    ) -> None:
        clock = Clock()
        silence, expected_s = Silence(timeout_s, clock), 0.0
        for gap_s, has_heard in looks:
            clock.now_s += gap_s
            expected_s = 0.0 if has_heard else expected_s + min(gap_s, MAX_GAP_S)
            found = silence.is_too_long(has_heard=has_heard)
            if abs(expected_s - timeout_s) > 1e-6:
                assert found == (expected_s >= timeout_s)

    def test_a_machine_that_has_slept(self) -> None:
        clock = Clock()
        silence = Silence(30.0, clock)
        clock.now_s = 3600.0
        assert not silence.is_too_long(has_heard=False)
        for _ in range(int(30 / LOOK_S)):
            clock.now_s += LOOK_S
            found = silence.is_too_long(has_heard=False)
        assert found


@pytest.mark.parametrize("how", ["blocked", "stopped"])
def test_a_process_whose_event_loop_stands_still_is_killed(how: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", REPLICA, how]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as replica:  # type: ignore[call-overload]
        dog = psutil.Process(int(replica.stdout.readline()))
        if how == "stopped":
            replica.send_signal(signal.SIGSTOP)
        assert replica.wait(60) == -signal.SIGKILL
        assert "event loop has stood still for 2 s" in replica.stderr.read()
    wait_until(lambda: not dog.is_running() or dog.status() == psutil.STATUS_ZOMBIE, 30, lambda: dog)


async def test_it_ends_with_the_watch() -> None:
    dog = Watchdog()
    process = psutil.Process(dog._process.pid)
    await asyncio.sleep(0)
    dog.close()
    assert not process.is_running()


def test_it_ends_with_the_process() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", REPLICA, "lives"]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as replica:
        assert replica.stdout
        dog = psutil.Process(int(replica.stdout.readline()))
        replica.kill()
    wait_until(lambda: not dog.is_running() or dog.status() == psutil.STATUS_ZOMBIE, 30, lambda: dog)
