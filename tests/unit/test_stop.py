"""The end of the service, over a controller of a test: neither Ray nor Serve is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from serve_app import stop
from serve_app.stop import INTERRUPTED, POLL_S, REPORT_S, main, take_down


class Clock(stop.Clock):
    """Time passes only when somebody waits."""

    def __init__(self, interrupt_at: float = float("inf")) -> None:
        self.time = 100.0
        self._interrupt_at = 100.0 + interrupt_at

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        if self.time >= self._interrupt_at:
            raise KeyboardInterrupt


class Controller:
    """Serve's, with an application whose replicas take `drain_s` to finish what they have."""

    def __init__(self, clock: Clock, drain_s: float) -> None:
        self._clock, self._drain_s = clock, drain_s
        self._gone_at: float | None = None
        self.calls: list[str] = []
        self.apps_at_shutdown: int | None = None

    def delete_all_apps(self, blocking: bool) -> None:
        self.calls.append(f"delete, blocking: {blocking}")
        self._gone_at = self._clock.now() + self._drain_s

    def get_serve_details(self) -> Mapping[str, Any]:
        is_gone = self._gone_at is not None and self._clock.now() >= self._gone_at
        return {"applications": {} if is_gone else {"app": {"status": "DELETING"}}}

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        self.apps_at_shutdown = len(self.get_serve_details()["applications"])


def test_the_application_goes_first_and_serve_when_it_has_drained() -> None:
    clock = Clock()
    controller, said = Controller(clock, 3 * REPORT_S), list[str]()
    take_down(controller, clock, said.append)
    assert controller.calls == ["delete, blocking: False", "shutdown"]
    assert controller.apps_at_shutdown == 0
    assert clock.now() - 100 < 3 * REPORT_S + 2 * POLL_S
    assert said == [f"open requests are being finished ({seconds} s)" for seconds in (0, 10, 20)]


def test_nothing_to_drain_takes_no_time() -> None:
    clock, said = Clock(), list[str]()
    controller = Controller(clock, 0)
    take_down(controller, clock, said.append)
    assert controller.calls == ["delete, blocking: False", "shutdown"]
    assert (clock.now(), said) == (100.0, [])


def test_an_interrupt_cuts_nothing_short() -> None:
    """The application goes on ending by itself; Serve, with its proxies, stays until somebody asks again."""
    clock = Clock(interrupt_at=5)
    controller = Controller(clock, 60)
    with pytest.raises(KeyboardInterrupt):
        take_down(controller, clock, lambda _: None)
    assert controller.calls == ["delete, blocking: False"]


def test_a_controller_that_does_not_shut_down_is_not_taken_for_one_that_has() -> None:
    clock = Clock()

    class Stuck(Controller):
        def shutdown(self) -> None:
            raise TimeoutError("Controller failed to shut down within 30 s")

    with pytest.raises(TimeoutError, match="within 30 s"):
        take_down(Stuck(clock, 1), clock, lambda _: None)


def test_nothing_is_running(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stop, "connected_controller", lambda: None)
    stop.stop()
    assert capsys.readouterr().err == "no service is running\n"


@pytest.mark.filterwarnings("ignore")  # Ray's, when it is imported
def test_a_cluster_without_serve_has_no_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve import context
    from ray.serve.exceptions import RayServeException

    def missing() -> None:
        raise RayServeException("There is no Serve instance running on this Ray cluster.")

    monkeypatch.setattr(context, "_get_global_client", missing)
    assert stop.connected_controller() is None
    client: Any = object()
    monkeypatch.setattr(context, "_get_global_client", lambda: client)
    assert stop.connected_controller() is client


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []
    assert main(["--address", "head:6379"], done.append, lambda: done.append("stop")) == 0
    assert main([], done.append, lambda: done.append("stop")) == 0
    assert done == ["head:6379", "stop", "auto", "stop"]
    assert capsys.readouterr().err == ""


def test_the_command_line_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert main([], lambda _: None, interrupted) == INTERRUPTED
    assert "run this again" in capsys.readouterr().err


def test_the_command_line_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(address: str) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    stopped: list[str] = []
    assert main([], refuse, lambda: stopped.append("stop")) == 1
    assert not stopped
    assert "no Ray cluster to connect to (--address auto): Could not find" in capsys.readouterr().err
