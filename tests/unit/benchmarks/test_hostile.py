"""Hostile requests: what is sent is drawn from a seed, and judged; what ordinary clients get beside them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.hostile import figures
from benchmarks.chaos.hostile.client import MAX_ERROR_BYTES, Reply, head, pieces
from benchmarks.chaos.hostile.kinds import KINDS
from benchmarks.chaos.hostile.ordinary import Asked, questions
from benchmarks.chaos.hostile.phases import ALONE, Phase
from benchmarks.chaos.hostile.picture import draw
from benchmarks.chaos.hostile.request import MAX_BODY_BYTES, Conduct, Hostile
from benchmarks.chaos.strangers import parser, summary
from tests.examples import examples

FORMS = [(kind, number) for kind in KINDS.values() for number in range(len(kind.forms))]
ERROR = b'{"error":{"message":"no"}}'


@pytest.mark.parametrize(("kind", "number"), FORMS, ids=lambda one: getattr(one, "name", str(one)))
def test_a_seed_says_what_is_sent(kind: object, number: int) -> None:
    one, same = (KINDS[kind.name].draw(random.Random(7), number) for _ in range(2))  # type: ignore[attr-defined]
    assert one == same
    # What is larger is none of a form's business, but of the forms that say so.
    assert len(one.body) <= MAX_BODY_BYTES or one.statuses == {413}


@given(st.sampled_from([Conduct.WAITS, Conduct.SLOW, Conduct.CHUNKED]), st.binary(min_size=1), st.randoms())
def test_what_is_sent_is_the_body(conduct: Conduct, body: bytes, drawn: random.Random) -> None:
    hostile = Hostile("x", "/v1/completions", body, frozenset({200}), conduct)
    sent = b"".join(pieces(hostile, drawn))
    if conduct is Conduct.CHUNKED:
        assert sent == b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        assert sent == body
        assert f"Content-Length: {len(body)}".encode() in head(hostile)


def test_who_leaves_while_sending_has_not_sent_all() -> None:
    hostile = Hostile("x", "/", b"a" * 100, frozenset(), Conduct.LEAVES_SENDING)
    for seed in range(20):
        assert len(b"".join(pieces(hostile, random.Random(seed)))) < 100


@pytest.mark.parametrize(
    ("status", "content", "is_complete", "is_good"),
    [
        (200, b"x" * 10_000, True, True),
        (400, ERROR, True, True),
        (400, b"<html>", True, False),
        (400, ERROR + b" " * MAX_ERROR_BYTES, True, False),
        (400, ERROR, False, False),
        (None, b"", False, False),
    ],
)
def test_what_is_well_said(status: int | None, content: bytes, is_complete: bool, is_good: bool) -> None:
    assert Reply(status, content, 0.1, is_complete).is_well_said == is_good


def asked(whole_s: float, problem: str = "") -> Asked:
    return Asked("a", 0.0, whole_s / 2, [whole_s / 4], whole_s, problem)


def phases(alone_s: float, beside_s: float) -> list[Phase]:
    found = [Phase(ALONE, 0), Phase("schemas", 1), Phase(ALONE, 0)]
    for phase, whole_s in zip(found, (alone_s, beside_s, alone_s), strict=True):
        phase.asked = [asked(whole_s) for _ in range(5)]
    return found


@examples(100)
@given(st.floats(0.01, 10.0), st.floats(0.1, 10.0))
def test_twice_the_usual_time_is_good_and_more_is_not(alone_s: float, ratio: float) -> None:
    [line] = figures.lines(phases(alone_s, ratio * alone_s))
    assert line["ratios"]["whole_ms"]["p95"] == pytest.approx(ratio, rel=0.05, abs=0.1)
    if abs(ratio - 2) > 0.2:
        assert line["is_good"] == (ratio < 2)


def test_an_answer_or_a_status_that_is_wrong_is_not_good() -> None:
    some = phases(1.0, 1.0)
    some[1].asked.append(asked(1.0, "cut off"))
    assert not figures.lines(some)[0]["is_good"]
    some = phases(1.0, 1.0)
    kind = KINDS["schemas"]
    hostile = kind.draw(random.Random(1), len(kind.forms) - 1)
    some[1].note(kind, hostile, 400, "")
    some[1].note(kind, hostile, 503, "")
    assert figures.lines(some)[0]["is_good"], "it may be busy"
    some[1].note(kind, hostile, 500, "")
    [line] = figures.lines(some)
    assert not line["is_good"]
    assert line["hostile_wrong"] == ["deep schema: status 500"]


def test_ordinary_requests_are_short_and_of_all_apis() -> None:
    some = questions(1)
    assert len({question.api for question in some}) == 4
    assert {question.is_streamed for question in some} == {True, False}
    assert questions(1) == some != questions(2)


def test_a_result_is_told_and_drawn() -> None:
    lines = figures.lines(phases(1.0, 3.0))
    result = {
        "alone": figures.times([asked(1.0)]),
        "kinds": lines,
        "died": ["ingress 7"],
        "left_behind": ["ingress 8 has 1 requests"],
    }
    told = summary(result)
    assert "BAD  schemas" in told
    assert "died: ingress 7" in told
    assert "3.00" in draw(result)


def test_options() -> None:
    assert parser().parse_args([]).ingresses == 1
