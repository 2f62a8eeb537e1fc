"""When requests are due in an open loop."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]


def poisson(rate: float, seed: int, *, requests: int | None, duration_s: float | None) -> Times:
    """Returns the times of a Poisson process of `rate` a second, in ns from its start, ascending.

    It ends with the number of requests or the duration, whichever comes first; one of them must be given.
    """
    if requests is None and duration_s is None:
        raise ValueError("a schedule needs an end")
    random = np.random.default_rng(seed)
    # Ten standard deviations above the mean: what a duration cuts off is never missing.
    count = requests or int(rate * (duration_s or 0) + 10 * (rate * (duration_s or 0)) ** 0.5 + 10)
    times = np.cumsum(random.exponential(1 / rate, count))
    if duration_s is not None:
        times = times[times < duration_s]
    return (times * 1e9).astype(np.int64)


def share(total: int, part: int, num_parts: int) -> int:
    """Returns how much of `total` falls to `part`, so that the parts differ by one at most."""
    return total // num_parts + (part < total % num_parts)
