"""The parts of the drill that need no service: questions, the schedule, what becomes of an answer."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos import growth, processes
from benchmarks.chaos.__main__ import parser
from benchmarks.chaos.answers import (
    Answer,
    Choice,
    CutError,
    MalformedError,
    StreamError,
    read_body,
    read_stream,
)
from benchmarks.chaos.exchange import Received, judge
from benchmarks.chaos.faults import KINDS, NOTICED_WITHIN_S, Cost, Fault, Need, UnknownFaultError, chosen
from benchmarks.chaos.growth import MIB, Sample, left_behind, slope, slopes
from benchmarks.chaos.picture import draw
from benchmarks.chaos.processes import Process, role
from benchmarks.chaos.questions import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    PATHS,
    RESPONSES,
    Question,
    model_questions,
    plain,
    timed_questions,
)
from benchmarks.chaos.schedule import FIRST_AFTER_S, schedule
from benchmarks.chaos.shape import ROOT
from benchmarks.chaos.verdicts import Attempt, End, Outcome, verdict

ALL = list(KINDS.values())
QUESTION = Question("1 chat, streamed", CHAT, plain(CHAT, "Hi", 5, streamed=True))
RIGHT = Answer([Choice("Hello", finish="stop")], 2)
SEEDS = st.integers(0, 2**32)


class TestFaults:
    def test_all_that_this_machine_has(self) -> None:
        kinds, left_out = chosen("all", [Need.NODES])
        names = {kind.name for kind in kinds}
        assert {"kill-replica", "kill-node"} <= names
        assert set(left_out) == set(KINDS) - names
        assert "tmpfs" in left_out["full-disk"]

    def test_some_and_none(self) -> None:
        kinds, left_out = chosen("kill-gate,stop-gate", [])
        assert [kind.name for kind in kinds] == ["kill-gate", "stop-gate"]
        assert not left_out
        assert chosen("none", list(Need)) == ([], {})

    def test_an_unknown_one(self) -> None:
        with pytest.raises(UnknownFaultError, match="kill-gtae; there are kill-engine"):
            chosen("kill-gtae", [])

    @pytest.mark.parametrize("kind", [kind for kind in ALL if kind.cost is Cost.NOTHING])
    def test_what_costs_nothing_explains_nothing(self, kind: Any) -> None:
        assert not Fault(kind, "", 10.0, 10.0).explains(5.0, 10.1, is_connection=True)

    def test_an_ingress_explains_what_was_open_and_ended_with_it(self) -> None:
        fault = Fault(KINDS["kill-ingress"], "", 10.0, 10.0, recovered_s=30.0)
        assert fault.explains(5.0, 10.1, is_connection=True)
        assert not fault.explains(5.0, 10.1, is_connection=False), "an error of the service itself"
        assert not fault.explains(5.0, 9.9, is_connection=True), "before it"
        assert not fault.explains(10.1, 10.2, is_connection=True), "another ingress was there"
        fault.done_s = 10.2
        assert fault.explains(10.1, 10.2, is_connection=True), "it had not gone yet"
        assert not fault.explains(5.0, 10.3 + NOTICED_WITHIN_S, is_connection=True), "the other one's"

    def test_the_proxy_explains_all_until_it_is_back(self) -> None:
        fault = Fault(KINDS["kill-proxy"], "", 10.0, 10.0)
        assert fault.explains(12.0, 12.0, is_connection=True)
        fault.recovered_s = 11.0
        assert not fault.explains(12.0, 12.0, is_connection=True)


class TestSchedule:
    @given(SEEDS, st.floats(1, 3600), st.floats(10, 100), st.sets(st.sampled_from(sorted(KINDS)), min_size=1))
    def test_any(self, seed: int, duration_s: float, spacing_s: float, names: set[str]) -> None:
        kinds = [KINDS[name] for name in sorted(names)]
        planned = schedule(seed, duration_s, spacing_s, kinds)
        assert planned == schedule(seed, duration_s, spacing_s, kinds)
        times = [one.at_s for one in planned]
        assert times == sorted(times)
        assert all(FIRST_AFTER_S <= at_s < duration_s for at_s in times)
        assert all(0 <= one.pick < 1 for one in planned)
        assert all((one.lasts_s is None) == (one.kind.lasts_s is None) for one in planned)
        counts = [sum(one.kind is kind for one in planned) for kind in kinds]
        assert max(counts) - min(counts) <= 1, "each once before any twice"

    def test_seeds_differ(self) -> None:
        assert schedule(1, 600, 45, ALL) != schedule(2, 600, 45, ALL)

    def test_no_kinds(self) -> None:
        assert schedule(1, 600, 45, []) == []


class TestQuestions:
    @given(SEEDS)
    def test_all_apis_streamed_and_not(self, seed: int) -> None:
        for questions in (timed_questions(seed, 60, 240), model_questions(seed, 60, 240)):
            assert {(one.api, one.is_streamed) for one in questions} == {
                (api, streamed) for api in PATHS for streamed in (True, False)
            }
            assert len({one.name for one in questions}) == len(questions)
            assert any(one.body.get("n", 1) > 1 for one in questions)

    def test_prompts_differ(self) -> None:
        questions = timed_questions(1, 60, 240)
        assert len({json.dumps(one.body) for one in questions}) == len(questions)

    def test_a_model_is_asked_for_tools_and_schemas(self) -> None:
        text = json.dumps([one.body for one in model_questions(1, 60, 240)])
        assert "get_weather" in text
        assert "json_schema" in text


def cut(text: str, drawn: random.Random) -> list[str]:
    """The text in pieces."""
    pieces = []
    while text:
        size = drawn.randint(1, len(text))
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def stream_of(api: str, answer: Answer, drawn: random.Random) -> list[dict[str, Any]]:
    """The events of an answer with one call at most, cut at random places."""
    [choice] = answer.choices
    events: list[dict[str, Any]]
    last: dict[str, Any]
    reasoning, text = cut(choice.reasoning, drawn), cut(choice.text, drawn)
    calls = [(name, cut(arguments, drawn)) for name, arguments in choice.calls]
    if api == CHAT:
        deltas: list[dict[str, Any]] = [{"reasoning": piece} for piece in reasoning]
        deltas += [{"content": piece} for piece in text]
        for name, pieces in calls:
            deltas.append({"tool_calls": [{"index": 0, "function": {"name": name, "arguments": ""}}]})
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in pieces]
        events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": choice.finish}]}
        return [*events, last, {"choices": [], "usage": {"completion_tokens": answer.num_tokens}}]
    if api == COMPLETIONS:
        events = [{"choices": [{"index": 0, "text": piece, "finish_reason": None}]} for piece in text]
        last = {"choices": [{"index": 0, "text": "", "finish_reason": choice.finish}]}
        return [*events, last, {"choices": [], "usage": {"completion_tokens": answer.num_tokens}}]
    if api == RESPONSES:
        events = [{"type": "response.reasoning_text.delta", "delta": piece} for piece in reasoning]
        events += [{"type": "response.output_text.delta", "delta": piece} for piece in text]
        for _, pieces in calls:
            events += [{"type": "response.function_call_arguments.delta", "delta": p} for p in pieces]
        return [*events, {"type": "response.completed", "response": body_of(RESPONSES, answer)}]
    events = [{"type": "content_block_delta", "delta": {"thinking": piece}} for piece in reasoning]
    events += [{"type": "content_block_delta", "delta": {"text": piece}} for piece in text]
    for name, pieces in calls:
        events.append({"type": "content_block_start", "content_block": {"type": "tool_use", "name": name}})
        events += [{"type": "content_block_delta", "delta": {"partial_json": piece}} for piece in pieces]
    usage = {"output_tokens": answer.num_tokens}
    events.append({"type": "message_delta", "delta": {"stop_reason": choice.finish}, "usage": usage})
    return [*events, {"type": "message_stop"}]


def body_of(api: str, answer: Answer) -> dict[str, Any]:
    """The body of an answer with one choice."""
    choices: list[dict[str, Any]]
    [choice] = answer.choices
    if api == CHAT:
        calls = [{"function": {"name": name, "arguments": text}} for name, text in choice.calls]
        message = {"content": choice.text or None, "reasoning": choice.reasoning or None, "tool_calls": calls}
        choices = [{"index": 0, "message": message, "finish_reason": choice.finish}]
        return {"choices": choices, "usage": {"completion_tokens": answer.num_tokens}}
    if api == COMPLETIONS:
        choices = [{"index": 0, "text": choice.text, "finish_reason": choice.finish}]
        return {"choices": choices, "usage": {"completion_tokens": answer.num_tokens}}
    if api == RESPONSES:
        output: list[dict[str, Any]] = [{"type": "reasoning", "content": [{"text": choice.reasoning}]}]
        output.append({"type": "message", "content": [{"text": choice.text}]})
        output += [{"type": "function_call", "name": name, "arguments": a} for name, a in choice.calls]
        return {"status": choice.finish, "output": output, "usage": {"output_tokens": answer.num_tokens}}
    content: list[dict[str, Any]] = [{"type": "thinking", "thinking": choice.reasoning}]
    content.append({"type": "text", "text": choice.text})
    content += [{"type": "tool_use", "name": name, "input": json.loads(text)} for name, text in choice.calls]
    return {"content": content, "stop_reason": choice.finish, "usage": {"output_tokens": answer.num_tokens}}


def data(events: list[dict[str, Any]], api: str) -> list[bytes]:
    return [*(json.dumps(event).encode() for event in events), *([] if api == MESSAGES else [b"[DONE]"])]


ANSWERS = st.builds(
    lambda text, reasoning, calls, number: Answer([Choice(text, reasoning, calls, "stop")], number),
    st.text(max_size=30),
    st.text(max_size=30),
    st.lists(st.just(["get_weather", '{"city":"Paris"}']), max_size=1),
    st.integers(0, 99),
)


class TestAnswers:
    @given(ANSWERS, st.sampled_from(sorted(PATHS)), st.randoms())
    def test_a_stream_and_a_body_say_the_same(self, answer: Answer, api: str, drawn: random.Random) -> None:
        if api == COMPLETIONS:
            [choice] = answer.choices
            answer = Answer([dataclasses.replace(choice, reasoning="", calls=[])], answer.num_tokens)
        assert read_stream(api, data(stream_of(api, answer, drawn), api)) == answer
        assert read_body(api, json.dumps(body_of(api, answer)).encode()) == answer

    @given(ANSWERS, st.sampled_from(sorted(PATHS)), st.randoms(), st.data())
    def test_no_part_of_a_stream_is_an_answer(
        self, answer: Answer, api: str, drawn: random.Random, draw: st.DataObject
    ) -> None:
        whole = data(stream_of(api, answer, drawn), api)
        with pytest.raises(CutError):
            read_stream(api, whole[: draw.draw(st.integers(0, len(whole) - 1))])

    @pytest.mark.parametrize(
        "event",
        [
            {"error": {"message": "lost"}},
            {"type": "error", "error": {"message": "lost"}},
            {"type": "error", "message": "lost"},
        ],
    )
    def test_an_error_event(self, event: dict[str, Any]) -> None:
        for api in PATHS:
            with pytest.raises(StreamError, match="lost"):
                read_stream(api, data([event], api))

    def test_a_last_event_that_says_something_else(self) -> None:
        events = stream_of(RESPONSES, RIGHT, random.Random(1))
        with pytest.raises(MalformedError, match="something else"):
            read_stream(RESPONSES, data([events[0] | {"delta": "Jello"}, *events[1:]], RESPONSES))

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"choices": [1]}', b'{"output": 3}'])
    def test_what_cannot_be_read(self, content: bytes) -> None:
        for api in PATHS:
            with pytest.raises(MalformedError):
                read_body(api, content)

    @given(ANSWERS, ANSWERS)
    def test_differences_have_words(self, one: Answer, other: Answer) -> None:
        if one != other:
            assert one.difference(other)

    def test_a_token_that_came_twice(self) -> None:
        found = RIGHT.difference(Answer([Choice("Hellllo", finish="stop")], 2))
        assert found == "text: 7 characters, not 5; equal for 4, then 'llo'"


def attempt(end: End, **values: Any) -> Attempt:
    return Attempt(QUESTION, 5.0, ended_s=10.1, end=end, **values)


class TestVerdicts:
    def test_whole_and_wrong(self) -> None:
        assert verdict(attempt(End.ANSWER, answer=RIGHT), RIGHT, []).outcome is Outcome.WHOLE
        found = verdict(attempt(End.ANSWER, answer=Answer(RIGHT.choices, 3)), RIGHT, [])
        assert (found.outcome, found.why) == (Outcome.WRONG, "3 tokens counted, not 2")
        assert verdict(attempt(End.MALFORMED), RIGHT, []).outcome is Outcome.WRONG

    def test_who_leaves_is_owed_nothing(self) -> None:
        assert verdict(attempt(End.LEFT), RIGHT, []).outcome is Outcome.LEFT

    def test_a_cut_stream(self) -> None:
        ingress, engine = (Fault(KINDS[name], "", 10.0, 10.0) for name in ("kill-ingress", "kill-replica"))
        assert verdict(attempt(End.CUT), RIGHT, [engine]).outcome is Outcome.UNEXPLAINED
        found = verdict(attempt(End.CUT), RIGHT, [engine, ingress])
        assert (found.outcome, found.fault) == (Outcome.EXPLAINED, ingress)

    @pytest.mark.parametrize("end", [End.EVENT, End.SILENT])
    def test_what_no_fault_explains(self, end: End) -> None:
        faults = [Fault(kind, "", 10.0, 10.0) for kind in ALL]
        assert verdict(attempt(end), RIGHT, faults).outcome is Outcome.UNEXPLAINED

    def test_a_status_of_the_proxy_and_one_of_the_service(self) -> None:
        faults = [Fault(KINDS["kill-ingress"], "", 10.0, 10.0)]
        of_proxy = attempt(End.STATUS, status=503, is_of_service=False)
        assert verdict(of_proxy, RIGHT, faults).outcome is Outcome.EXPLAINED
        of_service = attempt(End.STATUS, status=503)
        assert verdict(of_service, RIGHT, faults).outcome is Outcome.UNEXPLAINED


class TestJudge:
    def received(self, content: bytes, status: int | None = 200, *, is_complete: bool = True) -> Attempt:
        found = Attempt(QUESTION, 0.0)
        judge(found, Received(status, {}, [content], is_complete))
        return found

    def test_an_answer(self) -> None:
        lines = data(stream_of(CHAT, RIGHT, random.Random(1)), CHAT)
        content = b"".join(b"data: " + line + b"\n\n" for line in lines)
        assert self.received(b": keep-alive\n\n" + content).answer == RIGHT
        assert self.received(content, is_complete=False).end is End.CUT

    def test_errors(self) -> None:
        assert self.received(b"", None).end is End.CUT
        service = self.received(b'{"error": {"message": "no engine"}}', 503)
        assert (service.end, service.detail, service.is_of_service) == (End.STATUS, "503: no engine", True)
        _, _, of_proxy = (ROOT / "scripts/unavailable.http").read_bytes().partition(b"\r\n\r\n")
        proxy = self.received(of_proxy, 503)
        assert (proxy.end, proxy.is_of_service) == (End.STATUS, False)
        # A form that no client of the APIs knows is nobody's.
        assert self.received(b"Internal Server Error", 500).is_of_service
        assert self.received(b'data: {"error": {"message": "lost"}}\n\n').detail == "lost"
        assert self.received(b"data: {\n\ndata: [DONE]\n\n").end is End.MALFORMED


def process(pid: int, kind: str, mib: int = 100, fds: int = 50) -> Process:
    return Process(pid, kind, "", mib * MIB, fds, 10)


def sample(at_s: float, *found: Process, **tasks: int) -> Sample:
    return Sample(at_s, found, {int(pid[1:]): {"tasks": number} for pid, number in tasks.items()})


IDLE: dict[str, Any] = {"gate": [0, 0], "engines": [0, 0], "ingresses": []}


class TestGrowth:
    before = sample(0, process(1, processes.INGRESS), process(2, processes.GATE), p1=20)

    def left(self, *found: Process, work: dict[str, Any] = IDLE, **tasks: int) -> list[str]:
        return left_behind(self.before, sample(60, *found, **tasks), work)

    def test_nothing(self) -> None:
        new = process(7, processes.INGRESS, 110, 60)
        assert self.left(new, process(2, processes.GATE), process(9, processes.REST, 900), p7=21) == []

    @pytest.mark.parametrize(
        ("work", "words"),
        [
            ({"gate": [1, 0]}, "the gate has 1 sequences"),
            ({"engines": [0, 2]}, "unfinished"),
            (
                {"ingresses": [{"pid": 1, "requests": 3, "sequences": 0, "tasks": 20}]},
                "ingress 1 has 3 requests",
            ),
        ],
    )
    def test_open_work(self, work: dict[str, Any], words: str) -> None:
        [found] = self.left(*self.before.processes, work=IDLE | work)
        assert words in found

    @pytest.mark.parametrize(
        ("kept", "words"),
        [
            (process(1, processes.INGRESS, 100 + growth.MAX_RSS_BYTES // MIB + 1), "MiB; before 100"),
            (process(1, processes.INGRESS, fds=50 + growth.MAX_FDS + 1), "file descriptors; before 50"),
            (process(3, processes.CORE), "1 of engine core, not 0"),
        ],
    )
    def test_what_a_process_keeps(self, kept: Process, words: str) -> None:
        others = [one for one in self.before.processes if one.pid != kept.pid]
        assert any(words in one for one in self.left(kept, *others))

    def test_tasks(self) -> None:
        [found] = self.left(*self.before.processes, p1=20 + growth.MAX_TASKS + 1)
        assert "25 tasks; before there were 20" in found

    @given(st.floats(-100, 100), st.floats(-100, 100), st.integers(3, 50))
    def test_slope(self, begin: float, an_hour: float, number: int) -> None:
        points = [(float(60 * index), begin + an_hour * index / 60) for index in range(number)]
        assert slope(points) == pytest.approx(an_hour, abs=1e-6)
        assert slope(points[:2]) == 0

    def test_slopes_are_of_those_who_stay(self) -> None:
        samples = [
            sample(60.0 * n, process(1, processes.INGRESS, 100 + n), process(50 + n, processes.GATE), p1=n)
            for n in range(31)
        ]
        [line] = slopes(samples)
        assert (line["role"], line["pid"]) == (processes.INGRESS, 1)
        assert line["rss_mib"] == {"first": 110, "last": 130, "most": 130, "an_hour": pytest.approx(60)}
        assert line["tasks"]["an_hour"] == pytest.approx(60)
        assert line["fds"]["an_hour"] == 0
        assert slopes([]) == []

    @given(
        rises=st.dictionaries(st.sampled_from(sorted(growth.MAX_AN_HOUR)), st.floats(-100.0, 100.0)),
        first_mib=st.integers(10, 4_000),
    )
    def test_what_grows(self, rises: dict[str, float], first_mib: int) -> None:
        line: dict[str, Any] = {"role": processes.GATE, "pid": 7} | {
            name: {"first": first_mib, "last": 0, "most": 0, "an_hour": rise} for name, rise in rises.items()
        }
        most = growth.MAX_AN_HOUR | {"rss_mib": max(24.0, 0.05 * first_mib)}
        expected = [name for name in growth.MAX_AN_HOUR if rises.get(name, 0.0) > most[name]]
        found = growth.grown([line])
        assert [words.split()[3] for words in found] == expected
        assert all(words.startswith("gate 7: +") for words in found)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("ray::ServeRepl", ["ray::ServeReplica:gpt-oss:Ingress.handle_request"], processes.INGRESS),
        ("ray::ServeRepl", ["ray::ServeReplica:gpt-oss:Gate"], processes.GATE),
        ("ray::ServeRepl", ["ray::ServeReplica:gpt-oss:TimedEngine"], processes.REPLICA),
        ("ray::ServeRepl", ["ray::ServeReplica:gpt-oss:Engine"], processes.REPLICA),
        ("VLLM::EngineCor", ["VLLM::EngineCore"], processes.CORE),
        ("VLLM::Worker", ["VLLM::Worker_TP0"], processes.WORKER),
        ("haproxy", ["haproxy", "-f", "haproxy.cfg"], processes.PROXY),
        ("ray::ServeContr", ["ray::ServeController.listen_for_change"], processes.CONTROLLER),
        ("raylet", ["/ray/raylet", "--node_ip_address=10.77.0.2"], processes.RAYLET),
        ("python", ["python", "-m", "benchmarks.chaos.probe"], processes.REST),
        ("python", [], processes.REST),
    ],
)
def test_roles(name: str, arguments: list[str], expected: str) -> None:
    assert role(name, arguments) == expected


def test_the_command_line() -> None:
    options = parser().parse_args(
        ["--minutes", "20", "--seed", "3", "--faults", "kill-gate", "--engines", "vllm"]
    )
    assert (options.minutes, options.seed, options.faults, options.engines) == (20, 3, "kill-gate", "vllm")


def test_the_picture_is_drawn_from_the_result_alone() -> None:
    numbers: dict[str, list[int]] = {name.value: [3, 0, 2] for name in Outcome}
    picture = draw(
        {
            "clients": 8,
            "engines": "timed",
            "longest_pause_s": 2.5,
            "outcomes": {name.value: 5 for name in Outcome},
            "faults": [{"kind": "kill-gate", "at_s": 7.0}],
            "timeline": {
                "bin_s": 5.0,
                "ended": numbers,
                "longest_pause_s": [0.1, 2.5, 0.1],
                "rss_mib": {processes.GATE: [[0.0, 100.0], [10.0, 101.0]]},
            },
        }
    )
    assert "kill-gate" in picture
    assert "longest pause 2.5 s" in picture
    assert picture.endswith("</svg>\n")
