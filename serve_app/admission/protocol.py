"""What an ingress and the gate say to each other. A request is a request; it has one sequence or more."""

from __future__ import annotations

import enum

import msgspec


class Tier(enum.IntEnum):
    """OpenAI's `service_tier`. Who comes first has the smaller number."""

    PRIORITY = 0
    DEFAULT = 1
    FLEX = 2


class Reason(enum.IntEnum):
    """Why a request is refused."""

    QUEUE_FULL = 0
    WAITED_TOO_LONG = 1
    NO_ENGINE = 2
    KEY_REQUESTS = 3
    KEY_TOKENS = 4


class _Message(msgspec.Struct, array_like=True, tag=True):
    pass


class RateLimits(_Message):
    """Of one API key; None where there is no limit."""

    max_requests: int | None
    remaining_requests: int
    requests_reset_s: float
    max_tokens: int | None
    remaining_tokens: int
    tokens_reset_s: float


class Loss(enum.IntEnum):
    """How a sequence has lost its engine."""

    DIED = 0
    """The replica has died."""
    CUT_OFF = 1
    """Nothing comes of it any more, or it has given the sequence up; it may live."""
    GAP = 2
    """It goes on, and some of its tokens were lost."""


class Ask(_Message):
    """May this request begin? Answered by `Admitted` or `Refused`; then `Granted` for each sequence."""

    request: int
    key: str
    tier: Tier
    num_sequences: int


class Move(_Message):
    """A sequence has lost its engine, and goes on as another one, `to`, when that has a slot.

    It belongs to work that is admitted, so it is never refused. Answered by `Moved`, then `Granted`.
    """

    request: int
    sequence: int
    to: int
    loss: Loss


class Release(_Message):
    """A sequence has ended. `num_tokens` are prompt and answer, 0 when it has not been in an engine."""

    request: int
    sequence: int
    num_tokens: int


class Close(_Message):
    """A request is over, with all its sequences."""

    request: int


class Lost(_Message):
    """A call has found this engine replica dead, before Serve did."""

    replica: str


class OpenRequest(_Message):
    """A request as its ingress knows it: sequences by number, with their replica or None while they wait.

    One of which a sequence has begun, be it over now, is not refused any more.
    """

    request: int
    key: str
    tier: Tier
    waited_s: float
    has_begun: bool
    sequences: dict[int, str | None]


class Join(_Message):
    """The sender's first message, and what it says instead of everything before: all its open requests."""

    open: list[OpenRequest]


class Ping(_Message):
    """A sign of life. `num_sent` counts the messages since `Join`, which is the first."""

    num_sent: int


class Admitted(_Message):
    """`granted` are the sequences that may begin at once, with their replicas."""

    request: int
    granted: dict[int, str]
    limits: RateLimits | None


class Refused(_Message):
    """Of a request that has asked, or that has waited in vain."""

    request: int
    reason: Reason
    retry_after_s: float
    limits: RateLimits | None


class Granted(_Message):
    """A sequence that has waited may begin."""

    request: int
    sequence: int
    replica: str


class Moved(_Message):
    """Answers `Move`. `was_alone`: the replica has died, and no other request had a slot on it."""

    request: int
    sequence: int
    was_alone: bool


class Joined(_Message):
    """Answers `Join`. What comes before it was said without knowing of that, and does not hold."""


class Pong(_Message):
    """Answers `Ping`; `num_sent` counts the events since `Joined`, without the answers to `Ping`."""

    num_sent: int


class Unknown(_Message):
    """The gate has missed something of this ingress, or does not know it: it is to `Join`."""


Message = Ask | Move | Release | Close | Lost | Join | Ping
Event = Admitted | Refused | Granted | Moved | Joined | Pong | Unknown
