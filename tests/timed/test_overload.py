"""Ten times what the engines can take."""

from __future__ import annotations

import pytest

from benchmarks.admission.loads import load
from serve_app.admission.service_time import MAX_RETRY_AFTER_S
from tests.services import Service
from tests.timed.conftest import CAP, MAX_WAIT_S, NUM_ENGINES, TOKENS_PER_S

pytestmark = [pytest.mark.app]

NUM_TOKENS = 50
OVERLOAD_S = 60.0


def test_overload(service: Service) -> None:
    places = NUM_ENGINES * CAP
    peak = load(service.url, 15, NUM_TOKENS, concurrency=places)
    assert peak.statuses == {"200": peak.num_requests}
    overload = load(service.url, OVERLOAD_S, NUM_TOKENS, rate=10 * places * TOKENS_PER_S / NUM_TOKENS)
    assert overload.served_per_s >= 0.95 * peak.served_per_s
    assert set(overload.statuses) == {"200", "429"}
    assert not overload.cut, "nobody who was admitted"
    assert overload.num_refused_without_retry_after == 0
    # At once: who waited for a turn that did not come would be told after MAX_WAIT_S.
    assert overload.refused_after_s
    assert overload.refused_after_s.p90 < MAX_WAIT_S / 10
    # Each is told another time, up to the longest that clients wait: one second and 60 are both among them.
    assert overload.retry_after_s
    assert overload.retry_after_s.mean < overload.retry_after_s.max == MAX_RETRY_AFTER_S
