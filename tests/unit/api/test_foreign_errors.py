"""What a library says of an error is for the log: no client reads it, on any route."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api import models
from serve_app.api.generation import Generator, Run
from serve_app.errors import UNFORESEEN, BadRequestError, may_be_quoted
from tests.examples import examples, num_examples
from tests.unit.api.scripted import CHAT, MESSAGES, PATHS, RESPONSES, Service, message_of, scripted_service

# vLLM and what it imports use what is deprecated.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

NUM_TEXTS = num_examples(5)
SECRETS = [
    "0x7f3ab2c01d50",
    "10.0.12.7",
    "10.0.12.7:31245",
    "[fe80::1c2b]:8000",
    "fd00:ec2::254",
    "localhost:6379",
    "ip-10-0-12-7",
    "node-3.ec2.internal",
    "tcp://head:29500",
    "/home/ray/anaconda3/lib/python3.11/site-packages/vllm/v1/engine/core.py",
    "/tmp/ray/session_latest/sockets",
    "C:\\ray\\engine",
    "~/.cache/huggingface",
    "engine.py",
    "pid=4711",
    "(pid 4711)",
    "vllm.v1.engine.exceptions.EngineDeadError",
    "<serve_app.engine.Engine object at 0x7f3ab2c01d50>",
    "ServeReplica:gpt-oss:Engine(f00dfacecafe01000000)",
    'Traceback (most recent call last):\n  File "core.py", line 12, in step',
    "AWS_SECRET_ACCESS_KEY=wJalr/K7MDENG",
    "root@head",
]
WORDS = ["the", "engine", "has", "failed", "while", "it", "was", "at", "step", "17,", "for", "0.5", "s"]


def text_of(choices: random.Random) -> str:
    """What an exception may say: some words, and among them what nobody is to know."""
    secrets = choices.sample(SECRETS, choices.randint(1, 3))
    parts = choices.sample(WORDS, choices.randint(0, len(WORDS))) + secrets
    choices.shuffle(parts)
    return choices.choice([" ", " ", "\n"]).join(parts)


def secrets_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


# --- which words are passed on -------------------------------------------------------------------------


@given(st.randoms(use_true_random=False))
@examples(500)
def test_words_with_a_secret_are_not_quoted(choices: random.Random) -> None:
    assert not may_be_quoted(text_of(choices))


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_quoted(secret: str) -> None:
    assert not may_be_quoted(secret)
    assert not may_be_quoted(f"top_p must be in (0, 1], got {secret}.")


@given(st.text(max_size=700))
@examples(500)
def test_what_is_quoted_is_one_short_sentence(text: str) -> None:
    if may_be_quoted(text):
        assert text.isprintable()
        assert text.isascii()
        assert len(text) <= 500


VLLMS = [
    ("temperature", {"temperature": 3.0}),
    ("temperature", {"temperature": -1.0}),
    ("top_p", {"top_p": 1.5}),
    ("top_k", {"top_k": -5}),
    ("min_p", {"min_p": 1.5}),
    ("presence_penalty", {"presence_penalty": 2.5}),
    ("repetition_penalty", {"repetition_penalty": -1.0}),
    ("min_tokens", {"min_tokens": -1}),
    ("logit_bias", {"logit_bias": {"a": 1.0}}),
]


@pytest.mark.parametrize(("param", "given_"), VLLMS, ids=str)
def test_vllms_words_about_a_value_are_passed_on(param: str, given_: dict[str, Any]) -> None:
    """They say what is allowed."""
    from serve_app.api.sampling import Sampling
    from serve_app.vllm_adapter import SamplingParamsEncoder

    with pytest.raises(BadRequestError) as refused:
        SamplingParamsEncoder({}, 4096).params(Sampling(**given_))
    assert refused.value.param == param
    assert str(refused.value).startswith(param)
    assert " must be " in str(refused.value) or " cannot be " in str(refused.value)


def test_vllms_words_about_itself_are_not(caplog: pytest.LogCaptureFixture) -> None:
    from vllm.exceptions import VLLMClientError, VLLMValidationError

    from serve_app.vllm_adapter.sampling_params import client_error

    choices = random.Random(0)
    for _ in range(100):
        text = text_of(choices)
        for error in (
            VLLMClientError(text),
            VLLMValidationError("top_p " + text, parameter="top_p", value=text),
        ):
            caplog.clear()
            said = client_error(error)
            assert not secrets_in(str(said))
            assert secrets_in(caplog.text)
    assert (str(said), said.param) == ("vLLM does not accept top_p", "top_p")


# --- over HTTP -----------------------------------------------------------------------------------------

Install = Callable[[Service, pytest.MonkeyPatch, Callable[..., Any]], None]
# Where something that nobody has foreseen may be raised, for each request that generates.
PLACES: dict[str, Install] = {
    "checks": lambda _, patch, fail: patch.setattr(Generator, "check_model", fail),
    "parameters": lambda service, patch, fail: patch.setattr(service.engines, "sampling_params", fail),
    "gate": lambda service, patch, fail: patch.setattr(service.gate, "ask", fail),
    "rendering": lambda _, patch, fail: patch.setattr(Generator, "prompts", fail),
    "start": lambda service, patch, fail: patch.setattr(service.engines, "start", fail),
    "reading": lambda _, patch, fail: patch.setattr(Run, "_read", fail),
    "end": lambda _, patch, fail: patch.setattr(Run, "usage", fail),
}
OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tokenize": ("POST", "/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
    "tokenize a text": ("POST", "/tokenize", {"prompt": "a"}),
    "detokenize": ("POST", "/detokenize", {"tokens": [1]}),
    "input_tokens": ("POST", f"{RESPONSES}/input_tokens", {"input": "a"}),
    "count_tokens": ("POST", f"{MESSAGES}/count_tokens", {"messages": [{"role": "user", "content": "a"}]}),
    "models": ("GET", "/v1/models", {}),
}


def raising(text: str) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(text)

    return fail


def check(answer: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """One sentence and the id of what the log has whole."""
    for secret in secrets_in(text):
        assert secret not in answer.text
        assert secret not in str(answer.headers)
    assert UNFORESEEN in answer.text
    request_id = answer.headers.get("x-request-id") or answer.headers["request-id"]
    assert request_id.startswith("req_")
    causes = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(cause) for cause in causes] == [text]
    assert f"request {request_id} on " in caplog.text
    caplog.clear()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer(
    path: str, stream: bool, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choices = random.Random(f"{path} {stream} {place}")
    async with scripted_service() as service:
        for _ in range(NUM_TEXTS):
            text = text_of(choices)
            with monkeypatch.context() as patch:
                PLACES[place](service, patch, raising(text))
                answer = await service.post(path, stream=stream)
            if answer.status_code != 200:
                assert answer.status_code == 500
                message_of(answer)
            else:
                assert stream
            check(answer, text, caplog)
        assert (await service.post(path, stream=stream)).status_code == 200


@pytest.mark.parametrize("name", OTHERS)
async def test_another_route(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choices = random.Random(name)
    method, path, body = OTHERS[name]
    async with scripted_service() as service:
        for _ in range(NUM_TEXTS):
            text = text_of(choices)
            with monkeypatch.context() as patch:
                patch.setattr(Generator, "check_model", raising(text))
                patch.setattr(models, "list_body", raising(text))
                if method == "GET":
                    service.app = service._new_app()  # it takes its functions when it is made
                answer = await service.request(method, path, json=body)
            assert answer.status_code == 500
            message_of(answer)
            check(answer, text, caplog)


async def test_an_id_of_the_clients_own_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_service() as service:
        monkeypatch.setattr(Run, "_read", raising("a wire broke"))
        answer = await service.post(CHAT, headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert "request mine-1 on /v1/chat/completions failed" in caplog.text
