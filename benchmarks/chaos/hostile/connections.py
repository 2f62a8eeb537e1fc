"""Clients that do not do what clients do: they leave, do not read, send slowly or too much."""

from __future__ import annotations

import random

from benchmarks.chaos.hostile.request import (
    EITHER,
    MAX_BODY_BYTES,
    SERVED,
    Conduct,
    Form,
    Hostile,
    Kind,
    body,
    chat,
)
from benchmarks.chaos.questions import CHAT, PATHS, RESPONSES

NOBODY: frozenset[int] = frozenset()
# Of answers that nobody waits for.
MANY_TOKENS = 20_000


def _leaves(conduct: Conduct, *, streamed: bool) -> Form:
    def draw(drawn: random.Random) -> Hostile:
        api = drawn.choice(tuple(PATHS))
        large = drawn.random() < 0.3
        words = "word " * (200_000 if large and conduct is not Conduct.LEAVES_READING else 3)
        sent = body(api, words, streamed=streamed, num_tokens=MANY_TOKENS)
        name = f"{conduct}, {'streamed' if streamed else 'whole'}"
        return Hostile(name, PATHS[api], sent, NOBODY, conduct)

    return draw


def _unread(drawn: random.Random) -> Hostile:
    """Its stream ends with an error, or with its client."""
    api = drawn.choice((RESPONSES, CHAT))
    return Hostile(
        "unread", PATHS[api], body(api, "Hi", streamed=True, num_tokens=MANY_TOKENS), NOBODY, Conduct.UNREAD
    )


def _slow_body(drawn: random.Random) -> Hostile:
    sent = chat("word " * ((MAX_BODY_BYTES - 1024) // 5))
    return Hostile("slow body", PATHS[CHAT], sent, EITHER, Conduct.SLOW)


def _too_large(drawn: random.Random) -> Hostile:
    sent = chat("a" * (MAX_BODY_BYTES + drawn.choice((1, 1 << 20))))
    return Hostile("too large a body", PATHS[CHAT], sent, frozenset({413}))


def _too_large_unsaid(drawn: random.Random) -> Hostile:
    sent = chat("a" * (MAX_BODY_BYTES + drawn.choice((1, 1 << 20))))
    return Hostile("too large a body, in chunks", PATHS[CHAT], sent, frozenset({413}), Conduct.CHUNKED)


def _many_headers(drawn: random.Random) -> Hostile:
    headers = [(f"x-{index}", "a" * drawn.randint(1, 40)) for index in range(drawn.randint(90, 2_000))]
    return Hostile(
        "many headers", PATHS[CHAT], chat(), frozenset({200, 400, 431}), headers=headers, is_for_proxy=True
    )


def _long_header(drawn: random.Random) -> Hostile:
    name = drawn.choice(("x-a", "authorization", "x-request-id"))
    headers = [(name, "a" * drawn.randint(8_000, 60_000))]
    return Hostile(
        "long header", PATHS[CHAT], chat(), frozenset({200, 400, 431}), headers=headers, is_for_proxy=True
    )


def _odd_headers(drawn: random.Random) -> Hostile:
    name, value = drawn.choice(
        (
            ("x-request-id", "é" * 50),
            ("authorization", "Bearer " + "k" * 5_000),
            ("accept-encoding", "x," * 500),
        )
    )
    return Hostile(
        "odd headers", PATHS[CHAT], chat(), SERVED, headers=[(name, value.encode().decode("latin-1"))]
    )


KINDS = (
    Kind(
        "leaving",
        "clients that leave: before, while they wait, and in the middle of an answer",
        tuple(
            _leaves(conduct, streamed=streamed)
            for streamed in (True, False)
            for conduct in (Conduct.LEAVES_SENDING, Conduct.LEAVES_WAITING, Conduct.LEAVES_READING)
        ),
    ),
    Kind("unread", "streams that nobody reads", (_unread,), may_be_busy=True),
    Kind("slow-bodies", "bodies of 4 MiB that come slowly", (_slow_body,)),
    Kind("too-large", "bodies of more than 4 MiB", (_too_large, _too_large_unsaid)),
    Kind("headers", "many, long and strange headers", (_many_headers, _long_header, _odd_headers)),
)
