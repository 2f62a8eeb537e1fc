"""What admission reads of an HTTP request, and says in the headers of its response."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.datastructures import Headers

from serve_app.admission.http import duration, key_of, limit_headers, retry_after, tier_of
from serve_app.admission.protocol import RateLimits, Tier
from serve_app.errors import (
    BadRequestError,
    EngineLostError,
    EngineUnavailableError,
    OverloadedError,
    ServiceError,
)

SECRET = "sk-a-secret-key-0123456789"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EngineUnavailableError("none", 29.01), "30"),
        (EngineUnavailableError("none", 30.0), "30"),
        (OverloadedError("full", 0.2), "1"),
        (EngineUnavailableError("none"), None),
        (EngineLostError("the replica has died"), None),
        (BadRequestError("wrong", None), None),
    ],
)
def test_retry_after_is_whole_seconds_and_never_too_few(error: ServiceError, expected: str | None) -> None:
    assert retry_after(error) == expected


def test_a_status_that_is_not_worth_a_retry_says_nothing() -> None:
    error = ServiceError("a wire broke", 5.0)
    assert retry_after(error) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0201, "21ms"),
        (0.999, "999ms"),
        (1, "1s"),
        (1.41, "1.5s"),
        (59.95, "1m0s"),
        (60, "1m0s"),
        (361.5, "6m1.5s"),
        (7200, "120m0s"),
    ],
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_only_limits_that_there_are_are_said() -> None:
    assert list(limit_headers(RateLimits(None, 0, 0.0, None, 0, 0.0))) == []
    assert dict(limit_headers(RateLimits(None, 0, 0.0, 60, 30, 30.0))) == {
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "30",
        "x-ratelimit-reset-tokens": "30s",
    }


def test_a_key_is_told_apart_and_never_kept() -> None:
    digest = key_of(Headers({"authorization": f"Bearer {SECRET}"}))
    assert re.fullmatch(r"[0-9a-f]{16}", digest)
    assert not any(SECRET[start : start + 6] in digest for start in range(len(SECRET) - 5))
    assert digest == key_of(Headers({"authorization": f"bearer   {SECRET} "}))
    assert digest == key_of(Headers({"x-api-key": SECRET}))  # as Anthropic's clients send it
    assert digest != key_of(Headers({"x-api-key": SECRET + "0"}))


@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer "}, {"authorization": ""}, {"x-api-key": ""}])
def test_requests_without_a_key_share_one(sent: dict[str, str]) -> None:
    assert key_of(Headers(sent)) == ""


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        ("priority", Tier.PRIORITY),
        ("flex", Tier.FLEX),
        ("default", Tier.DEFAULT),
        ("auto", Tier.DEFAULT),
        ("scale", Tier.DEFAULT),
        ("FLEX", Tier.DEFAULT),
        ("", Tier.DEFAULT),
        (None, Tier.DEFAULT),
        (0, Tier.DEFAULT),
        (True, Tier.DEFAULT),
        ([], Tier.DEFAULT),
        (["flex"], Tier.DEFAULT),
        ({"flex": 1}, Tier.DEFAULT),
    ],
)
def test_service_tiers(value: Any, tier: Tier) -> None:
    assert tier_of({"service_tier": value}) is tier


@pytest.mark.parametrize("body", [None, [], "flex", 3, {}])
def test_bodies_that_say_nothing(body: Any) -> None:
    assert tier_of(body) is Tier.DEFAULT
