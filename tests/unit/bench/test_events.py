"""What was received is read the same, however it was cut into pieces."""

import json
import random

import pytest

from serve_app.bench import events
from serve_app.bench.request_record import Raw, RequestRecord
from tests.unit.bench.services import DONE, STREAM, delta, event, usage


def raw(*pieces: bytes, status: int = 200, failure: str | None = None) -> Raw:
    """Pieces that arrived at 100, 200, 300, ... ns."""
    stamps = [100 * number for number in range(1, len(pieces) + 1)]
    return Raw(
        "bench-1-0",
        due_ns=10,
        sent_ns=20,
        end_ns=1000,
        status=status,
        is_complete=failure is None,
        failure=failure,
        stamps=stamps,
        pieces=list(pieces),
    )


def receipts(record: RequestRecord) -> list[tuple[int, int, int]]:
    return list(
        zip(
            record.arrivals_ns.tolist(),
            record.num_chars.tolist(),
            record.num_events.tolist(),
            strict=True,
        )
    )


def test_a_piece_for_each_event() -> None:
    record = events.read(raw(*STREAM))
    assert record.error is None
    # The first event only opens the message; the last two carry usage and the end.
    assert receipts(record) == [(200, 2, 1), (300, 4, 1), (400, 2, 1)]
    assert record.response_id == "chatcmpl-x"
    assert (record.prompt_tokens, record.completion_tokens) == (7, 5)
    assert record.ttft_s == pytest.approx(190e-9)
    assert record.tpot_s == pytest.approx((990e-9 - 190e-9) / 4)
    assert record.gaps_s.tolist() == pytest.approx([100e-9, 100e-9])


def test_several_events_in_a_piece_arrive_together() -> None:
    record = events.read(raw(STREAM[0], b"".join(STREAM[1:4]), *STREAM[4:]))
    assert receipts(record) == [(200, 8, 3)]
    assert record.gaps_s.tolist() == [0, 0]
    assert record.num_chunks == 3


def test_pieces_of_one_receipt_count_as_one() -> None:
    together = raw(*STREAM)
    together.stamps = [100, 200, 200, 300, 300, 300]
    assert receipts(events.read(together)) == [(200, 6, 2), (300, 2, 1)]


def test_an_event_arrives_with_its_last_byte() -> None:
    content = delta(content="four")
    for cut in range(1, len(content)):
        record = events.read(raw(content[:cut], content[cut:], DONE))
        assert receipts(record) == [(200, 4, 1)], cut
        assert record.error is None


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_any_cut_reads_the_same(newline: bytes) -> None:
    content = b"".join(STREAM).replace(b"\n", newline)
    random_cuts = random.Random(4)
    for _ in range(200):
        cuts = sorted(random_cuts.sample(range(1, len(content)), 12))
        pieces = [content[begin:end] for begin, end in zip([0, *cuts], [*cuts, None], strict=True)]
        record = events.read(raw(*pieces))
        assert record.error is None
        assert (int(record.num_chars.sum()), record.num_chunks) == (8, 3)
        assert (record.prompt_tokens, record.completion_tokens) == (7, 5)


def test_comments_names_and_lines_without_a_space() -> None:
    record = events.read(
        raw(b": ping\n\n", b"event: x\nid: 3\n" + delta(content="ab").replace(b"data: ", b"data:"), DONE)
    )
    assert record.error is None
    assert receipts(record) == [(200, 2, 1)]


def test_data_in_several_lines() -> None:
    content = b'data: {"choices":\ndata: [{"delta": {"content": "abc"}}]}\n\n'
    assert receipts(events.read(raw(content, DONE))) == [(100, 3, 1)]


def test_the_last_event_may_lack_its_empty_line() -> None:
    assert events.read(raw(delta(content="a"), b"data: [DONE]")).error is None


def test_what_counts_as_content() -> None:
    call = {"index": 0, "function": {"name": "add", "arguments": '{"a'}}
    pieces = [
        delta(tool_calls=[call]),
        delta(reasoning_content="abc"),
        delta(reasoning="abc", reasoning_content="abc"),
        event(choices=[{"text": "ab"}]),
        event(choices=[{"text": ""}]),
        event(choices=[{"delta": {}, "finish_reason": "length"}]),
    ]
    record = events.read(raw(*pieces, DONE))
    assert receipts(record) == [(100, 6, 1), (200, 3, 1), (300, 3, 1), (400, 2, 1)]
    assert record.finish_reason == "length"


def test_without_usage_chunks_are_counted() -> None:
    record = events.read(raw(delta(content="a"), delta(content="b"), DONE))
    assert (record.completion_tokens, record.num_tokens) == (None, 2)


def test_an_error_event_is_named_by_its_code_or_type() -> None:
    named = event(error={"message": "no more\nroom", "type": "server_error", "code": "engine_dead"})
    record = events.read(raw(delta(content="a"), named, DONE))
    assert (record.error, record.message) == ("error event engine_dead", "no more room")
    typed = events.read(raw(event(error={"message": "x", "type": "server_error", "code": None}), DONE))
    assert typed.error == "error event server_error"
    old = events.read(raw(event(object="error", message="x", code=500), DONE))
    assert (old.error, old.message) == ("error event 500", "x")


def test_a_stream_without_its_end_is_truncated() -> None:
    record = events.read(raw(delta(content="a"), usage(1, 1)))
    assert record.error == "truncated"
    assert record.num_chunks == 1


def test_a_failure_on_the_way_comes_first() -> None:
    content = delta(content="a")
    record = events.read(raw(content, content[:9], failure="reset"))
    assert record.error == "reset"
    assert record.num_chunks == 1


def test_an_event_that_is_no_json() -> None:
    assert events.read(raw(b"data: {oops\n\n", DONE)).error == "malformed"


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ({"error": {"message": "full", "code": "overloaded"}}, "HTTP 503 overloaded", "full"),
        ({"error": {"message": "full", "type": "busy", "code": None}}, "HTTP 503 busy", "full"),
        ({"error": {"message": "full", "type": "busy", "code": 503}}, "HTTP 503", "full"),
        ({"error": "full"}, "HTTP 503", "full"),
        ({"detail": "Not Found"}, "HTTP 503", '{"detail": "Not Found"}'),
        ([1], "HTTP 503", "[1]"),
    ],
)
def test_a_refusal_is_named_by_status_and_code(body: object, kind: str, message: str) -> None:
    record = events.read(raw(json.dumps(body).encode(), status=503))
    assert (record.error, record.message) == (kind, message)


def test_a_refusal_that_is_no_json() -> None:
    record = events.read(raw(b"<h1>Bad\n Gateway</h1>\xff", status=502))
    assert (record.error, record.message) == ("HTTP 502", "<h1>Bad Gateway</h1>\N{REPLACEMENT CHARACTER}")
    assert events.read(raw(status=500)).error == "HTTP 500"


def test_an_answer_in_one_piece() -> None:
    body = {
        "id": "x",
        "choices": [{"message": {"content": "four"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 9},
    }
    content = json.dumps(body).encode()
    record = events.read(raw(content[:5], content[5:]))
    assert record.error is None
    assert (record.ttft_s, record.tpot_s, record.num_tokens) == (None, None, 9)
    assert record.e2e_s == pytest.approx(990e-9)
    assert events.read(raw(content[:20])).error == "malformed"
    assert events.read(raw(content[:20], failure="truncated")).error == "truncated"
