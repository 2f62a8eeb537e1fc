"""Bodies of Chat Completions: what an exchange is made of, and what is refused, where."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.items import (
    AnswerEnded,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
)
from serve_app.answers.offer import Offer
from serve_app.answers.usage import Usage
from serve_app.api.chat import exchange as chat
from serve_app.api.chat.request import ChatRequest
from serve_app.api.fields import read_body
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import (
    Conversation,
    UserText,
)
from tests.examples import examples
from tests.unit.api.chat_bodies import (
    ANSWER,
    CALLED,
    HI,
    PERSON,
    START,
    TOOLS,
    called,
    conversation_of,
    exchange,
    offer_of,
    refusal,
)


def test_the_shortest_request() -> None:
    asked = exchange()
    assert asked.model is None
    assert conversation_of(asked) == Conversation((UserText("hi"),))
    assert offer_of(asked) == Offer()
    assert (asked.is_streamed, asked.num_choices, asked.grammar, asked.request_id) == (False, 1, None, None)


def test_null_is_as_left_out_and_unknown_fields_are_ignored() -> None:
    names = (
        *ChatRequest.__struct_fields__, *chat.NOT_SERVED, "modalities", "user", "metadata", "store",
        "kv_transfer_params", "chat_template", "documents", "prediction",
    )  # fmt: skip
    nulls = dict.fromkeys(names) | {"messages": [HI]}
    assert conversation_of(chat.exchange(nulls)) == conversation_of(exchange())
    assert chat.exchange(nulls).sampling == exchange().sampling
    ignored = {"user": "me", "metadata": {"a": "b"}, "store": True, "safety_identifier": "s", "x_new": [1]}
    assert exchange(**ignored).sampling == exchange().sampling


def test_stop_strings() -> None:
    assert offer_of(exchange(stop="x")).stop == ("x",)
    assert offer_of(exchange(stop=["x", "yz"], include_stop_str_in_output=True)) == Offer(
        stop=("x", "yz"), keeps_stop_string=True
    )
    assert offer_of(exchange(stop=[])).stop == ()
    wrong: list[Any] = ["", ["a", ""], ["a"] * 33, "a" * 1001, 5, [5], {}]
    for stop in wrong:
        assert (refusal(stop=stop).param or "").startswith("stop")


def test_sampling() -> None:
    asked = exchange(
        temperature=0, top_p=0.5, top_k=3, min_p=0.1, presence_penalty=1, frequency_penalty=-1,
        repetition_penalty=1.1, seed=7, max_tokens=5, min_tokens=2, logit_bias={"5": 1},
        allowed_token_ids=[1], bad_words=["x"], stop_token_ids=[9], ignore_eos=True, thinking_token_budget=4,
        repetition_detection={"max_pattern_size": 3}, vllm_xargs={"a": 1, "b": ["x", 0.5]}, cache_salt="s",
        session_id="t", priority=-3,
    )  # fmt: skip
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 3, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (
        1,
        -1,
        1.1,
    )
    assert (sampling.seed, sampling.max_tokens, sampling.min_tokens) == (7, 5, 2)
    assert (sampling.logit_bias, sampling.allowed_token_ids, sampling.bad_words) == ({"5": 1}, [1], ["x"])
    assert (sampling.stop_token_ids, sampling.ignore_eos, sampling.thinking_token_budget) == ([9], True, 4)
    assert sampling.repetition_detection == {"max_pattern_size": 3}
    assert sampling.vllm_xargs == {"a": 1, "b": ["x", 0.5]}
    assert (sampling.cache_salt, sampling.session_id, sampling.priority) == ("s", "t", -3)
    assert sampling.logprobs is None
    assert exchange(max_tokens=5, max_completion_tokens=6).sampling.max_tokens == 6


@pytest.mark.parametrize(
    ("fields", "logprobs", "ids"),
    [
        ({"logprobs": True}, 0, None),
        ({"logprobs": True, "top_logprobs": 20}, 20, None),
        ({"logprobs": False, "top_logprobs": 0}, None, None),
        ({"logprobs": True, "top_logprobs": 3, "logprob_token_ids": [1, 2]}, None, [1, 2]),
    ],
)
def test_logprobs(fields: dict[str, Any], logprobs: int | None, ids: list[int] | None) -> None:
    sampling = exchange(**fields).sampling
    assert (sampling.logprobs, sampling.logprob_token_ids) == (logprobs, ids)


@pytest.mark.parametrize(
    ("name", "effort"),
    [
        (None, "medium"), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"),
        ("xhigh", "high"), ("max", "high"),
    ],
)  # fmt: skip
def test_efforts(name: str | None, effort: str) -> None:
    assert conversation_of(exchange(reasoning_effort=name)).effort == effort
    assert conversation_of(exchange(reasoning={"effort": name})).effort == effort


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "insane"}, "reasoning_effort"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
        ({"reasoning": {"effort": "insane"}}, "reasoning.effort"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"seed": 2**63}, "seed"),
        ({"priority": -(2**63) - 1}, "priority"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"logit_bias": {"1": "x"}}, "logit_bias[...]"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"request_id": "x" * 257}, "request_id"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_fields_that_are_wrong(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert param in str(error)


def test_an_unknown_effort_is_answered_with_those_that_are_known() -> None:
    message = str(refusal(reasoning_effort="insane"))
    assert all(name in message for name in ("minimal", "low", "medium", "high", "xhigh", "max"))


def encoded(**fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks and the body of a short answer to a request."""
    encoder = exchange(**fields).new_encoder(START)
    answer: list[ItemEvent] = [
        ReasoningBegan(), Delta("Hm."), ItemEnded(True),
        TextBegan("final"), Delta("Yes."), ItemEnded(True), AnswerEnded(Finish.STOP, 9, 4),
    ]  # fmt: skip
    out = [*encoder.begin(), *encoder.feed(0, answer, [5, 6]), *encoder.end(Usage(3, 9, 4, 2))]
    return [json.loads(encoder.to_bytes(chunk)[6:]) for chunk in out], encoder.fold(out)


def test_how_the_answer_is_told() -> None:
    _, body = encoded()
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    assert "usage" not in encoded(stream=True)[0][-1]
    usage = {"include_usage": True}
    chunks, _ = encoded(stream=True, stream_options=usage)
    assert [chunk.get("usage") for chunk in chunks] == [*[None] * (len(chunks) - 1), body["usage"]]
    chunks, _ = encoded(stream=True, stream_options=usage | {"continuous_usage_stats": True})
    assert all(chunk["usage"] for chunk in chunks)
    chunks, _ = encoded(stream=True, stream_options={"continuous_usage_stats": True})
    assert not any("usage" in chunk for chunk in chunks)
    assert encoded(include_reasoning=False)[1]["choices"][0]["message"]["reasoning"] is None
    assert encoded(request_id="mine")[1]["id"] == "chatcmpl-mine"
    body = encoded(return_token_ids=True)[1]
    assert (body["prompt_token_ids"], body["choices"][0]["token_ids"]) == ([1, 2, 3], [5, 6])
    body = encoded(return_token_ids=True, include_reasoning=False)[1]
    assert body["prompt_token_ids"] == [1, 2, 3]
    assert "token_ids" not in body["choices"][0]
    assert len(encoded(n=3)[1]["choices"]) == 3
    for tier, used in (("priority", "priority"), ("flex", "flex"), ("auto", "default"), ("x", "default")):
        assert encoded(service_tier=tier)[1]["service_tier"] == used


def test_what_is_said_is_what_the_schemas_say() -> None:
    fields: dict[str, Any] = {
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chunks, body = encoded(**fields)
    jsonschema.validate(body, chat.answer_schema())
    for chunk in chunks:
        jsonschema.validate(chunk, chat.chunk_schema())
    jsonschema.validate({"messages": [HI, ANSWER, CALLED], "tools": TOOLS} | fields, chat.request_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"messages": [{"role": "wizard"}]}, chat.request_schema())


VALID: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "t"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "r",
            "tool_calls": [called("weather", "a", '{"city": "Oslo"}')],
        },
        {"role": "tool", "tool_call_id": "a", "content": "3 C"},
        {"role": "assistant", "content": "Cold."},
    ],
    "tools": TOOLS,
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]},
    },
    "response_format": {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": PERSON}},
    "structured_outputs": None,
    "stop": ["x"],
    "n": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning_effort": "low",
    "logit_bias": {"5": 1.0},
    "vllm_xargs": {"a": [1]},
}
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from([
        "auto", "none", "required", "function", "json", "regex", "json_schema", "json_object", "text", "user",
        "assistant", "tool", "(", "root ::=", "a" * 3000, 10**30,
    ])
)  # fmt: skip
KEYS = ("type", "name", "content", "json", "regex", "role")
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "content", "json", "regex", "role"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(*path, key) for key in keys]
    return found + [place for key in keys for place in places(value[key], (*path, key))]


PLACES = [*places(VALID), *((name,) for name in ChatRequest.__struct_fields__ if name not in VALID)]


@examples(400)
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES | st.just(...)), max_size=3))
def test_any_body_is_an_exchange_or_a_bad_request(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    body = copy.deepcopy(VALID)
    for path, value in changes:
        target: Any = body
        for key in path[:-1]:
            target = target[key] if isinstance(target, dict) and key in target else {}
        if isinstance(target, dict):
            target.pop(path[-1], None) if value is ... else target.update({path[-1]: value})
    with contextlib.suppress(BadRequestError):
        encoder = chat.exchange(read_body(json.dumps(body).encode())).new_encoder(START)
        assert list(encoder.begin())


@pytest.mark.parametrize("depth", [100, 500, 950, 970, 980])
def test_a_body_that_is_nested_too_deeply_is_a_bad_request(depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    schema = {"type": "object", "default": deep}
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    fields: dict[str, Any]
    for fields in (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"response_format": tag},
        {"messages": [{"role": "assistant", "tool_calls": [called("f", "a", {"x": deep})]}]},
        {"messages": [{"role": "user", "content": [{"type": deep}]}]},
        {"tools": TOOLS, "tool_choice": {"type": deep}},
    ):
        with contextlib.suppress(BadRequestError):
            exchange(**fields)


@examples(100)
@given(st.dictionaries(st.sampled_from(ChatRequest.__struct_fields__) | st.text(max_size=4), VALUES))
def test_any_object_is_an_exchange_or_a_bad_request(body: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        chat.exchange(body)
