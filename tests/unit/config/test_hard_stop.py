"""HAProxy must not end streams that replicas are still to finish."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve_app.config import AppConfig, ConfigError, hard_stop
from serve_app.config.fast_paths import HA_PROXY, ON
from tests.examples import examples

ENGINE = {"max_concurrent_requests": 4, "max_model_len": 1000, "min_tokens_per_second": 3}


def config(**args: object) -> AppConfig:
    return AppConfig.model_validate({"engine": ENGINE} | args)


@examples(100)
@given(drain_s=st.none() | st.floats(1, 10_000), hard_stop_s=st.none() | st.integers(0, 10_000))
def test_it_comes_after_the_drain(drain_s: float | None, hard_stop_s: int | None) -> None:
    drained = config(drain_timeout_s=drain_s)
    environment = {HA_PROXY: ON} | ({} if hard_stop_s is None else {hard_stop.HARD_STOP: str(hard_stop_s)})
    least = 334 if drain_s is None else drain_s
    if (120 if hard_stop_s is None else hard_stop_s) >= least:
        hard_stop.check(drained, environment)
        return
    with pytest.raises(ConfigError, match="drain_timeout_s: ") as caught:
        hard_stop.check(drained, environment)
    # What it says to set is enough.
    hard_stop.check(drained, {HA_PROXY: ON, hard_stop.HARD_STOP: str(hard_stop.needed_s(drained))})
    assert f"set {hard_stop.HARD_STOP}={hard_stop.needed_s(drained)} before" in str(caught.value)


def test_without_haproxy_there_is_none() -> None:
    for environment in ({}, {HA_PROXY: "0", hard_stop.HARD_STOP: "1"}, {hard_stop.HARD_STOP: "soon"}):
        hard_stop.check(config(), environment)


def test_it_is_whole_seconds() -> None:
    with pytest.raises(ConfigError, match=r"is '1\.5' and must be whole seconds"):
        hard_stop.check(config(), {HA_PROXY: ON, hard_stop.HARD_STOP: "1.5"})


def test_the_default_is_serves() -> None:
    constants = pytest.importorskip("ray.serve._private.constants")
    assert constants.RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S == hard_stop.DEFAULT_S
