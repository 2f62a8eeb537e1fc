"""What a start writes down, and what is read from it, also when it did not come to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve_app.staging import starts, timeline
from serve_app.staging.starts import Start
from serve_app.staging.timeline import (
    CACHE_RESTORE,
    CAPTURE,
    COMPILE,
    ENGINE,
    IMPORTS,
    KERNELS,
    PROCESSES,
    STAGING,
    WARM_UP,
    WEIGHTS,
    Event,
    Recorder,
    Timeline,
    append,
)
from tests.clocks import ManualClock


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(timeline.VARIABLE, "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    manual = ManualClock()
    monkeypatch.setattr(timeline, "time", manual)
    return manual


def only(folder: Path) -> Start:
    (start,) = starts.read_all(folder)
    return start


def test_a_start(tmp_path: Path, clock: ManualClock) -> None:
    with Timeline(tmp_path, "abc", {"model": "gpt-oss-20b"}) as start:
        with start.phase(STAGING):
            clock.sleep(0.02)
        with start.phase(IMPORTS):
            pass
        start.note(caches="cold")
        with start.phase(ENGINE):
            # In another process.
            recorder = Recorder(Path(os.environ[timeline.VARIABLE]))
            clock.sleep(0.03)
            with recorder.phase(WEIGHTS):
                clock.sleep(0.02)
            with recorder.phase(KERNELS):
                clock.sleep(0.01)
                with recorder.phase(CAPTURE):
                    clock.sleep(0.04)
        with start.phase(WARM_UP):
            clock.sleep(0.01)
    read = only(tmp_path)
    assert (read.replica, read.status, read.within) == ("abc", "ready", "")
    assert read.about == {"model": "gpt-oss-20b", "caches": "cold"}
    assert read.started_at == pytest.approx(clock.time() - 0.13)
    phases = read.phases_s
    assert list(phases) == [STAGING, IMPORTS, PROCESSES, WEIGHTS, CAPTURE, KERNELS, WARM_UP]
    # Each second once, in the innermost phase.
    assert phases == pytest.approx(
        {
            STAGING: 0.02,
            IMPORTS: 0,
            PROCESSES: 0.03,
            WEIGHTS: 0.02,
            CAPTURE: 0.04,
            KERNELS: 0.01,
            WARM_UP: 0.01,
        },
        abs=0.0011,
    )
    assert read.total_s == pytest.approx(0.13)
    assert read.other_s == pytest.approx(0, abs=0.0011)
    assert str(read).startswith("ready after 0.")
    assert f"{STAGING} 0.0, {IMPORTS} 0.0, {PROCESSES} 0.0" in str(read)


def test_a_phase_that_somebody_else_has_timed(tmp_path: Path, clock: ManualClock) -> None:
    recorder = Recorder(tmp_path / "a.jsonl")
    with recorder.phase(KERNELS):
        clock.sleep(0.02)
        recorder.measured(COMPILE, 0.015)
        recorder.measured(COMPILE, 0.001)
    read = starts.read(recorder.path)
    assert read
    assert read.phases_s[COMPILE] == pytest.approx(0.016)
    assert read.phases_s[KERNELS] == pytest.approx(0.004, abs=0.0011)


def test_a_start_that_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no kernel"),
        Timeline(tmp_path, "abc", {}) as start,
        start.phase(ENGINE),
    ):
        raise ValueError("no kernel for this")
    read = only(tmp_path)
    assert read.status == "failed"
    assert read.about["error"] == "ValueError: no kernel for this"


KILLED = """
import os, sys, time
from pathlib import Path
from serve_app.staging.timeline import Recorder, Timeline
with Timeline(Path(sys.argv[1]), "abc", {}) as start:
    with start.phase("engine"):
        with Recorder(start.path).phase("weights"):
            pass
        with Recorder(start.path).phase("profile"):
            print("there", flush=True)
            time.sleep(1000)
"""


def test_a_start_that_goes_on_and_then_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        read = only(tmp_path)
        assert (read.status, read.within) == ("starting", "profile")
        assert WEIGHTS in read.phases_s
        process.send_signal(signal.SIGKILL)
    read = only(tmp_path)
    assert (read.status, read.within) == ("died", "profile")


def test_what_comes_after_the_start_does_not_count(tmp_path: Path) -> None:
    with Timeline(tmp_path, "abc", {}) as start:
        pass
    with Recorder(start.path).phase(WEIGHTS):  # vLLM can sleep, and wake up
        pass
    assert only(tmp_path).phases_s == {}


def test_lines_that_are_no_events(tmp_path: Path) -> None:
    with Timeline(tmp_path, "abc", {}) as start, start.phase(STAGING):
        with start.path.open("ab") as file:
            file.write(b'{"kind": "end", "pha\n\xff\n{}\n')
        append(start.path, Event(time.time(), "note", about={"a": 1}))
    assert only(tmp_path).status == "ready"
    assert only(tmp_path).about == {"a": 1}


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "starts").write_text("no folder")
    with Timeline(tmp_path, "abc", {}) as start, start.phase(STAGING):
        pass
    assert "stage report" in caplog.text
    assert starts.read_all(tmp_path) == []


def test_an_unreadable_start_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "starts/folder.jsonl").mkdir(parents=True)
    assert starts.read_all(tmp_path) == []
    assert starts.read_all(tmp_path / "nothing") == []


def test_old_starts_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_STARTS", 3)
    for number in range(5):
        with Timeline(tmp_path, str(number), {}) as start:
            pass
        os.utime(start.path, (number, number))
    assert [start.replica for start in starts.read_all(tmp_path)] == ["2", "3", "4"]


def test_phases_have_one_place_each() -> None:
    assert len(set(timeline.PHASES)) == len(timeline.PHASES)
    assert ENGINE not in timeline.PHASES
    assert CACHE_RESTORE in timeline.PHASES
