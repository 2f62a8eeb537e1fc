import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.transport import requests
from serve_app.transport.curve import CurveAddress
from serve_app.transport.requests import GenerateRequest

SMALL: dict[str, Any] = {
    "request_id": "r-1",
    "prompt_token_ids": [200006, 1],
    "sampling_params": b"\x80\xff",
    "reply_to": CurveAddress("tcp://127.0.0.1:4000", b"key"),
    "sequence": 7,
}
FULL: dict[str, Any] = SMALL | {
    "output_token_ids": [200005, 17196],
    "priority": -2,
    "cache_salt": "salt",
    "session_id": "session",
}


def test_defaults() -> None:
    request = GenerateRequest(**SMALL)
    assert (request.priority, request.output_token_ids) == (0, [])
    rest = set(FULL) - set(SMALL) - {"priority", "output_token_ids"}
    assert {getattr(request, name) for name in rest} == {None}


def test_full_covers_every_field() -> None:
    assert set(FULL) == set(GenerateRequest.__struct_fields__)


@pytest.mark.parametrize("values", [SMALL, FULL], ids=["small", "full"])
def test_round_trips(values: dict[str, Any]) -> None:
    request = GenerateRequest(**values)
    # Ray pickles it; msgpack is what vLLM's own messages use.
    assert pickle.loads(pickle.dumps(request)) == request
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=GenerateRequest) == request
    assert {name: getattr(request, name) for name in values} == values


def test_defaults_are_not_sent() -> None:
    sent = msgspec.to_builtins(GenerateRequest(**SMALL), builtin_types=(bytes,))
    assert set(sent) == set(SMALL)


def test_frozen() -> None:
    request = GenerateRequest(**SMALL)
    with pytest.raises(AttributeError):
        request.priority = 1  # type: ignore[misc]


def test_fields_are_given_by_name_and_these_are_needed() -> None:
    with pytest.raises(TypeError):
        GenerateRequest(*SMALL.values())  # type: ignore[call-arg]
    for name in SMALL:
        with pytest.raises(TypeError, match=name):
            GenerateRequest(**{key: value for key, value in SMALL.items() if key != name})


def test_choices_have_one_prompt_which_is_encoded_once() -> None:
    """So many times a long prompt would hold up all streams of an ingress."""
    prompt = [1, 2, 3]
    encoded = set()
    for number in range(128):
        request = GenerateRequest(**SMALL | {"prompt_token_ids": prompt, "sequence": number})
        assert pickle.loads(pickle.dumps(request)) == request
        encoded.add(id(requests._requests._encoded))
    assert len(encoded) == 1
    pickle.dumps(GenerateRequest(**SMALL | {"prompt_token_ids": list(prompt)}))
    assert id(requests._requests._encoded) not in encoded, "which may be changed without the other"


@given(st.lists(st.sampled_from([[1], [1, 2], [], [3] * 1000]), max_size=8))
def test_each_has_its_own_prompt(prompts: list[list[int]]) -> None:
    for prompt in prompts:
        request = GenerateRequest(**SMALL | {"prompt_token_ids": prompt})
        assert pickle.loads(pickle.dumps(request)).prompt_token_ids == prompt
