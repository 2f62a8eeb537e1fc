from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serve_app.staging.locks import Lock, exclusive
from tests.unit.staging.fault_proxy import PATIENCE_S

HOLD = """
import sys
from pathlib import Path
from serve_app.staging.locks import Lock
lock = Lock(Path(sys.argv[1]))
lock.shared() if sys.argv[2] == "shared" else lock.exclusive()
"""
WAIT = 'print("held", flush=True)\nsys.stdin.read()'


def holder(path: Path, kind: str, more: str = WAIT) -> subprocess.Popen[str]:
    """A process that has the lock, and does `more`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + more, path, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.kill()


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with Lock(tmp_path / "locks" / "a") as first, Lock(tmp_path / "locks" / "a") as second:
        assert first.try_exclusive()
        assert not second.try_exclusive()
        first.close()
        first.close()
        assert second.try_exclusive()


def test_sharing(tmp_path: Path) -> None:
    with Lock(tmp_path / "a") as first, Lock(tmp_path / "a") as second, Lock(tmp_path / "a") as third:
        first.shared()
        second.shared()
        assert not third.try_exclusive()
        first.close()
        assert not third.try_exclusive()
        second.close()
        assert third.try_exclusive()


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_a_killed_process_releases(tmp_path: Path, kind: str) -> None:
    process = holder(tmp_path / "a", kind)
    with Lock(tmp_path / "a") as lock:
        assert not lock.try_exclusive()
        kill(process)
        assert lock.try_exclusive()


# A child made by fork outlives its parent, as vLLM's engine processes might; one made by exec, too.
FORK = """
import os, time
if os.fork() == 0:
    print("held", os.getpid(), flush=True)
time.sleep(1000)
"""
EXEC = """
import subprocess, time
child = subprocess.Popen(["sleep", "1000"])
print("held", child.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("more", [FORK, EXEC])
def test_children_do_not_keep_what_a_killed_parent_held(tmp_path: Path, more: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + more, tmp_path / "a", "exclusive"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    _, child = process.stdout.readline().split()
    with Lock(tmp_path / "a") as lock:
        assert not lock.try_exclusive()
        kill(process)
        is_released = lock.try_exclusive()
        os.kill(int(child), signal.SIGKILL)  # which is still there
        assert is_released


def test_a_child_that_ends_leaves_the_lock_to_its_parent(tmp_path: Path) -> None:
    more = "import os\npid = os.fork()\nif pid == 0:\n    lock.close()\n    os._exit(0)\nos.waitpid(pid, 0)\n"
    process = holder(tmp_path / "a", "exclusive", more + WAIT)
    with Lock(tmp_path / "a") as lock:
        assert not lock.try_exclusive()
    kill(process)


def test_exclusive_waits_and_says_so(tmp_path: Path) -> None:
    path, order = tmp_path / "a", []
    waiting = threading.Event()

    def second() -> None:
        with exclusive(path, waiting.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with exclusive(path, lambda: order.append("not reached")):
        thread.start()
        assert waiting.wait(PATIENCE_S)
        order.append("first")
    thread.join(PATIENCE_S)
    assert order == ["first", "second"]


def test_touch(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with Lock(path) as lock:
        os.utime(path, (1, 1))
        lock.touch()
        assert path.stat().st_mtime > 1
    os.utime(path, (1, 1))
    lock.touch()
    assert path.stat().st_mtime == 1
