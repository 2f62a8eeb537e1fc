"""The client's side of HTTP: readiness, the model's name, and streams of events."""

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import httpx2

from serve_app.client.stream import Event, error_message

# Between two looks at /health.
POLL_S = 0.5


class ServiceError(Exception):
    """The service could not be reached or refused a request; the text is one line for a person."""


@dataclass(frozen=True)
class Model:
    """A served model; the length is vLLM's addition to OpenAI's fields."""

    name: str
    max_model_len: int | None


class Service:
    """An OpenAI-compatible service. `timeout_s` bounds the wait for it and, in a stream, for each event."""

    def __init__(self, url: str, timeout_s: float) -> None:
        url = url if "://" in url else f"http://{url}"
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self.timeout_s = timeout_s
        self._http = httpx2.Client(timeout=httpx2.Timeout(timeout_s, connect=10))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def why_not_ready(self) -> str | None:
        """None when the service answers requests, else the reason in words."""
        try:
            response = self._http.get(f"{self.url}/health", timeout=10)
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise ServiceError(f"not a URL of a service: {self.url} ({error})") from None
        except httpx2.ConnectError:
            return "nothing listens there yet"
        except httpx2.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        # Serve's proxy answers 404 until the application is deployed, so no status but 200 ends the wait.
        return None if response.status_code == 200 else _explain(response)

    def wait_until_ready(self, show: Callable[[float, str], None]) -> None:
        """Return once /health says 200; until then, call `show(elapsed_s, reason)` twice a second."""
        started_s = time.monotonic()
        while reason := self.why_not_ready():
            elapsed_s = time.monotonic() - started_s
            if elapsed_s >= self.timeout_s:
                raise ServiceError(f"{self.url} is not ready after {elapsed_s:.0f} s: {reason}")
            show(elapsed_s, reason)
            time.sleep(POLL_S)

    def model(self, name: str | None) -> Model:
        """The named model, or the first that is served. An unknown name is the service's to refuse."""
        try:
            response = self._http.get(f"{self.url}/v1/models")
            served = response.json()["data"] if response.status_code == 200 else None
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ServiceError(f"{self.url}/v1/models: {error}") from None
        if served is None:
            raise ServiceError(f"{self.url}/v1/models: {_explain(response)}")
        for card in served:
            if name in (None, card["id"]):
                return Model(card["id"], card.get("max_model_len"))
        if name is None:
            raise ServiceError(f"{self.url} serves no model")
        return Model(name, None)

    def events(self, path: str, body: dict[str, Any]) -> Generator[Event]:
        """Post a streaming request and yield its events. Close the generator to abandon the answer."""
        try:
            with self._http.stream("POST", self.url + path, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise ServiceError(_explain(response))
                for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":
                        return
                    yield json.loads(event.data)
        except (httpx2.HTTPError, httpx2.SSEError, ValueError) as error:
            raise ServiceError(f"the stream broke: {error or type(error).__name__}") from None
        raise ServiceError("the stream ended before its end was announced")


def _explain(response: httpx2.Response) -> str:
    try:
        message = error_message(response.json())
    except ValueError:
        message = None
    text = message or " ".join(response.text.split())[:200] or response.reason_phrase
    return f"{text} (HTTP {response.status_code})"
