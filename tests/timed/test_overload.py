"""Ten times what the engines can take."""

from __future__ import annotations

import pytest
from ray import serve

from benchmarks.admission.loads import load
from serve_app.admission.service_time import MAX_RETRY_AFTER_S
from tests.services import LOAD_TIMEOUT_S, Service, wait_for_load
from tests.timed.conftest import CAP, MAX_WAIT_S, NUM_ENGINES, TOKENS_PER_S

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

# An answer keeps its slot for four seconds: what lies between two answers is little, also on a busy machine.
NUM_TOKENS = 200
OVERLOAD_S = 30.0


def num_steps() -> tuple[int, int]:
    """Steps that the engines have made since they started, and those that they were too late for."""
    engines = serve.get_deployment_handle("TimedEngine", "gpt-oss")
    made, left_out = zip(*engines.broadcast("num_steps").results(timeout_s=LOAD_TIMEOUT_S), strict=True)
    return sum(made), sum(left_out)


def test_overload(service: Service) -> None:
    places = NUM_ENGINES * CAP
    made_before, left_out_before = num_steps()
    overload = load(service.url, OVERLOAD_S, NUM_TOKENS, rate=10 * places * TOKENS_PER_S / NUM_TOKENS)
    wait_for_load(0, 0)
    made, left_out = num_steps()
    made, left_out = made - made_before, left_out - left_out_before
    # An engine makes steps for as long as it has requests: it was never without, and had all that it can run.
    assert made + left_out >= 0.9 * NUM_ENGINES * OVERLOAD_S * TOKENS_PER_S
    assert overload.statuses["200"] * NUM_TOKENS >= 0.75 * made * CAP

    assert set(overload.statuses) == {"200", "429"}
    assert not overload.cut, "nobody who was admitted"
    assert overload.num_refused_without_retry_after == 0
    # At once: who waited for a turn that did not come would be told after MAX_WAIT_S.
    assert overload.refused_after_s
    assert overload.refused_after_s.p90 < MAX_WAIT_S / 10
    # Each is told another time, up to the longest that clients wait: one second and 60 are both among them.
    assert overload.retry_after_s
    assert overload.retry_after_s.mean < overload.retry_after_s.max == MAX_RETRY_AFTER_S
