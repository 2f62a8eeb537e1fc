"""Routes that generate nothing: health, models, counting; pages of other origins."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from serve_app.errors import EngineUnavailableError
from serve_app.harmony.tokens import Vocabulary
from tests.unit.api.scripted import BODIES, CHAT, MESSAGES, MODEL, RESPONSES, message_of, scripted_service


async def test_health_and_models_answer_to_head() -> None:
    async with scripted_service() as service:
        for path in ("/health", "/health/ready", "/health/live", "/v1/models", f"/v1/models/{MODEL}"):
            got, headed = await service.request("GET", path), await service.request("HEAD", path)
            assert (got.status_code, headed.status_code, headed.content) == (200, 200, b"")


async def test_no_engine_is_ready() -> None:
    def none() -> int:
        raise EngineUnavailableError("no engine replica is ready", 30.0)

    async with scripted_service(app={"num_ready_engines": none}) as service:
        answer = await service.request("GET", "/health")
        assert (answer.status_code, message_of(answer)) == (503, "no engine replica is ready")
        assert (await service.request("GET", "/health/live")).status_code == 200


async def test_models_by_name() -> None:
    async with scripted_service() as service:
        listed = (await service.request("GET", "/v1/models")).json()["data"]
        for model in listed:
            assert (await service.request("GET", f"/v1/models/{model['id']}")).json() == model
        assert [model["id"] for model in listed] == [MODEL, "openai/gpt-oss-20b"]
        missing = await service.request("GET", "/v1/models/gpt-5")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_counting_tokens_needs_no_engine() -> None:
    async with scripted_service() as service:
        used = (await service.post(RESPONSES)).json()["usage"]["input_tokens"]
        counted = await service.post(f"{RESPONSES}/input_tokens", **BODIES[RESPONSES])
        assert counted.json() == {"object": "response.input_tokens", "input_tokens": used}
        body = {key: value for key, value in BODIES[MESSAGES].items() if key != "max_tokens"}
        assert (await service.post(f"{MESSAGES}/count_tokens", **body)).json() == {"input_tokens": used}
        assert len(service.asked) == 1


async def test_a_long_text_is_tokenized_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    encode = Vocabulary.encode_prompt

    def noted(self: Vocabulary, *arguments: Any, **options: Any) -> list[int]:
        threads.append(threading.current_thread())
        return encode(self, *arguments, **options)

    monkeypatch.setattr(Vocabulary, "encode_prompt", noted)

    async with scripted_service() as service:
        for text in ("short", "long " * 20_000):
            answer = await service.request("POST", "/tokenize", json={"prompt": text})
            assert answer.json()["count"] == len(answer.json()["tokens"]) > 0
        main = threading.main_thread()
        assert [thread is main for thread in threads] == [True, False]


async def test_nothing_is_stored() -> None:
    async with scripted_service() as service:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            answer = await service.request(method, f"{RESPONSES}/resp_1{path}")
            assert answer.status_code == 404
            assert "stores nothing" in message_of(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v2/nothing", 404), ("GET", CHAT, 405), ("GET", MESSAGES, 405), ("POST", f"{MESSAGES}/x", 404)],
)
async def test_no_such_route(method: str, path: str, status: int) -> None:
    async with scripted_service() as service:
        answer = await service.request(method, path)
        assert answer.status_code == status
        message_of(answer)
        assert ("type" in answer.json()) == path.startswith(MESSAGES)


async def test_pages_of_other_origins() -> None:
    async with scripted_service(app={"origins": ["http://localhost:3000"]}) as service:
        asks = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        preflight = await service.request("OPTIONS", CHAT, headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "access-control-allow-credentials" not in preflight.headers
        answer = await service.post(headers={"origin": "http://localhost:3000"})
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        other = await service.post(headers={"origin": "http://elsewhere"})
        assert "access-control-allow-origin" not in other.headers


async def test_by_default_no_page_may() -> None:
    async with scripted_service() as service:
        asks = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        assert (await service.request("OPTIONS", CHAT, headers=asks)).status_code == 405
        answer = await service.post(headers={"origin": "http://localhost:3000"})
        assert "access-control-allow-origin" not in answer.headers
