import math

import pytest

from serve_app.admission import key_limits
from serve_app.admission.key_limits import KeyLimits
from serve_app.admission.protocol import RateLimits, Reason

START = 1000.0


def test_without_limits_nothing_is_refused_or_remembered() -> None:
    limits = KeyLimits(None, None)
    assert not limits.is_needed
    assert limits.refuses("a", START) is None
    assert limits.limits("a", START, 1.0) is None
    limits.charge("a", 10**9, START)
    assert not limits._uses


# --- requests at a time --------------------------------------------------------------------------------


def test_requests_at_a_time() -> None:
    limits = KeyLimits(2, None)
    for _ in range(2):
        assert limits.refuses("a", START) is None
        limits.open("a", START)
    assert limits.refuses("a", START) is Reason.KEY_REQUESTS
    assert limits.refuses("b", START) is None
    limits.close("a", START)
    assert limits.refuses("a", START) is None


def test_a_refusal_does_not_count_as_a_request() -> None:
    limits = KeyLimits(1, None)
    for _ in range(5):
        assert limits.refuses("a", START) is None


def test_what_the_headers_say_of_requests() -> None:
    limits = KeyLimits(3, None)
    limits.open("a", START)
    limits.open("a", START)
    assert limits.limits("a", START, 10.0) == RateLimits(
        max_requests=3,
        remaining_requests=1,
        requests_reset_s=5.0,  # two that take ten seconds: one ends in five
        max_tokens=None,
        remaining_tokens=0,
        tokens_reset_s=0.0,
    )
    unused = limits.limits("b", START, 10.0)
    assert unused is not None
    assert (unused.remaining_requests, unused.requests_reset_s) == (3, 0.0)


def test_a_limit_that_is_overrun_leaves_none_and_not_less() -> None:
    """Requests that a gate learns of are not refused."""
    limits = KeyLimits(1, None)
    for _ in range(3):
        limits.open("a", START)
    said = limits.limits("a", START, 1.0)
    assert said is not None
    assert said.remaining_requests == 0
    limits.close("a", START)
    limits.close("a", START)
    assert limits.refuses("a", START) is Reason.KEY_REQUESTS
    limits.close("a", START)
    assert limits.refuses("a", START) is None


def test_when_a_request_will_be_free() -> None:
    limits = KeyLimits(2, None)
    limits.open("a", START)
    limits.open("a", START)
    assert limits.retry_after_s("a", Reason.KEY_REQUESTS, START, 10.0) == 5.0


# --- tokens a minute -----------------------------------------------------------------------------------


def test_a_minute_of_tokens_may_be_used_at_once() -> None:
    limits = KeyLimits(None, 600)
    limits.charge("a", 599, START)
    assert limits.refuses("a", START) is None
    limits.charge("a", 1, START)
    assert limits.refuses("a", START) is Reason.KEY_TOKENS
    assert limits.refuses("b", START) is None


def test_the_bucket_fills_evenly_and_not_beyond_its_size() -> None:
    limits = KeyLimits(None, 600)
    limits.charge("a", 600, START)
    for seconds, tokens in ((0, 0), (1, 10), (30, 300), (60, 600), (3600, 600)):
        said = limits.limits("a", START + seconds, 1.0)
        assert said is not None
        assert said.remaining_tokens == tokens


def test_many_small_looks_fill_it_no_faster() -> None:
    limits = KeyLimits(None, 600)
    limits.charge("a", 600, START)
    for step in range(1, 1001):
        limits.refuses("a", START + step * 0.001)
    said = limits.limits("a", START + 1, 1.0)
    assert said is not None
    assert said.remaining_tokens in (9, 10)


def test_a_long_answer_is_paid_for_by_waiting() -> None:
    limits = KeyLimits(None, 600)
    limits.charge("a", 1200, START)
    said = limits.limits("a", START, 1.0)
    assert said is not None
    assert said.remaining_tokens == 0
    assert said.tokens_reset_s == pytest.approx(120.0)
    assert limits.refuses("a", START + 60) is Reason.KEY_TOKENS
    assert limits.refuses("a", START + 61) is None


@pytest.mark.parametrize("used", [600, 601, 5000])
def test_who_comes_back_when_told_is_not_refused(used: int) -> None:
    limits = KeyLimits(None, 600)
    limits.charge("a", used, START)
    seconds = limits.retry_after_s("a", Reason.KEY_TOKENS, START, 1.0)
    assert limits.refuses("a", START + seconds - 0.2) is Reason.KEY_TOKENS
    assert limits.refuses("a", START + math.ceil(seconds)) is None


def test_both_limits() -> None:
    limits = KeyLimits(1, 600)
    limits.charge("a", 600, START)
    limits.open("a", START)
    assert limits.refuses("a", START) is Reason.KEY_REQUESTS
    limits.close("a", START)
    assert limits.refuses("a", START) is Reason.KEY_TOKENS
    said = limits.limits("a", START, 1.0)
    assert said is not None
    assert (said.max_requests, said.max_tokens) == (1, 600)


# --- memory --------------------------------------------------------------------------------------------


def test_keys_that_are_idle_are_forgotten_and_the_others_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_limits, "MANY_KEYS", 10)
    limits = KeyLimits(1, 600)
    limits.open("open", START)
    limits.charge("charged", 600, START)
    for number in range(1000):
        limits.refuses(f"stranger-{number}", START)
    assert len(limits._uses) < 20
    assert limits.refuses("open", START) is Reason.KEY_REQUESTS
    assert limits.refuses("charged", START) is Reason.KEY_TOKENS


def test_a_key_is_forgotten_once_its_bucket_is_full_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_limits, "MANY_KEYS", 10)
    limits = KeyLimits(None, 600)
    for number in range(9):
        limits.charge(f"charged-{number}", 300, START)
    for number in range(100):
        limits.refuses(f"stranger-{number}", START + 31)
    assert not any(key.startswith("charged") for key in limits._uses)


def test_many_busy_keys_are_not_searched_at_every_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_limits, "MANY_KEYS", 10)
    searches = []

    class Counting(KeyLimits):
        def _forget_idle(self, now: float) -> None:
            searches.append(now)
            super()._forget_idle(now)

    limits = Counting(1, None)
    for number in range(1000):
        limits.open(f"busy-{number}", START)
    assert len(limits._uses) == 1000
    assert len(searches) < 10
