"""How the cost of something grows with its size, on a machine that may be busy: CPU time of this thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

FACTOR, MOST = 8, 24
# Below it, growth is the clock's.
_MIN_S = 2e-3


def cpu_s(work: Callable[[], Any], attempts: int = 3) -> float:
    """The least CPU time of some attempts."""
    taken = []
    for _ in range(attempts):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


def check_linear(work: Callable[[int], Callable[[], Any]], size: int) -> None:
    """Fails if the cost of what `work` makes for a size grows with its square.

    `work` prepares what is measured. Three times the growth of linear cost passes: memory gets slower, too.
    """
    small, large = work(size), work(FACTOR * size)
    before = max(cpu_s(small), _MIN_S)
    assert any(cpu_s(large, 1) < MOST * before for _ in range(3)), f"eight times {size} costs too much"
