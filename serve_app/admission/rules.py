"""The numbers that admission goes by, as they follow from the config."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.config import AppConfig


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The numbers that `Admission` goes by."""

    max_concurrent_requests: int
    """Slots on each replica."""
    max_queued: int
    """Sequences that may wait, in the whole service."""
    max_wait_s: float
    """How long a request may wait for its slot."""
    start_wait_s: float | None = None
    """The same while there is no engine, with `min_replicas: 0`; None: such requests are refused."""
    reserved_share: float = 0.0
    """Share of all slots that the flex tier leaves free."""
    max_requests_per_key: int | None = None
    max_tokens_per_minute_per_key: int | None = None


def admission_rules(config: AppConfig) -> Rules:
    """Returns the rules of a service with this config."""
    engine, admission = config.engine, config.admission
    return Rules(
        max_concurrent_requests=engine.max_concurrent_requests,
        max_queued=config.max_queued_requests,
        max_wait_s=admission.max_wait_s,
        start_wait_s=None if engine.min_replicas else admission.max_start_wait_s,
        reserved_share=admission.flex_leaves_free,
        max_requests_per_key=admission.key_max_requests,
        max_tokens_per_minute_per_key=admission.key_tokens_per_minute,
    )
