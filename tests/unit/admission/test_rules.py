from typing import Any

import pytest

from serve_app.admission.rules import Rules, admission_rules
from serve_app.config import AppConfig


def rules_of(engine: dict[str, Any] | None = None, **admission: Any) -> Rules:
    engine = {"max_concurrent_requests": 64, "max_replicas": 3} | (engine or {})
    return admission_rules(AppConfig.model_validate({"engine": engine, "admission": admission}))


def test_without_a_word_as_many_wait_as_all_engines_run() -> None:
    assert rules_of() == Rules(
        max_concurrent_requests=64,
        max_queued=192,
        max_wait_s=30,
        start_wait_s=None,
        reserved_share=0.1,
        max_requests_per_key=None,
        max_tokens_per_minute_per_key=None,
    )


@pytest.mark.parametrize("most", [0, 5])
def test_how_many_may_wait_is_configured(most: int) -> None:
    assert rules_of(max_queued_requests=most).max_queued == most


def test_all_of_it_is_configured() -> None:
    rules = rules_of(max_wait_s=5, flex_leaves_free=0.5, key_max_requests=7, key_tokens_per_minute=8)
    assert (rules.max_wait_s, rules.reserved_share) == (5, 0.5)
    assert (rules.max_requests_per_key, rules.max_tokens_per_minute_per_key) == (7, 8)


def test_requests_wait_for_an_engine_to_start_where_a_request_starts_one() -> None:
    assert rules_of({"min_replicas": 0}, max_start_wait_s=99).start_wait_s == 99
    assert rules_of({"min_replicas": 1}, max_start_wait_s=99).start_wait_s is None
