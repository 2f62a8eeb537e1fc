"""Unit tests: no service and no engine, and no test that waits for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

# A thousand times what a test that waits for something takes, so that no busy machine comes near it.
TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A coroutine that waits in vain fails, and says where."""
    folder = Path(__file__).parent
    for item in items:
        is_waiting = item.get_closest_marker("asyncio") and not item.get_closest_marker("timeout")
        if folder in item.path.parents and is_waiting:
            # Fixtures may import vLLM, which on a busy machine takes as long.
            item.add_marker(pytest.mark.timeout(TIMEOUT_S, func_only=True))
