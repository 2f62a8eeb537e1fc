"""What `Admission` knows: the ingresses, their requests and the sequences of these."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.admission.protocol import Loss, Tier


@dataclass(eq=False, slots=True)
class Request:
    """A request."""

    ingress: bytes
    number: int
    key: str
    tier: Tier
    deadline: float = 0.0
    sequences: dict[int, Sequence] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Sequence:
    """One answer of a request. Without a replica it waits; restored ones have no beginning."""

    request: Request
    number: int
    replica: str | None = None
    began_at: float | None = None
    loss: Loss | None = None
    """How its beginning, another sequence, has lost its engine; None where it has no such beginning."""
    lost: str | None = None
    """The replica of that engine."""


@dataclass(slots=True)
class IngressPeer:
    """An ingress replica, and how many messages have gone between it and us since its `Join`."""

    heard_at: float
    num_received: int = 1  # its `Join`
    num_sent: int = 0
    requests: dict[int, Request] = field(default_factory=dict)
