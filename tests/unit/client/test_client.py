import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.console import Console

from serve_app.client import __main__ as client
from serve_app.client.display import Display
from serve_app.client.http import Service
from serve_app.client.stream import Answer, Event, Piece, StreamError, error_message


def chat(delta: dict[str, Any] | None = None, finish: str | None = None, **rest: Any) -> Event:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices, **rest}


# As vLLM sends them: an opening event, reasoning, content, the reason for the end, usage.
USAGE = {"prompt_tokens": 71, "completion_tokens": 6, "total_tokens": 77}
EVENTS = [
    chat({"role": "assistant", "content": ""}),
    chat({"reasoning": "Just "}),
    chat({"reasoning": "greet."}),
    chat({"content": "Hello"}),
    chat({"content": " there"}),
    chat({"content": ""}, finish="stop"),
    chat(usage=USAGE),
]


def read(events: list[Event], started_s: float = 10.0) -> tuple[Answer, list[Piece]]:
    """Feeds one event each half second."""
    answer = Answer(started_s)
    pieces = [p for i, event in enumerate(events) for p in answer.feed(event, started_s + (i + 1) / 2)]
    return answer, pieces


def test_a_chat_stream_splits_into_reasoning_and_content() -> None:
    answer, pieces = read(EVENTS)
    assert pieces == [
        Piece("reasoning", "Just "),
        Piece("reasoning", "greet."),
        Piece("content", "Hello"),
        Piece("content", " there"),
    ]
    assert answer.content == "Hello there"
    assert answer.finish_reason == "stop"


def test_statistics_count_from_the_first_token_on() -> None:
    answer, _ = read(EVENTS)
    assert answer.time_to_first_token_s == 1.0  # the second event; the first only opens the message
    assert answer.tokens_per_s == pytest.approx(5 / 1.5)
    expected = "first token after 1.00 s, 3.3 tokens/s, 71 prompt tokens, 6 completion tokens"
    assert answer.summary() == expected


def test_summary_tells_cached_tokens_and_a_cut_answer() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    answer, _ = read([chat({"content": "a"}, finish="length"), chat(usage=usage)])
    assert answer.tokens_per_s is None
    assert answer.summary() == (
        "first token after 0.50 s, 9 prompt tokens (8 cached), 1 completion tokens, finish reason: length"
    )


def test_an_empty_stream_has_no_statistics() -> None:
    answer, pieces = read([])
    assert pieces == []
    assert answer.summary() == "no tokens"


@pytest.mark.parametrize(
    "delta",
    [{"reasoning": "a"}, {"reasoning_content": "a"}, {"reasoning": "a", "reasoning_content": "a"}],
)
def test_reasoning_has_two_names_and_is_shown_once(delta: dict[str, str]) -> None:
    assert read([chat(delta)])[1] == [Piece("reasoning", "a")]


def test_tool_calls_come_in_parts() -> None:
    first = {"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"city": "Oslo"}'}}
    _, pieces = read([chat({"tool_calls": [first]}), chat({"tool_calls": [rest]}, finish="tool_calls")])
    assert "".join(piece.text for piece in pieces) == '\ncall get_weather {"city": "Oslo"}'
    assert {piece.kind for piece in pieces} == {"tool"}


def test_completions_bring_text_and_token_ids() -> None:
    events: list[Event] = [
        {"choices": [{"text": "<|channel|>final", "token_ids": [200005, 17196], "finish_reason": None}]},
        {"choices": [{"text": "", "token_ids": [200002], "finish_reason": "stop"}]},
    ]
    answer, _ = read(events)
    assert answer.content == "<|channel|>final"
    assert answer.token_ids == [200005, 17196, 200002]


def test_an_error_event_ends_the_answer() -> None:
    with pytest.raises(StreamError, match="engine died"):
        read([EVENTS[1], {"error": {"message": "engine\ndied", "code": 500}}])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no\n  such model"}}, "no such model"),
        ({"error": "plain"}, "plain"),
        ({"detail": "other"}, None),
        (["list"], None),
    ],
)
def test_error_bodies_become_one_line(body: object, message: str | None) -> None:
    assert error_message(body) == message


# Against a real server.


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Fake"

    def log_message(self, *_: object) -> None:
        pass

    def _json(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/health":
            reason = self.server.not_ready.pop(0) if self.server.not_ready else None
            self._json(503, {"error": {"message": reason}}) if reason else self._json(200, {})
        elif self.path == "/v1/models":
            self._json(200, {"data": [{"id": "gpt-oss-demo", "max_model_len": 4096}]})
        else:
            self._json(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        if self.server.refusal:
            self._json(*self.server.refusal)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in self.server.events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        if self.server.is_whole:
            self.wfile.write(b"data: [DONE]\n\n")


class Fake(ThreadingHTTPServer):
    """A service on loopback that says what the test gave it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.not_ready: list[str] = []
        self.events = EVENTS
        self.refusal: tuple[int, object] | None = None
        self.is_whole = True
        self.requests: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def service() -> Iterator[Fake]:
    with Fake() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(*arguments: str, terminal: bool = False) -> tuple[int, str, str]:
    """Run the client; return its exit status, standard output and standard error."""
    out, around = io.StringIO(), io.StringIO()
    consoles = [
        Console(file=file, force_terminal=terminal, highlight=False, soft_wrap=True, _environ={})
        for file in (out, around)
    ]
    return client.main(arguments, Display(*consoles)), out.getvalue(), around.getvalue()


def test_waits_until_ready_then_answers(service: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.client.http.POLL_S", 0.01)
    service.not_ready = ["0 of 2 engines are ready", "0 of 2 engines are ready", "draining"]
    status, out, around = ask("--url", service.url, "--prompt", "Hi", "--effort", "low", "--max-tokens", "50")
    assert (status, out) == (0, "Hello there\n")
    lines = around.splitlines()
    assert lines[0] == f"waiting for {service.url}: 0 of 2 engines are ready (HTTP 503)"
    assert lines[1] == f"waiting for {service.url}: draining (HTTP 503)"
    assert lines[2] == f"{service.url} is ready after 0 s"
    assert lines[3] == "Just greet."
    assert lines[4].endswith("71 prompt tokens, 6 completion tokens")
    path, body = service.requests[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "gpt-oss-demo",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "low",
        "max_completion_tokens": 50,
    }


def test_a_terminal_shows_the_chain_of_thought_dimmed(service: Fake) -> None:
    _, out, around = ask("--url", service.url, "--prompt", "Hi", terminal=True)
    assert "\x1b[2mJust \x1b[0m" in around
    assert out == "Hello there\n"


def test_control_characters_do_not_reach_the_terminal(service: Fake) -> None:
    service.events = [chat({"content": "a\x1b[2Jb\tc\r\x9b"})]
    _, out, _ = ask("--url", service.url, "--prompt", "Hi", terminal=True)
    assert out == "a␛[2Jb\tc␍�\n"
    # A pipe gets what the model said.
    assert ask("--url", service.url, "--prompt", "Hi")[1] == "a\x1b[2Jb\tc\r\x9b\n"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_url_may_end_in_v1(service: Fake, suffix: str) -> None:
    assert ask("--url", service.url + suffix, "--prompt", "Hi")[0] == 0


def test_a_url_without_scheme_is_http() -> None:
    service = Service("localhost:8000", timeout_s=1)
    assert service.url == "http://localhost:8000"
    service.close()


def test_a_refusal_is_one_line(service: Fake) -> None:
    service.refusal = (404, {"error": {"message": "The model `x` does not exist.", "code": 404}})
    status, out, around = ask("--url", service.url, "--prompt", "Hi", "--model", "x")
    assert (status, out) == (1, "")
    assert around == "error: The model `x` does not exist. (HTTP 404)\n"
    assert service.requests[0][1]["model"] == "x"


def test_a_refusal_without_openais_body_is_shown_too(service: Fake) -> None:
    service.refusal = (502, "bad gateway")
    assert ask("--url", service.url, "--prompt", "Hi")[2] == 'error: "bad gateway" (HTTP 502)\n'


def test_an_error_in_the_stream_keeps_what_came_before(service: Fake) -> None:
    service.events = [*EVENTS[:4], {"error": {"message": "the engine died", "code": 500}}]
    status, out, around = ask("--url", service.url, "--prompt", "Hi")
    assert (status, out) == (1, "Hello\n")
    assert around.splitlines()[-1] == "error: the engine died"


def test_a_stream_without_end_is_an_error(service: Fake) -> None:
    service.is_whole = False
    status, _, around = ask("--url", service.url, "--prompt", "Hi")
    assert status == 1
    assert around.splitlines()[-1] == "error: the stream ended before its end was announced"


def test_gives_up_after_the_timeout() -> None:
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        status, _, around = ask("--url", url, "--prompt", "Hi", "--timeout", "0")
    assert status == 1
    assert around == f"error: {url} is not ready after 0 s: nothing listens there yet\n"


def test_a_wrong_url_is_said_at_once() -> None:
    status, _, around = ask("--url", "ftp://127.0.0.1", "--prompt", "Hi")
    assert status == 1
    assert around.startswith("error: not a URL of a service: ftp://127.0.0.1")


@contextmanager
def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> Iterator[None]:
    """Standard input is a terminal at which a person types these lines, then ends the file."""
    waiting = iter([*lines, EOFError])

    def type_line(_: str) -> str:
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", type_line)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    yield
    assert next(waiting, None) is None


def test_a_conversation_keeps_its_history(service: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    with typed(monkeypatch, "Hi", "", "And you?"):
        status, out, _ = ask("--url", service.url)
    assert (status, out) == (0, "Hello there\nHello there\n")
    assert service.requests[1][1]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "And you?"},
    ]


def test_a_failed_turn_is_not_remembered(service: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    service.refusal = (400, {"error": {"message": "too long"}})
    with typed(monkeypatch, "first", "second"):
        status, _, around = ask("--url", service.url)
    assert status == 0
    assert around.count("error: too long (HTTP 400)") == 2
    assert service.requests[1][1]["messages"] == [{"role": "user", "content": "second"}]


def test_a_pipe_is_the_prompt(service: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xc3\xa9 \xff\n")))
    assert ask("--url", service.url)[0] == 0
    assert service.requests[0][1]["messages"][0]["content"] == "café �"


def test_interrupting_is_no_traceback(service: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Service, "model", interrupt)
    status, _, around = ask("--url", service.url, "--prompt", "Hi")
    assert (status, around) == (130, "stopped\n")


ANSWER = "<|start|>assistant<|channel|>final<|message|>Hello 🌍!<|return|>"
COMPLETION = "<|channel|>analysis<|message|>Greet 👋.<|end|>" + ANSWER


def harmony_events(text: str, with_ids: bool) -> list[Event]:
    from serve_app.client.harmony import Conversation

    encoding = Conversation(None).encoding
    ids = encoding.encode(text, allowed_special="all")
    usage = {"prompt_tokens": 70, "completion_tokens": len(ids)}
    if with_ids:  # one token each, so that the emoji arrive in halves
        events: list[Event] = [{"choices": [{"text": "", "token_ids": [token]}]} for token in ids]
    else:
        events = [{"choices": [{"text": text.removesuffix("<|return|>")}]}]
    return [*events, {"choices": [], "usage": usage}]


@pytest.mark.parametrize("with_ids", [True, False])
def test_harmony_shows_what_is_sent(service: Fake, with_ids: bool) -> None:
    service.events = harmony_events(COMPLETION, with_ids)
    status, out, around = ask("--url", service.url, "--prompt", "Hi", "--harmony", "--effort", "high")
    assert (status, out) == (0, "Hello 🌍!\n")
    assert "Reasoning: high" in around
    assert "<|start|>user<|message|>Hi<|end|><|start|>assistant\n" in around
    assert f"completion:\n{COMPLETION if with_ids else COMPLETION.removesuffix('<|return|>')}\n" in around
    assert "analysis:\nGreet 👋.\n" in around
    path, body = service.requests[0]
    assert path == "/v1/completions"
    assert body["stop_token_ids"] == [200002, 200012]
    assert (body["skip_special_tokens"], body["return_token_ids"]) == (False, True)
    assert body["max_tokens"] == 4096 - len(body["prompt"])


def test_harmony_drops_the_chain_of_thought_of_earlier_turns(
    service: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.events = harmony_events(COMPLETION, with_ids=True)
    with typed(monkeypatch, "Hi", "Again"):
        _, _, around = ask("--url", service.url, "--harmony")
    second = around.split("prompt, ")[2]
    assert "<|start|>assistant<|channel|>final<|message|>Hello 🌍!<|end|>" in second
    assert "analysis<|message|>" not in second.split("completion:")[0]


def test_harmony_cut_in_a_header_is_an_error(service: Fake) -> None:
    service.events = harmony_events("<|channel|>final", with_ids=True)
    status, out, around = ask("--url", service.url, "--prompt", "Hi", "--harmony")
    assert (status, out) == (1, "")
    assert around.splitlines()[-1].startswith("error: the completion is not valid harmony")
