"""The schedule of an open loop."""

import numpy as np
import pytest

from serve_app.bench.arrivals import poisson, share


def test_a_poisson_process() -> None:
    times = poisson(100, 3, requests=20_000, duration_s=None)
    gaps = np.diff(times) / 1e9
    assert len(times) == 20_000
    assert (gaps >= 0).all()
    # Exponential: the mean and the standard deviation are both 1/rate, and half the gaps are below ln 2/rate.
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.03)
    assert (gaps < np.log(2) / 100).mean() == pytest.approx(0.5, abs=0.02)


def test_a_schedule_ends_with_the_duration_or_the_requests() -> None:
    times = poisson(50, 3, requests=None, duration_s=10)
    assert times[-1] < 10e9
    assert len(times) == pytest.approx(500, abs=100)
    assert poisson(50, 3, requests=20, duration_s=10).tolist() == times[:20].tolist()
    assert len(poisson(50, 3, requests=5000, duration_s=10)) == len(times)
    assert len(poisson(0.001, 3, requests=None, duration_s=0.001)) == 0
    with pytest.raises(ValueError, match="end"):
        poisson(50, 3, requests=None, duration_s=None)


def test_the_seed_decides() -> None:
    same = [poisson(5, seed, requests=10, duration_s=None).tolist() for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_shares_add_up() -> None:
    for total in range(20):
        parts = [share(total, part, 3) for part in range(3)]
        assert sum(parts) == total
        assert max(parts) - min(parts) <= 1
