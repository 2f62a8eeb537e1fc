"""Chain of thought that a client keeps for the service without being able to change it.

Clients of the Responses API that store nothing send reasoning back as `encrypted_content` alone. Whoever has
the key, any ingress, reads it again; what somebody else has made, or has changed, is told apart.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# What the text of a seal begins with: content of other services is told apart without a key.
PREFIX = "sealed1."
# Chain of thought is shorter than a context; this is what a request may make the service decode.
MAX_SEALED_CHARS = 16 * 1024 * 1024
_NONCE_BYTES = 12
_PURPOSE = b"gpt-oss-serve: reasoning"


class UnsealError(ValueError):
    """What should be unsealed was not sealed with this key, or has been changed."""


class Sealer:
    """Seals texts and reads them back (AES-256-GCM). All ingresses share `key`, a secret of any length.

    Nonces are random: a key is good for some four billion seals.
    """

    def __init__(self, key: bytes) -> None:
        if not key:
            raise ValueError("the key is empty")
        self._cipher = AESGCM(hashlib.blake2b(key, digest_size=32, person=b"sealed reasoning").digest())

    def seal(self, text: str) -> str:
        """Returns `text`, sealed: ASCII, about four thirds as long. No two seals of a text are the same."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), _PURPOSE)
        return PREFIX + base64.urlsafe_b64encode(sealed).decode()

    def unseal(self, sealed: str) -> str:
        """Returns what was sealed. Raises `UnsealError` for anything that `seal` has not returned."""
        if not sealed.startswith(PREFIX):
            raise UnsealError("it was not sealed by this service")
        if len(sealed) > MAX_SEALED_CHARS:
            raise UnsealError("it is too long")
        encoded = sealed[len(PREFIX) :].encode(errors="replace")
        try:
            raw = base64.b64decode(encoded, altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(raw) != encoded:  # bits behind the last byte are set
                raise UnsealError("it has been changed")
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _PURPOSE).decode()
        except (binascii.Error, InvalidTag, ValueError):
            # A ValueError: shorter than a nonce.
            raise UnsealError("it was sealed with another key, or has been changed") from None
