import asyncio

import pytest

from serve_app.api.throttle import Throttle


class Clock:
    """Stands in for the loop's clock and for sleeping."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        self.now, self.slept = 100.0, []  # type: tuple[float, list[float]]
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


def test_no_cap() -> None:
    assert not Throttle(None).is_set


async def test_the_first_at_once_and_the_next_after_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        clock = Clock(patch, loop)
        throttle = Throttle(4)
        assert throttle.is_set
        await throttle.wait()
        assert clock.slept == []
        await throttle.wait()
        assert clock.slept == [0.25]
        clock.now += 0.1
        await throttle.wait()
        assert clock.slept == [0.25, 0.15]
        clock.now += 10
        await throttle.wait()  # late: no waiting, and nothing to make up for
        await throttle.wait()
        assert clock.slept == [0.25, 0.15, 0.25]
