from __future__ import annotations

import io
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from serve_app.staging import progress as progresses
from serve_app.staging.progress import Progress, follow
from tests.unit.staging.fault_proxy import PATIENCE_S
from tests.unit.staging.versions import CHUNK_BYTES, manifest_of, random_content


def test_lines_where_nobody_looks(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    monkeypatch.setattr(progresses, "LOG_PERIOD_S", 0.0)
    with Progress.logged("s3://a/b").of(4_000_000, "sending") as on_bytes:
        on_bytes(1_000_000)
        on_bytes(3_000_000)
    begin, first, second, end = caplog.messages
    assert begin == "sending s3://a/b: 4.0 MB"
    assert first.startswith("sending s3://a/b: 1.0 MB of 4.0 MB, ")
    assert second.startswith("sending s3://a/b: 4.0 MB of 4.0 MB, ")
    assert second.endswith(" 0 s left")
    assert end.startswith("sending s3://a/b: 4.0 MB in ")


def test_lines_are_few(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    with Progress.logged("s3://a/b").of(1000) as on_bytes:
        for _ in range(1000):
            on_bytes(1)
    assert len(caplog.messages) == 2


def test_what_is_sent_again_is_counted_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # s3transfer does that before it repeats a part.
    monkeypatch.setattr(progresses, "LOG_PERIOD_S", 0.0)
    with Progress.logged("s3://a/b").of(10) as on_bytes:
        for count in (10, -10, 0, 10):
            on_bytes(count)


def test_many_threads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    with Progress.logged("s3://a/b").of(80_000_000) as on_bytes:
        threads = [threading.Thread(target=lambda: [on_bytes(1000) for _ in range(10_000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert caplog.messages[-1].startswith("s3://a/b: 80.0 MB in ")


def test_a_bar_where_a_person_looks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with Progress("s3://a/b", console).of(2_000_000) as on_bytes:
        on_bytes(2_000_000)
    assert "s3://a/b" in output.getvalue()
    assert "2.0/2.0 MB" in output.getvalue()
    assert caplog.messages == []


def test_no_bar_without_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    with Progress.shown("s3://a/b").of(1):
        pass
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 kB"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (13_761_300_984, "13.76 GB")]
)
def test_sizes(count: float, text: str) -> None:
    assert progresses._size(count) == text


class Recorded(Progress):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__("", None)
        self.titles: list[str] = []
        self.num_bytes = 0
        self.heard = threading.Event()

    @contextmanager
    def of(self, total_bytes: int, verb: str = "") -> Iterator[Callable[[int], None]]:
        self.titles.append(f"{verb} {total_bytes}")

        def on_bytes(count: int) -> None:
            self.num_bytes += count
            self.heard.set()

        yield on_bytes


def test_following_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progresses, "FOLLOW_PERIOD_S", 0.01)
    manifest = manifest_of(random_content(0))
    (tmp_path / "marks" / "sub").mkdir(parents=True)
    shown = Recorded()
    with follow(tmp_path / "marks", manifest, shown):
        (tmp_path / "marks" / "sub" / "a").write_bytes(b"\1\0\1")
        assert shown.heard.wait(PATIENCE_S)
    assert shown.titles == [f"another process is staging {manifest.total_bytes}"]
    assert shown.num_bytes == 2 * CHUNK_BYTES


def test_following_a_download_that_ends_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progresses, "FOLLOW_PERIOD_S", 0.0001)
    manifest = manifest_of(random_content(0))
    # An exception in the thread that follows fails this test, as a warning of pytest's.
    with follow(tmp_path / "marks", manifest, Recorded()):
        for _ in range(200):
            for number in range(5):
                (tmp_path / "marks" / str(number)).mkdir(parents=True)
                (tmp_path / "marks" / str(number) / "a").write_bytes(b"\1")
            shutil.rmtree(tmp_path / "marks")
