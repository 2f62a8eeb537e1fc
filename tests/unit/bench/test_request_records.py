"""Connections on real sockets: what can happen to an answer, and what becomes of it."""

import asyncio
import socket
import time

import pytest

from serve_app.bench import events
from serve_app.bench.load import Load
from serve_app.bench.request_record import RequestRecord
from serve_app.bench.target import Target
from serve_app.bench.traffic import Traffic
from tests.unit.bench.services import (
    DONE,
    END,
    HEAD,
    PATIENCE_S,
    PAUSE_S,
    STREAM,
    Act,
    Answer,
    Request,
    chunked,
    delta,
    document,
    event,
    serving,
    whole,
)


async def ask(
    url: str, count: int = 1, *, timeout_s: float = PATIENCE_S, stream: bool = True
) -> list[RequestRecord]:
    """Requests one after another, over kept connections where they allow it."""
    load = Load(url=url, concurrency=1, input_tokens=3, output_tokens=4, timeout_s=timeout_s, stream=stream)
    ended = asyncio.Event()
    traffic = Traffic(load, "m", Target.of(url), 1, range(count), ended.set)
    await traffic.prepare(1, 1)
    for _ in range(count):
        ended.clear()
        assert traffic.send(time.monotonic_ns())
        await ended.wait()
    assert not traffic.send(0)
    await asyncio.sleep(0)
    traffic.close()
    return [events.read(raw) for raw in traffic.spool.read()]


async def ask_one(answer: Answer, *, timeout_s: float = PATIENCE_S) -> RequestRecord:
    with serving(answer) as service:
        (record,) = await ask(service.url, timeout_s=timeout_s)
    return record


def is_good(record: RequestRecord) -> bool:
    return record.error is None and int(record.num_chars.sum()) == 8 and record.num_tokens == 5


async def test_a_stream_in_its_own_pieces() -> None:
    def answer(_: Request) -> list[bytes | Act]:
        return [part for piece in whole(*STREAM) for part in (piece, Act.PAUSE)]

    record = await ask_one(answer)
    assert is_good(record)
    assert record.start_ns <= record.sent_ns < record.arrivals_ns[0] <= record.end_ns
    assert record.status == 200


async def test_a_stream_byte_by_byte() -> None:
    assert is_good(await ask_one(lambda _: [bytes([byte]) for byte in b"".join(whole(*STREAM))]))


async def test_a_stream_in_one_piece() -> None:
    record = await ask_one(lambda _: [b"".join(whole(*STREAM))])
    assert is_good(record)
    assert record.num_events.tolist() == [3]


async def test_events_that_chunks_and_pieces_cut() -> None:
    content = b"".join(STREAM)
    parts = [content[begin : begin + 17] for begin in range(0, len(content), 17)]
    stream = b"".join(whole(*parts))
    pieces = [stream[begin : begin + 23] for begin in range(0, len(stream), 23)]
    parts_and_pauses: list[bytes | Act] = [part for piece in pieces for part in (piece, Act.PAUSE)]
    assert is_good(await ask_one(lambda _: parts_and_pauses))


async def test_a_stream_with_trailers_and_an_interim_answer() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    stream: list[bytes | Act] = [early, Act.PAUSE, HEAD, *chunked(*STREAM), b"0\r\nx-time: 3\r\n\r\n"]
    assert is_good(await ask_one(lambda _: stream))


async def test_a_body_that_the_end_of_the_connection_ends() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    assert is_good(await ask_one(lambda _: [head, *STREAM, Act.CLOSE]))
    assert (await ask_one(lambda _: [head, *STREAM[:3], Act.CLOSE])).error == "truncated"


async def test_a_connection_is_used_again_and_replaced_when_it_must_be() -> None:
    ports: set[str] = set()

    def answer(request: Request) -> list[bytes | Act]:
        ports.add(request.headers["x-request-id"])
        closing = HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        return [closing, *chunked(*STREAM), END, Act.CLOSE] if len(ports) == 2 else [*whole(*STREAM)]

    with serving(answer) as service:
        records = await ask(service.url, 4)
    assert all(map(is_good, records))
    assert [request.headers["x-request-id"] for request in service.requests] == [
        f"bench-1-{number}" for number in range(4)
    ]


async def test_the_service_sees_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda _: whole(*STREAM)) as service:
        await ask(service.url + "/v1")
    (request,) = service.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    assert len(request.body.pop("messages")[0]["content"].split()) == 3
    assert request.body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 4,
        "min_tokens": 4,
        "ignore_eos": True,
    }


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        pytest.param([Act.RESET], "reset", id="reset before the answer"),
        pytest.param([Act.CLOSE], "reset", id="closed before the answer"),
        pytest.param([HEAD, *chunked(*STREAM[:3]), Act.PAUSE, Act.RESET], "reset", id="reset within"),
        pytest.param([HEAD, *chunked(*STREAM[:3]), Act.CLOSE], "truncated", id="closed within"),
        pytest.param(whole(*STREAM[:3]), "truncated", id="ended without [DONE]"),
        pytest.param([HEAD, *chunked(*STREAM[:3]), Act.HANG], "timeout", id="stalled within"),
        pytest.param([Act.HANG], "timeout", id="no answer"),
        pytest.param([b"SSH-2.0-OpenSSH_9.6\r\n"], "malformed", id="no HTTP"),
        pytest.param(
            whole(delta(content="a"), event(error={"message": "x", "code": "dead"}), DONE),
            "error event dead",
            id="error event",
        ),
        pytest.param(
            document(429, {"error": {"message": "slow down", "code": "rate_limit"}}),
            "HTTP 429 rate_limit",
            id="refused with a body",
        ),
        pytest.param(document(502, b"<h1>"), "HTTP 502", id="refused by a proxy"),
    ],
)
async def test_failures_have_names(parts: list[bytes | Act], error: str) -> None:
    record = await ask_one(lambda _: parts, timeout_s=0.2 if error == "timeout" else PATIENCE_S)
    assert record.error == error
    assert record.end_ns >= record.sent_ns > 0


async def test_after_a_failure_the_next_request_succeeds() -> None:
    def answer(request: Request) -> list[bytes | Act]:
        first = request.headers["x-request-id"].endswith("-0")
        return [HEAD, Act.RESET] if first else [*whole(*STREAM)]

    with serving(answer) as service:
        failed, good = await ask(service.url, 2)
    assert failed.error == "reset"
    assert is_good(good)


async def test_chunks_of_a_slow_stream_are_told_apart() -> None:
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in whole(*STREAM):
            writer.write(piece)
            # In one loop, the client has read this before the timer runs.
            await asyncio.sleep(PAUSE_S)
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        (record,) = await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await closed.wait()
    assert is_good(record)
    assert record.num_events.tolist() == [1, 1, 1]
    assert (record.gaps_s > 0).all()


async def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    (record,) = await ask(url)
    assert (record.error, record.status) == ("refused", 0)


async def test_an_answer_in_one_piece() -> None:
    body = {"id": "x", "choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": 2}}
    with serving(lambda _: document(200, body)) as service:
        (record,) = await ask(service.url, stream=False)
    assert record.error is None
    assert (record.num_tokens, record.ttft_s) == (2, None)
    assert "stream_options" not in service.requests[0].body
