"""How many examples the tests of properties try."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

# `scripts/test --fast` tries a fifth of them: enough to see that a property is broken in an ordinary way.
SHARE = 5 if os.environ.get("TEST_EXAMPLES") == "few" else 1


def num_examples(number: int) -> int:
    """What of `number` this run tries."""
    return max(number // SHARE, 1)


def examples(number: int, **options: Any) -> settings:
    """Settings for so many examples, without a limit to the time of one: the machine may be busy."""
    return settings(max_examples=num_examples(number), deadline=None, **options)
