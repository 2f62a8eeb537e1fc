"""Fixtures for what ingresses and gates say to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.admission import link
from serve_app.admission.protocol import Join
from tests.unit.admission.gates import Dialogue, client_of, scripted_gate

# How soon a gate's silence is noticed in tests that wait for that: not so soon that a busy machine is silent.
QUICK_SILENCE_S = 0.5


@pytest.fixture
def quick_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SILENCE_S", QUICK_SILENCE_S)
    monkeypatch.setattr(link, "PING_S", QUICK_SILENCE_S / 10)


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PING_S", 0.02)


@pytest.fixture
async def dialogue() -> AsyncIterator[Dialogue]:
    """A gate that says what a test tells it to, and an ingress that has joined it."""
    async with scripted_gate() as gate, client_of(None, "a") as (client, where):
        where.is_at(gate.address)
        assert await gate.join() == Join([])
        yield Dialogue(gate, client, where)
