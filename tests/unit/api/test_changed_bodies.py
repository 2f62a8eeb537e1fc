"""Valid bodies with something wrong with them: the client's fault, said briefly, and never a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given

from tests import bodies
from tests.examples import examples
from tests.unit.api.scripted import CHAT, MESSAGES, RESPONSES, scripted_service

NUM_EXAMPLES = 300
VALID = {
    CHAT: (bodies.CHAT, "max_completion_tokens"),
    RESPONSES: (bodies.RESPONSES, "max_output_tokens"),
    MESSAGES: (bodies.MESSAGES, "max_tokens"),
}


def changed_bodies(path: str) -> list[bytes]:
    found: list[bytes] = []
    valid, limit = VALID[path]

    @given(body=bodies.changed(valid))
    @examples(
        NUM_EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def collect(body: Any) -> None:
        found.append(bodies.encode(bodies.limited(body, limit)))

    collect()
    return found


@pytest.mark.parametrize("path", VALID)
async def test_the_bodies_are_valid_before_they_are_changed(path: str) -> None:
    async with scripted_service() as service:
        for body in VALID[path][0]:
            answer = await service.request("POST", path, json=body)
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", VALID)
async def test_changed_bodies(path: str) -> None:
    statuses: set[int] = set()

    async with scripted_service() as service:
        headers = {"content-type": "application/json"}
        async with service.client() as client:
            for content in changed_bodies(path):
                answer = await client.post(path, content=content, headers=headers)
                statuses.add(answer.status_code)
                assert not bodies.server_errors(answer.status_code, answer.text), content[:5000]
                if answer.status_code != 200:
                    assert len(answer.content) < 2048, content[:5000]
                    assert answer.json()["error"]["message"], content[:5000]
    # Some are still good, so that not all end at the first check.
    assert {200, 400} <= statuses <= {200, 400, 404}
