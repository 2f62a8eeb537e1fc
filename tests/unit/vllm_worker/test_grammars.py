"""The compiler of an engine core: each grammar for itself, whole grammars kept."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve_app.grammars.text import with_valid_strings
from serve_app.harmony.tokens import Vocabulary
from serve_app.vllm_worker.compile_threads import CompileSlots, GrammarTimeoutError
from serve_app.vllm_worker.grammars import IsolatedCompiler
from tests.unit.harmony.grammar_walks import walks

TEXT = r'root ::= (("\"" root_characters{0, 9} "\""))' + "\n" + r"root_characters ::= (([^\"\\\r\n]))"


class Compilers:
    """Makes compilers that take a text for its own grammar, and counts them."""

    def __init__(self) -> None:
        self.num_made = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self) -> Compilers:
        self.num_made += 1
        return self

    def compile_grammar(self, text: str) -> str:
        self.may_go_on.wait()
        if text == "bad":
            raise ValueError(text)
        return text

    def compile_structural_tag(self, tag: str) -> str:
        return f"tag {tag}"


def compiler(
    compilers: Compilers, max_kept_bytes: int = 1000, slots: CompileSlots | None = None
) -> IsolatedCompiler:
    return IsolatedCompiler(compilers, lambda tag: tag, len, max_kept_bytes, slots or CompileSlots(2))


def test_each_grammar_has_its_compiler_and_is_kept() -> None:
    compilers = Compilers()
    ours = compiler(compilers)
    assert [ours.compile_grammar(text) for text in "abab"] == ["a", "b", "a", "b"]
    assert compilers.num_made == 2


def test_the_least_recently_used_goes() -> None:
    compilers = Compilers()
    ours = compiler(compilers, max_kept_bytes=10)
    for text in ("aaaa", "bbbb", "aaaa", "cccc"):  # b goes
        ours.compile_grammar(text)
    assert compilers.num_made == 3
    ours.compile_grammar("aaaa")
    assert compilers.num_made == 3
    ours.compile_grammar("bbbb")
    assert compilers.num_made == 4


def test_what_is_too_large_is_not_kept() -> None:
    compilers = Compilers()
    ours = compiler(compilers, max_kept_bytes=3)
    assert [ours.compile_grammar("aaaa") for _ in range(2)] == ["aaaa"] * 2
    assert compilers.num_made == 2


def test_a_grammar_that_fails_is_not_kept() -> None:
    compilers = Compilers()
    ours = compiler(compilers)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            ours.compile_grammar("bad")
    assert compilers.num_made == 2


@pytest.mark.parametrize("text", ["good", "bad"])
def test_several_threads_wait_for_one_compiler(text: str) -> None:
    compilers = Compilers()
    compilers.may_go_on.clear()
    ours = compiler(compilers)
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(ours.compile_grammar, text) for _ in range(4)]
        while compilers.num_made == 0 or len(ours._grammars) == 0:
            pass
        compilers.may_go_on.set()
        errors = [one.exception() for one in done]
    assert all(errors) if text == "bad" else not any(errors)
    assert text == "bad" or compilers.num_made == 1


def test_who_waits_for_another_thread_holds_no_slot() -> None:
    compilers = Compilers()
    compilers.may_go_on.clear()
    ours = compiler(compilers, slots=CompileSlots(2))
    with ThreadPoolExecutor(9) as threads:
        same = [threads.submit(ours.compile_grammar, "a") for _ in range(8)]
        other = threads.submit(ours.compile_structural_tag, "b")
        assert other.result(60) == "tag b"
        assert not any(one.done() for one in same)
        compilers.may_go_on.set()
        assert {one.result(60) for one in same} == {"a"}


def test_a_grammar_without_a_slot_is_tried_again_by_the_next_request() -> None:
    compilers = Compilers()
    slots = CompileSlots(1, max_slow=0, max_wait_s=0.01)
    ours = compiler(compilers, slots=slots)
    with slots.taken(), pytest.raises(GrammarTimeoutError):
        ours.compile_grammar("a")
    assert ours.compile_grammar("a") == "a"


def test_strings_of_limited_length_are_corrected() -> None:
    ours = compiler(Compilers())
    assert ours.compile_structural_tag("other") == "tag other"
    assert ours.compile_structural_tag(TEXT) == with_valid_strings(TEXT) != TEXT


LENGTHS: list[tuple[int, int | None]] = [(0, 3), (1, None), (3, None), (2, 12), (40, None)]


@pytest.fixture(scope="module")
def strings() -> list[list[str]]:
    """For each of `LENGTHS` strings that a grammar allows, as JSON."""
    tags = []
    for low, high in LENGTHS:
        schema = {"type": "string", "minLength": low} | ({} if high is None else {"maxLength": high})
        text = {"type": "json_schema", "json_schema": schema}
        tags.append(json.dumps({"type": "structural_tag", "format": text}))
    bytes_of = Vocabulary.load().bytes_of
    return [
        [b"".join(map(bytes_of, walk.tokens[:-1])).decode() for walk in found if walk.is_ended]
        for found in walks(tags, 20)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LENGTHS)), ids=map(str, LENGTHS))
def test_they_are_json_and_as_long_as_they_should_be(number: int, strings: list[list[str]]) -> None:
    low, high = LENGTHS[number]
    assert strings[number]
    for text in strings[number]:
        assert low <= len(json.loads(text)) <= (high or 1_000_000)
    if high is None and low < 40:
        assert any("\\" in text for text in strings[number])
