"""Limits of one API key: requests at a time, and tokens a minute."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.admission.protocol import RateLimits, Reason

MINUTE_S = 60.0
# Keys that are remembered before those with nothing open and a full bucket are looked for, and forgotten.
MANY_KEYS = 10_000


@dataclass(slots=True)
class _Use:
    num_open: int = 0
    # Tokens that the key may still use. Below zero after a long answer: an answer is charged when it ends.
    balance: float = 0.0
    updated_at: float = 0.0


class KeyLimits:
    """What each key uses now. None is no limit.

    Tokens are a bucket that holds a minute's worth and fills evenly. A request needs a bucket that is not
    empty; what it used is taken out when its sequences end, so a key can overdraw by what it had running.
    """

    def __init__(self, max_requests: int | None, tokens_per_minute: int | None) -> None:
        self._max_requests = max_requests
        self._tokens_per_minute = tokens_per_minute
        self._uses: dict[str, _Use] = {}
        self._sweep_at = MANY_KEYS

    @property
    def is_needed(self) -> bool:
        """Whether there is any limit."""
        return self._max_requests is not None or self._tokens_per_minute is not None

    def refuses(self, key: str, now: float) -> Reason | None:
        """Why a request of this key may not begin, or None."""
        if not self.is_needed:
            return None
        use = self._use(key, now)
        if self._max_requests is not None and use.num_open >= self._max_requests:
            return Reason.KEY_REQUESTS
        if self._tokens_per_minute is not None and use.balance <= 0:
            return Reason.KEY_TOKENS
        return None

    def open(self, key: str, now: float) -> None:
        """A request has begun to count."""
        self._use(key, now).num_open += 1

    def close(self, key: str, now: float) -> None:
        """A request is over."""
        self._use(key, now).num_open -= 1

    def charge(self, key: str, num_tokens: int, now: float) -> None:
        """Takes out what a sequence has used."""
        if self._tokens_per_minute is not None:
            self._use(key, now).balance -= num_tokens

    def limits(self, key: str, now: float, request_s: float) -> RateLimits | None:
        """What the headers say; None without limits. `request_s` is how long a request takes."""
        if not self.is_needed:
            return None
        use = self._use(key, now)
        rate = (self._tokens_per_minute or 0) / MINUTE_S
        missing = (self._tokens_per_minute or 0) - use.balance
        return RateLimits(
            max_requests=self._max_requests,
            remaining_requests=max(0, (self._max_requests or 0) - use.num_open),
            requests_reset_s=request_s / use.num_open if use.num_open else 0.0,
            max_tokens=self._tokens_per_minute,
            remaining_tokens=max(0, int(use.balance)),
            tokens_reset_s=missing / rate if rate else 0.0,
        )

    def retry_after_s(self, key: str, reason: Reason, now: float, request_s: float) -> float:
        """Seconds until a request of this key will not be refused for `reason`."""
        use = self._use(key, now)
        if reason is Reason.KEY_TOKENS:
            assert self._tokens_per_minute is not None
            return (1 - use.balance) * MINUTE_S / self._tokens_per_minute
        return request_s / max(1, use.num_open)

    def _use(self, key: str, now: float) -> _Use:
        use = self._uses.get(key)
        if use is None:
            if len(self._uses) >= self._sweep_at:
                self._forget_idle(now)
            use = self._uses[key] = _Use(balance=float(self._tokens_per_minute or 0), updated_at=now)
        self._refill(use, now)
        return use

    def _refill(self, use: _Use, now: float) -> None:
        full = float(self._tokens_per_minute or 0)
        use.balance = min(full, use.balance + (now - use.updated_at) * full / MINUTE_S)
        use.updated_at = now

    def _forget_idle(self, now: float) -> None:
        """A key with nothing open and a full bucket is as one never seen."""
        for key, use in list(self._uses.items()):
            self._refill(use, now)
            if not use.num_open and use.balance >= (self._tokens_per_minute or 0):
                del self._uses[key]
        self._sweep_at = max(MANY_KEYS, 2 * len(self._uses))
