"""Bodies that nobody sends on purpose: whatever is wrong with one, it is the client's fault and not a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests import bodies
from tests.services import MODEL, Service

pytestmark = [
    pytest.mark.app,
    # schemathesis deprecates parts of its own dependencies.
    pytest.mark.filterwarnings("ignore"),
]

# The field that limits an answer, by path.
ROUTES = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}
VALID = {
    "/v1/chat/completions": bodies.CHAT,
    "/v1/responses": bodies.RESPONSES,
    "/v1/messages": bodies.MESSAGES,
}
NUM_GENERATED, NUM_CHANGED = 25, 100


def example_settings(num_examples: int) -> settings:
    """The same examples in every run: what one finds, the next one finds."""
    return settings(
        max_examples=num_examples,
        derandomize=True,
        database=None,
        deadline=None,
        # An example that fails is small enough as it is; each try is a request.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=300) as client:
        yield client


def send(client: httpx.Client, path: str, content: bytes) -> httpx.Response:
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert not bodies.server_errors(answer.status_code, answer.text), content[:5000]
    if answer.status_code >= 400:
        assert len(answer.content) < 2048, content[:5000]
        assert answer.json()["error"]["message"], content[:5000]
    return answer


@pytest.mark.parametrize("path", ROUTES)
def test_the_bodies_are_valid_before_they_are_changed(client: httpx.Client, path: str) -> None:
    for body in VALID[path]:
        answer = send(client, path, bodies.encode(body))
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ROUTES)
def test_changed_bodies(client: httpx.Client, path: str) -> None:
    statuses: list[int] = []

    @given(body=bodies.changed(VALID[path]))
    @example_settings(NUM_CHANGED)
    def check(body: Any) -> None:
        content = bodies.encode(bodies.limited(body, ROUTES[path]))
        statuses.append(send(client, path, content).status_code)

    check()
    # Some are still good enough, so that the tests reach what lies behind the checks.
    assert {200, 400} <= set(statuses)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ROUTES)
def test_bodies_of_the_documents_schemas(client: httpx.Client, path: str, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operation = document[path]["POST"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @example_settings(NUM_GENERATED)
    def check(case: Any) -> None:
        body = case.body
        if isinstance(body, bytes):
            content = body
        else:
            body = bodies.limited(body, ROUTES[path])
            content = bodies.encode(body | {"model": MODEL} if isinstance(body, dict) else body)
        send(client, path, content)

    check()
