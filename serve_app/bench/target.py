"""The service under load: where it is, which model it serves, and the head of every request."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from serve_app.bench.load import BenchError, Load
from serve_app.client.stream import error_message

KEY_VARIABLE = "OPENAI_API_KEY"
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
MODELS_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Target:
    """An OpenAI-compatible service; `key` is never shown."""

    host: str
    port: int
    is_tls: bool
    prefix: str
    key: str | None = field(repr=False)

    @classmethod
    def of(cls, url: str) -> Target:
        """Returns the service at `url`, with or without scheme and /v1; the key is the environment's.

        Raises `BenchError` where it is not such a URL, or holds a user and a password.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            raise BenchError(f"not a URL of a service: {url}") from None
        if parts.username is not None or parts.password is not None:
            raise BenchError(f"the URL must hold no password; a key goes into {KEY_VARIABLE}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(f"not a URL of a service: {url}")
        is_tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        key = os.environ.get(KEY_VARIABLE) or None
        return cls(parts.hostname, port or (443 if is_tls else 80), is_tls, prefix, key)

    @property
    def url(self) -> str:
        """The address without /v1 and without the key."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}{self.prefix}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """A context that verifies the service, where it speaks TLS."""
        return ssl.create_default_context() if self.is_tls else None

    def head(self, load: Load) -> bytes:
        """The request's head up to the value of Content-Length."""
        lines = [
            f"POST {self.prefix}{PATHS[load.api]} HTTP/1.1",
            f"Host: {self.url.partition('://')[2].partition('/')[0]}",
            f"Accept: {'text/event-stream' if load.stream else 'application/json'}",
            "Content-Type: application/json",
            *([f"Authorization: Bearer {self.key}"] if self.key else []),
            "Content-Length: ",
        ]
        return "\r\n".join(lines).encode("latin-1")

    def first_model(self) -> str:
        """The name of the first model that the service lists. Raises `BenchError` when it lists none."""
        # Late: the workers, which start for every run, need none of it.
        import httpx2

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        address = f"{self.url}/v1/models"
        try:
            response = httpx2.get(address, headers=headers, timeout=MODELS_TIMEOUT_S)
            content = response.json()
            if response.status_code != 200:
                raise BenchError(f"{address}: {error_message(content)} (HTTP {response.status_code})")
            return str(content["data"][0]["id"])
        except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
            raise BenchError(f"{address}: {type(error).__name__}: {error}; or give a model") from None
