"""Addresses of CurveZMQ sockets: where they are, and the public key without which nobody can connect."""

from __future__ import annotations

import msgspec


class CurveAddress(msgspec.Struct, frozen=True):
    """Where a socket takes messages. It travels inside the cluster only, to those who may connect."""

    endpoint: str
    """`tcp://HOST:PORT`."""
    key: bytes
    """The socket's public key: nobody can connect without it."""
