"""Numbers that 64 bits do not hold, or that are none, at every place of every route's bodies: a 400."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from serve_app.admission.slot_grants import SlotGrant
from serve_app.api.chat.request import ChatRequest
from serve_app.api.completions.request import CompletionRequest
from serve_app.api.inbox import Inbox
from serve_app.api.messages.request import MessagesRequest
from serve_app.api.responses.request import ResponsesRequest
from serve_app.api.sampling import Sampling
from tests import bodies
from tests.examples import num_examples
from tests.unit.api.scripted import (
    CHAT,
    COMPLETIONS,
    MAX_MODEL_LEN,
    MESSAGES,
    MODEL,
    RESPONSES,
    ScriptedEngines,
    ScriptedSequence,
    Service,
    message_of,
    scripted_service,
)

# vLLM and what it imports use what is deprecated. The first test imports it.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

# Of the numbers, how many are tried at each place.
NUMBERS_PER_PLACE = num_examples(5)
TOO_LARGE = [b"18446744073709551616", b"-9223372036854775809", b"1" + b"0" * 40, b"-1" + b"0" * 400]
NOT_JSON = [b"1e400", b"-1e400", b"NaN", b"Infinity", b"-Infinity", b"1" + b"0" * 5000]
ODD = [b"9223372036854775808", b"18446744073709551615", b"-9223372036854775808", b"1e308", b"-0", b"-0.0"]
# Where a number will stand.
MARK = "@@@"

COMPLETION_BODIES: list[dict[str, Any]] = [
    {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 3, "logit_bias": {"5": 1.0}},
    {"model": MODEL, "prompt": [1, 2, 3], "max_tokens": 3, "stream": True},
]
# vLLM's fields of which this service knows nothing, and what is anybody's.
OTHER_FIELDS = ("stream_interval", "vllm_xargs", "chat_template_kwargs", "metadata", "user", "best_of")
ROUTES: dict[str, tuple[list[dict[str, Any]], type[msgspec.Struct]]] = {
    CHAT: (bodies.CHAT, ChatRequest),
    COMPLETIONS: (COMPLETION_BODIES, CompletionRequest),
    RESPONSES: (bodies.RESPONSES, ResponsesRequest),
    MESSAGES: (bodies.MESSAGES, MessagesRequest),
    f"{RESPONSES}/input_tokens": (bodies.RESPONSES, ResponsesRequest),
    f"{MESSAGES}/count_tokens": (bodies.MESSAGES, MessagesRequest),
    "/tokenize": ([*bodies.CHAT, {"model": MODEL, "prompt": "a"}], ChatRequest),
    "/detokenize": ([{"model": MODEL, "tokens": [1, 2]}], CompletionRequest),
}


class CheckedEngines(ScriptedEngines):
    """With vLLM's parameters, which are encoded for each sequence as for a real engine."""

    def __init__(self) -> None:
        from serve_app.vllm_adapter import SamplingParamsEncoder

        super().__init__()
        self._encoder = SamplingParamsEncoder({}, MAX_MODEL_LEN)

    def sampling_params(self, sampling: Sampling, structural_tag: str | None) -> Any:
        return self._encoder.params(sampling, structural_tag)

    def start(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: Any,
        sampling: Sampling,
        grant: SlotGrant,
        inbox: Inbox,
        choice: int,
        seed_offset: int,
    ) -> ScriptedSequence:
        self._encoder.encode(params, seed_offset, len(prompt_token_ids))
        msgspec.msgpack.encode([sampling.priority, sampling.cache_salt, sampling.session_id])
        return super().start(request_id, prompt_token_ids, None, sampling, grant, inbox, choice, seed_offset)


def marked(path: str) -> Iterator[dict[str, Any]]:
    """Bodies of a route, each with a mark at one of its places, or in one more field."""
    valid, request = ROUTES[path]
    for body in valid:
        for number in range(len(bodies.places(body))):
            changed = copy.deepcopy(body)
            holder, key = bodies.places(changed)[number]
            holder[key] = MARK
            yield changed
    for name in [*(field.encode_name for field in msgspec.structs.fields(request)), *OTHER_FIELDS]:
        for value in (MARK, [MARK], {"a": MARK}, {"5": MARK}, [{"a": [MARK]}], {"a": {"b": MARK}}):
            yield copy.deepcopy(valid[0]) | {name: value}


def is_the_models(body: dict[str, Any]) -> bool:
    """Whether the mark stands in what the model has said."""
    turns = [*(body.get("messages") or ()), *(body.get("input") or ())]
    return any(
        MARK in json.dumps(turn)
        and isinstance(turn, dict)
        and (turn.get("role") == "assistant" or turn.get("type") in ("reasoning", "function_call"))
        for turn in turns
    )


async def with_checked_engines(service: Service) -> None:
    service.engines = CheckedEngines()
    service.app = service._new_app()


@pytest.mark.parametrize("path", ROUTES)
async def test_a_number_at_any_place(path: str) -> None:
    choices = random.Random(path)
    headers = {"content-type": "application/json"}
    statuses = set()
    async with scripted_service() as service:
        await with_checked_engines(service)
        async with service.client() as client:
            for body in marked(path):
                raw = json.dumps(body).encode()
                for number in choices.sample(TOO_LARGE + NOT_JSON + ODD, NUMBERS_PER_PLACE):
                    content = raw.replace(b'"' + MARK.encode() + b'"', number)
                    answer = await client.post(path, content=content, headers=headers)
                    statuses.add(answer.status_code)
                    assert answer.status_code in (200, 400, 404), content
                    assert not bodies.server_errors(answer.status_code, answer.text), content
                    if answer.status_code != 200:
                        message_of(answer)
                    is_refused = number in NOT_JSON or (number in TOO_LARGE and not is_the_models(body))
                    assert answer.status_code == 400 or not is_refused, content
    assert {200, 400} <= statuses


@pytest.mark.parametrize("number", TOO_LARGE, ids=lambda number: number[:22].decode())
@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_open_before_goes_on(number: bytes, stream: bool) -> None:
    """A refused request leaves nothing, and takes nothing from the one beside it."""
    async with scripted_service(max_concurrent_requests=1, max_queued=1) as service:
        await with_checked_engines(service)
        for field in ("top_k", "seed", "max_tokens", "min_tokens", "priority", "n", "stream_interval"):
            content = json.dumps(bodies.CHAT[1] | {"stream": stream, field: MARK}).encode()
            content = content.replace(b'"' + MARK.encode() + b'"', number)
            answer = await service.request(
                "POST", CHAT, content=content, headers={"content-type": "application/json"}
            )
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        assert service.asked == []
        assert (await service.post()).status_code == 200
