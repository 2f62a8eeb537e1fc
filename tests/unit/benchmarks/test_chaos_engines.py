"""The drill with vLLM's engines: what they are asked for, what they are made of, and what hits them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos import faults, processes
from benchmarks.chaos.answers import Answer, Choice, MalformedError, read_body, read_stream
from benchmarks.chaos.injection import Injection
from benchmarks.chaos.processes import Process
from benchmarks.chaos.questions import CHAT, COMPLETIONS, MESSAGES, PATHS, RESPONSES, model_questions
from benchmarks.chaos.schedule import Planned, schedule
from benchmarks.chaos.service import Service
from benchmarks.chaos.shape import SHAPES, VLLM, serve_config
from benchmarks.chaos.watch import missing_process
from tests.waiting import wait_until

WITH_GRAMMAR = (CHAT, RESPONSES, MESSAGES)
EACH = {(api, streamed) for api in PATHS for streamed in (True, False)}


class TestQuestions:
    @given(st.integers(0, 2**32))
    def test_all_that_engines_do_in_all_apis_that_have_it(self, seed: int) -> None:
        found: dict[str, set[tuple[str, bool]]] = {}
        questions = model_questions(seed, 60, 240)
        for one in questions:
            found.setdefault(one.name.partition(":")[0], set()).add((one.api, one.is_streamed))
        with_calls = {one for one in EACH if one[0] in WITH_GRAMMAR}
        assert found == {
            "count": EACH,
            "stop": EACH,
            "schema": with_calls,
            "forced call": with_calls,
            "free call": with_calls,
            "log probabilities": {one for one in EACH if one[0] != MESSAGES},
            "two choices": {one for one in EACH if one[0] in (CHAT, COMPLETIONS)},
            "penalties": {one for one in EACH if one[0] in (CHAT, COMPLETIONS)},
        }
        assert len({one.name for one in questions}) == len(questions)

    def test_what_comes_as_one_piece_shows_no_pauses(self) -> None:
        found = {one.is_steady for one in model_questions(1, 60, 240) if "tools" not in one.body}
        assert found == {True, False}
        for one in model_questions(1, 60, 240):
            is_piece = not one.is_streamed or (one.api == MESSAGES and "call" in one.name)
            assert one.is_steady != is_piece

    def test_they_are_asked_of_a_model_with_a_speculator(self) -> None:
        arguments = serve_config(VLLM, SHAPES[VLLM], 1, None)["applications"][0]["args"]
        assert arguments["speculator"]["num_draft_tokens"] > 0


TOKENS = st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), max_size=5)


def chat_logprobs(tokens: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": -0.1, "top_logprobs": [{}] * number} for token, number in tokens]


def body_of(api: str, tokens: list[tuple[str, int]]) -> dict[str, Any]:
    """An answer without text that has log probabilities of these tokens."""
    listed = chat_logprobs(tokens)
    if api == RESPONSES:
        content = [{"text": "", "logprobs": listed}]
        output: Any = [{"type": "message", "content": content}]
        return {"status": "completed", "output": output, "usage": {"output_tokens": 5}}
    return {"choices": [choice_of(api, tokens, "stop")], "usage": {"completion_tokens": 5}}


def choice_of(api: str, tokens: list[tuple[str, int]], finish: str | None) -> dict[str, Any]:
    if api == CHAT:
        logprobs: Any = {"content": chat_logprobs(tokens)} if tokens else None
        return {"index": 0, "message": {}, "delta": {}, "logprobs": logprobs, "finish_reason": finish}
    top = [{str(index): -0.1 for index in range(number)} for _, number in tokens]
    logprobs = {"tokens": [token for token, _ in tokens], "top_logprobs": top} if tokens else None
    return {"index": 0, "text": "", "logprobs": logprobs, "finish_reason": finish}


def stream_of(api: str, tokens: list[tuple[str, int]], at: int) -> list[bytes]:
    """The same in two events."""
    pieces = tokens[:at], tokens[at:]
    events: list[dict[str, Any]]
    if api == RESPONSES:
        kind = "response.output_text.delta"
        events = [{"type": kind, "delta": "", "logprobs": chat_logprobs(piece)} for piece in pieces]
        events.append({"type": "response.completed", "response": body_of(api, tokens)})
    else:
        finishes = None, "stop"
        choices = [choice_of(api, piece, finish) for piece, finish in zip(pieces, finishes, strict=True)]
        events = [{"choices": [choice]} for choice in choices]
        events.append({"choices": [], "usage": {"completion_tokens": 5}})
    return [*(json.dumps(event).encode() for event in events), b"[DONE]"]


class TestLogProbabilities:
    @given(st.sampled_from([CHAT, COMPLETIONS, RESPONSES]), TOKENS, st.integers(0, 5))
    def test_a_stream_and_a_body_say_the_same(self, api: str, tokens: Any, at: int) -> None:
        finish = "completed" if api == RESPONSES else "stop"
        expected = Answer([Choice(finish=finish, logprobs=tokens)], 5)
        assert read_body(api, json.dumps(body_of(api, tokens)).encode()) == expected
        assert read_stream(api, stream_of(api, tokens, at)) == expected

    def test_a_token_without_them_is_seen(self) -> None:
        tokens = [("a", 2), ("b", 2)]
        whole = read_body(CHAT, json.dumps(body_of(CHAT, tokens)).encode())
        part = read_body(CHAT, json.dumps(body_of(CHAT, tokens[:1])).encode())
        assert whole.difference(part).startswith("logprobs: ")
        lines = stream_of(RESPONSES, tokens, 1)
        with pytest.raises(MalformedError, match="something else"):
            read_stream(RESPONSES, lines[1:])


def found(*roles: str) -> list[Process]:
    return [Process(pid, role, "", 0, 0, 0) for pid, role in enumerate(roles)]


class TestWhole:
    @given(st.integers(1, 4), st.sampled_from([processes.CORE, processes.WORKER]), st.integers(-1, 1))
    def test_an_engine_is_there_when_its_processes_are(self, engines: int, role: str, more: int) -> None:
        """One that is left over is not whole either."""
        roles = [processes.CORE, processes.WORKER] * engines + [processes.PROXY, processes.RAYLET]
        if more < 0:
            roles.remove(role)
        roles += [role] * more
        assert bool(missing_process(found(*roles), engines, 1)) == bool(more)

    def test_proxy_and_nodes(self) -> None:
        assert missing_process(found(processes.RAYLET), 0, 1) == "no HAProxy"
        assert missing_process(found(processes.PROXY, processes.RAYLET), 0, 2) == "a node is missing"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with (tmp_path / "log").open("w") as log:
        yield Service(tmp_path, VLLM, SHAPES[VLLM], ("127.0.0.1",), 1, has_disk=False, log=log)


@contextlib.contextmanager
def process_of(service: Service, title: str) -> Iterator[psutil.Process]:
    """A process that the service takes for one of its own."""
    environment = os.environ | {processes.MARK: str(service.folder / "ray")}
    command = [title, "-c", "import sys; print(); sys.stdin.read()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, executable=sys.executable, env=environment, **pipes) as child:
        assert child.stdout
        child.stdout.readline()
        try:
            yield psutil.Process(child.pid)
        finally:
            child.kill()


def is_stopped(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


class TestInjection:
    @pytest.mark.parametrize(
        ("name", "title"),
        [
            ("hang-replica", "ray::ServeReplica:gpt-oss:Engine"),
            ("hang-engine", "VLLM::EngineCore"),
            ("hang-engine", "VLLM::Worker"),
        ],
    )
    def test_what_hangs_for_good_has_to_go(self, service: Service, name: str, title: str) -> None:
        [planned] = schedule(1, 60, 45, [faults.KINDS[name]])
        with process_of(service, title) as process:
            hit = Injection(service, lambda: 0.0).do(planned)
            assert (hit.without, hit.undo) == (process.pid, None)
            wait_until(lambda: is_stopped(process), 30, process.status)

    def test_what_is_stopped_goes_on(self, service: Service) -> None:
        planned = Planned(0.0, faults.KINDS["stop-engine"], 0.5, 1.0)
        with process_of(service, "VLLM::EngineCore") as process:
            hit = Injection(service, lambda: 0.0).do(planned)
            wait_until(lambda: is_stopped(process), 30, process.status)
            assert hit.without is None
            assert hit.undo
            hit.undo()
            wait_until(lambda: not is_stopped(process), 30, process.status)
