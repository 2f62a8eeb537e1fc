"""The key that chain of thought is sealed with: one for all ingress replicas."""

from __future__ import annotations

import base64
import binascii
import secrets
from pathlib import Path

from serve_app import private_names
from serve_app.private_names import PrivateNameError

NUM_BYTES = 32
_NAMESPACE = b"serve_app"
_NAME = b"sealing_key"


class SealingKeyError(Exception):
    """A key file that holds no key, or a cluster that keeps none."""


def sealing_key(path: str | None) -> bytes:
    """Returns the key in the file at `path` (base 64 of 32 bytes), or else the cluster's own.

    The cluster's is made by the first ingress that asks, and kept in memory by Ray's control store (GCS), as
    Serve's own state is: it is in no file, log or environment, and ends with the cluster. With a file, what
    was sealed can still be read after a restart. Must be called in a process of the cluster.
    """
    return _of_file(Path(path).expanduser()) if path else _of_cluster()


def _of_file(path: Path) -> bytes:
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except OSError as error:
        raise SealingKeyError(f"{path}: cannot be read: {error.strerror}") from None
    except binascii.Error:
        key = b""
    if len(key) != NUM_BYTES:
        raise SealingKeyError(f"{path}: holds no key; make one with `openssl rand -base64 {NUM_BYTES}`")
    return key


def _of_cluster() -> bytes:
    try:
        private_names.check("serve_app.sealing_key")
    except PrivateNameError as error:
        raise SealingKeyError(f"{error}; or set ingress.sealing_key_file") from None
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    # Does nothing where another was first.
    _internal_kv_put(_NAME, secrets.token_bytes(NUM_BYTES), overwrite=False, namespace=_NAMESPACE)
    key: bytes | None = _internal_kv_get(_NAME, namespace=_NAMESPACE)
    if not key:
        raise SealingKeyError("Ray's control store has lost what it was given: set ingress.sealing_key_file")
    return key
