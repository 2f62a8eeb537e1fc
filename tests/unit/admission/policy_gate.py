"""An `Admission` with a clock, for the tests of its policy."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.admission.policy import Addressed, Admission
from serve_app.admission.protocol import (
    Ask,
    Close,
    Event,
    Granted,
    Join,
    Message,
    Refused,
    Release,
    Tier,
)
from serve_app.admission.requests import Sequence
from serve_app.admission.rules import Rules

HERE, THERE = b"here", b"there"
START = 1000.0


class Gate:
    """An `Admission` with a clock, and what it has said to each ingress since it was last looked at."""

    def __init__(self, *replicas: str, **rules: Any) -> None:
        defaults: dict[str, Any] = {"max_concurrent_requests": 2, "max_queued": 4, "max_wait_s": 30.0}
        self.admission = Admission(Rules(**defaults | rules))
        self.now = START
        self._said: list[Addressed] = []
        for ingress in (HERE, THERE):
            self.send(Join([]), ingress)
        self.set_replicas(*replicas)
        self._said.clear()

    def send(self, message: Message, ingress: bytes = HERE) -> None:
        self._said += self.admission.handle(ingress, message, self.now)

    def set_replicas(self, *replicas: str) -> None:
        self._said += self.admission.set_replicas(replicas, self.now)

    def after(self, seconds: float) -> None:
        """The ingresses have pinged in between."""
        self.now += seconds
        for known in self.admission._ingresses.values():
            known.heard_at = self.now
        self._said += self.admission.tick(self.now)

    def ask(
        self, request: int, n: int = 1, tier: Tier = Tier.DEFAULT, key: str = "", ingress: bytes = HERE
    ) -> list[Event]:
        """What is said to who asks, and to the others of the same ingress."""
        self.send(Ask(request, key, tier, n), ingress)
        return self.said(ingress)

    def said(self, ingress: bytes = HERE) -> list[Event]:
        said = [event for to, event in self._said if to == ingress]
        self._said = [addressed for addressed in self._said if addressed[0] != ingress]
        return said

    def fill(self) -> None:
        """Takes all slots, as request 1000 of `THERE`."""
        slots = self.admission._slots
        self.ask(1000, slots.num_free, Tier.PRIORITY, "filling", THERE)
        assert slots.num_free == 0

    def has_taken(self, seconds: float) -> None:
        """A sequence takes this long, as far as is known: one has, as request 2000 of `THERE`."""
        self.ask(2000, ingress=THERE)
        self.now += seconds
        self.send(Release(2000, 0, 10), THERE)
        self.send(Close(2000), THERE)
        self.said(THERE)
        assert self.admission._service.mean_s == pytest.approx(seconds)

    def sequences(self, request: int, ingress: bytes = HERE) -> list[Sequence]:
        """Those of a request, as the gate knows them."""
        return list(self.admission._ingresses[ingress].requests[request].sequences.values())

    @property
    def counts(self) -> tuple[int, int]:
        return self.admission.num_running, self.admission.num_waiting


def granted(request: int, sequence: int = 0, replica: str = "a") -> Granted:
    return Granted(request, sequence, replica)


def refusal(events: list[Event]) -> Refused:
    [event] = events
    assert isinstance(event, Refused)
    return event
