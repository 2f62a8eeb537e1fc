"""What admission reads of an HTTP request, and says in the headers of its response."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers

from serve_app.admission.protocol import RateLimits, Tier
from serve_app.errors import ServiceError

TIERS = {"priority": Tier.PRIORITY, "fast": Tier.PRIORITY, "flex": Tier.FLEX}
# What `Retry-After` is for.
RETRYABLE = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def key_of(request_headers: Headers) -> str:
    """Returns what tells API keys apart and is none: a digest. Requests without one share the empty key."""
    authorization = request_headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else request_headers.get("x-api-key", "")
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


def tier_of(body: Any) -> Tier:
    """Returns the tier of OpenAI's `service_tier`; other values are the default one."""
    tier = body.get("service_tier") if isinstance(body, dict) else None
    return TIERS.get(tier, Tier.DEFAULT) if isinstance(tier, str) else Tier.DEFAULT


def retry_after(error: ServiceError) -> str | None:
    """Returns the `Retry-After` of an error, in whole seconds and never too few; None where it says none."""
    if error.status not in RETRYABLE or error.retry_after_s is None:
        return None
    return str(math.ceil(error.retry_after_s))


def limit_headers(limits: RateLimits) -> Iterator[tuple[str, str]]:
    """Yields OpenAI's `x-ratelimit-*`."""
    for name, most, remaining, reset_s in (
        ("requests", limits.max_requests, limits.remaining_requests, limits.requests_reset_s),
        ("tokens", limits.max_tokens, limits.remaining_tokens, limits.tokens_reset_s),
    ):
        if most is not None:
            yield f"x-ratelimit-limit-{name}", str(most)
            yield f"x-ratelimit-remaining-{name}", str(remaining)
            yield f"x-ratelimit-reset-{name}", duration(reset_s)


def duration(seconds: float) -> str:
    """Returns a duration as OpenAI writes it: `6m0s`, `1.5s`, `20ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
