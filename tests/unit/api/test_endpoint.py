"""Answers over HTTP of an application whose engines are a script: what they say, choices, repairs."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.admission.protocol import Ask, Tier
from serve_app.api.repair_report import RepairReport
from tests.unit.api.scripted import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    PATHS,
    REPLY,
    RESPONSES,
    events_of,
    scripted_service,
)


def text_of(path: str, body: Any) -> str:
    """What an answer says, in each API."""
    if path == CHAT:
        return str(body["choices"][0]["message"]["content"])
    if path == COMPLETIONS:
        return str(body["choices"][0]["text"])
    if path == RESPONSES:
        return "".join(
            part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]
        )
    return "".join(block["text"] for block in body["content"] if block["type"] == "text")


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer(path: str) -> None:
    async with scripted_service() as service:
        answer = await service.post(path)
        assert answer.status_code == 200
        assert "Hello there, friend." in text_of(path, answer.json())
        assert service.asked == [Ask(0, "", Tier.DEFAULT, 1)]
        name = "request-id" if path == MESSAGES else "x-request-id"
        assert answer.headers[name].startswith("req_")
        assert "retry-after" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_nul_is_accepted_back_where_the_model_has_said_it(path: str) -> None:
    async with scripted_service() as service:
        service.engines.script = lambda _: [REPLY.replace("there", "\0")]
        body = (await service.post(path)).json()
        assert "Hello \0, friend." in text_of(path, body)
        user = {"role": "user", "content": "And?"}
        if path == CHAT:
            turns = {"messages": [body["choices"][0]["message"], user]}
        elif path == RESPONSES:
            turns = {"input": [*body["output"], user]}
        else:
            turns = {"messages": [{"role": "assistant", "content": body["content"]}, user]}
        assert (await service.post(path, **turns)).status_code == 200
        assert "Hello \0, friend." in service.engines.started[-1].prompt


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream(path: str) -> None:
    async with scripted_service() as service:
        answer = await service.post(path, stream=True)
        assert len(events_of(answer)) > 3
        assert answer.headers["cache-control"] == "no-cache"


async def test_choices_have_places_and_seeds_of_their_own() -> None:
    async with scripted_service() as service:
        service.engines.script = lambda one: [REPLY.replace("friend", f"friend {one.choice}")]
        choices = (await service.post(n=3)).json()["choices"]
        assert [choice["message"]["content"] for choice in choices] == [
            f"Hello there, friend {number}." for number in range(3)
        ]
        assert [one.seed_offset for one in service.engines.started] == [0, 1, 2]
        assert len({id(one.grant) for one in service.engines.started}) == 3
        assert service.asked == [Ask(0, "", Tier.DEFAULT, 3)]


async def test_several_prompts_have_choices_of_their_own() -> None:
    async with scripted_service() as service:
        service.engines.script = lambda one: [f" {one.prompt}{one.seed_offset}<|return|>"]
        answer = await service.post(COMPLETIONS, prompt=["a", "b"], n=2, service_tier="flex")
        assert [choice["text"] for choice in answer.json()["choices"]] == [" a0", " a1", " b0", " b1"]
        assert answer.json()["usage"]["prompt_tokens"] == 2
        assert service.asked == [Ask(0, "", Tier.FLEX, 4)]


@pytest.mark.parametrize(
    ("path", "body"), [(RESPONSES, {"n": 100}), (MESSAGES, {"n": 100}), (CHAT, {"prompt": ["a"] * 100})]
)
async def test_fields_of_another_api_take_no_places(path: str, body: dict[str, Any]) -> None:
    async with scripted_service(max_queued=1000) as service:
        await service.post(path, **body)
        assert [ask.num_sequences for ask in service.asked] == [1]


async def test_the_name_of_a_request_is_kept_if_it_is_one() -> None:
    async with scripted_service() as service:
        given = await service.post(headers={"x-request-id": "bench-1-2"})
        assert given.headers["x-request-id"] == service.engines.started[0].request_id == "bench-1-2"
        strange = await service.post(headers={"x-request-id": "a b" * 100})
        assert strange.headers["x-request-id"].startswith("req_")


async def test_a_stop_string_ends_the_sequence_in_its_engine() -> None:
    async with scripted_service() as service:
        service.engines.script = lambda _: [REPLY.removesuffix("<|return|>"), None]
        for stream in (False, True):
            answer = await service.post(stop=["there,"], stream=stream)
            assert answer.status_code == 200
            await service.engines.is_left.wait()
            service.engines.is_left.clear()
        assert service.engines.num_left_early == 2


async def test_repairs_are_counted_by_kind_and_api() -> None:
    async with scripted_service() as service:
        service.engines.script = lambda _: ["<|channel|>final<|message|>Hi<|end|>stray text<|return|>"]
        await service.post()
        await service.post(MESSAGES, stream=True)
        assert {api for api, _, _ in service.repairs} == {"chat", "messages"}
        service.repairs.clear()
        service.engines.script = lambda _: [REPLY]
        await service.post()
        assert service.repairs == []


def test_what_was_repaired_no_time_is_not_counted() -> None:
    """Ray's counters refuse a zero."""
    found: list[tuple[str, str, int]] = []
    RepairReport(lambda *repair: found.append(repair)).add("chat", [("stray_text", 0), ("stray_token", 2)])
    assert found == [("chat", "stray_token", 2)]


async def test_events_of_a_responses_stream_are_numbered_in_order() -> None:
    async with scripted_service() as service:
        events = events_of(await service.post(RESPONSES, stream=True))
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
