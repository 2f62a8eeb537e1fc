"""The report as people and programs see it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from serve_app.stage import main
from serve_app.staging import timeline
from serve_app.staging.report import of_node
from serve_app.staging.timeline import PHASES, Event, Recorder, Timeline, append


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(timeline.VARIABLE, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two starts: one is ready, one goes on."""
    with Timeline(tmp_path, "first", {"model": "gpt-oss-20b", "node": "node-1"}) as start:
        recorder = Recorder(start.path)
        for seconds, phase in enumerate(PHASES):
            if phase not in ("capture", "processes"):
                recorder.measured(phase, seconds + 0.25)
        start.note(caches="generation 3")
    append(start.path, Event(time.time(), "ready", seconds=99.0))
    second = tmp_path / "starts/second.jsonl"
    append(second, Event(time.time(), "start", about={"model": "gpt-oss-120b", "node": "node-2"}))
    append(second, Event(time.time(), "begin", "staging"))
    return tmp_path


def lines(text: str) -> list[list[str]]:
    return [[cell for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_a_line_for_each_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    text = capsys.readouterr().out
    heading, first, second = text.splitlines()
    assert heading.split() == [
        *("replica", "node", "model", "started", "status", "caches"),
        *(word for phase in PHASES for word in phase.split()),
        *("other", "total"),
    ]
    assert first.split()[:3] == ["first", "node-1", "gpt-oss-20b"]
    assert "ready" in first
    assert "generation 3" in first
    # Right-aligned under their headings, and what is not known is no number.
    for phase in PHASES:
        cell = first[: heading.index(phase) + len(phase)].split()[-1]
        number = list(PHASES).index(phase)
        assert cell == ("-" if phase in ("capture", "processes") else f"{number}.2"), phase
        assert first[heading.index(phase) + len(phase) - 1] == cell[-1]
    assert "died in staging" in second
    assert second.split()[-2] == "-"


def test_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 0
    assert "remembers no start" in capsys.readouterr().out


def test_errors_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Timeline(tmp_path, "abc", {}):
        raise RuntimeError("no [bold] memory")
    assert main(["report", str(tmp_path)]) == 0
    assert "abc: RuntimeError: no [bold] memory" in capsys.readouterr().out


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--json", str(folder)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["phases_s"]["weights"] == 4.25
    assert first["status"] == "ready"
    assert first["about"]["caches"] == "generation 3"
    assert second["within"] == "staging"


def test_the_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert [start.replica for start in of_node("~")] == ["first", "second"]


def test_a_folder_from_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["report", folder.name]) == 0
    assert "first" in capsys.readouterr().out
