"""Grammars are compiled in processes that may die of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import pytest_asyncio

from serve_app.errors import BadRequestError, GrammarsBusyError
from serve_app.grammars import checker as checker_module
from serve_app.grammars.checker import CRASHED, TOO_LONG, GrammarChecker
from serve_app.grammars.worker import NO_TEXT, TOO_DEEP, TOO_SLOW
from serve_app.harmony.conversation import Tool
from serve_app.harmony.grammar import ContentFormat, structural_tag
from serve_app.harmony.tokens import Vocabulary

# They share the workers of one checker, which belongs to an event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PARAM = "response_format"
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 200}}, "required": ["city"]}
# More than a minute with all tokens.
SLOW_REGEX = "".join(f".{{0,{number}}}" for number in range(1, 120))


def tag_of(kind: Any, value: Any = None) -> str:
    tag = structural_tag([], "auto", ContentFormat(kind, value))
    assert tag is not None
    return tag


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a grammar here is its own CPU time, however busy the machine is."""
    monkeypatch.setattr(checker_module, "_MIN_WALL_S", 600.0)


@asynccontextmanager
async def checking(**options: Any) -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker(Vocabulary.load(), **options)
    try:
        yield checker
    finally:
        await checker.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checker() -> AsyncIterator[GrammarChecker]:
    async with checking() as checker:
        checker.start()
        yield checker


def pids(checker: GrammarChecker) -> list[int]:
    return [worker._process.pid for worker in checker._workers if worker._process and worker.is_alive]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def all_free(checker: GrammarChecker) -> None:
    checker.start()
    async with asyncio.timeout(600):
        for worker in [await checker._free.get() for _ in checker._workers]:
            checker._free.put_nowait(worker)


async def refusal(checker: GrammarChecker, tag: str) -> str:
    with pytest.raises(BadRequestError) as caught:
        await checker.check(tag, PARAM)
    assert caught.value.param == PARAM
    message = str(caught.value)
    assert len(message) < 500
    assert "\n" not in message
    return message.removeprefix(f"{PARAM} cannot become a grammar: ")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", CITY),
        ("json_schema", {"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}),
        (
            "json_schema",
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 1_000_000},
        ),
        ("json_schema", {"enum": [f"value {number}" for number in range(2000)]}),
        ("json_schema", {"type": "string", "minLength": 1_000_000}),
        ("json_schema", {"type": "object", "properties": {f"p{number}": {} for number in range(100)}}),
        ("json_object", None),
        ("regex", "[a-z]+@[a-z]+\\.com"),
        ("choice", ["yes", "no"]),
        ("grammar", 'root ::= "a" root | "b"'),
        ("structural_tag", {"format": {"type": "any_text"}}),
    ],
)
async def test_grammars_that_pass(checker: GrammarChecker, kind: Any, value: Any) -> None:
    await checker.check(tag_of(kind, value), PARAM)


async def test_calls_pass(checker: GrammarChecker) -> None:
    tools = [Tool(f"tool_{number}", "", CITY) for number in range(30)]
    for tag in (
        structural_tag(tools, "required"),
        structural_tag(tools, "auto", ContentFormat("json_object")),
    ):
        assert tag is not None
        await checker.check(tag, PARAM)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (
            "json_schema",
            {"minLength": 3, "maxLength": 2, "type": "string"},
            "minLength 3 is greater than maxLength 2",
        ),
        (
            "json_schema",
            {"type": "object", "properties": {"a": False}},
            "Schema 'false' cannot accept any value",
        ),
        ("json_schema", {"allOf": [{"$ref": "#"}]}, NO_TEXT),
        ("regex", "(a)\\1", "Backreference is not supported yet"),
        ("regex", "(", ""),
        ("grammar", "root ::= x", ""),
        ("grammar", 'root ::= "a" root', None),
    ],
)
async def test_what_is_no_grammar(
    checker: GrammarChecker, kind: Any, value: Any, message: str | None
) -> None:
    if message is None:
        await checker.check(tag_of(kind, value), PARAM)
    else:
        assert message in await refusal(checker, tag_of(kind, value))


def nested(depth: int) -> dict[str, Any]:
    """A schema whose objects stand in one another so deep."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth // 2):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


async def test_a_schema_that_nests_deeper_than_vllm_takes(checker: GrammarChecker) -> None:
    await checker.check(tag_of("json_schema", nested(70)), PARAM)
    assert await refusal(checker, tag_of("json_schema", nested(80))) == TOO_DEEP


@pytest.mark.parametrize("key", ["pattern", "patternProperties"])
async def test_a_pattern_that_would_overflow_a_stack_kills_no_worker(
    checker: GrammarChecker, key: str
) -> None:
    await all_free(checker)
    before = pids(checker)
    pattern = "(" * 8000 + "a" + ")" * 8000
    schema = {"type": "string", key: pattern} if key == "pattern" else {"type": "object", key: {pattern: {}}}
    assert "groups in one another" in await refusal(checker, tag_of("json_schema", schema))
    assert pids(checker) == before


async def test_no_structural_tag(checker: GrammarChecker) -> None:
    assert await refusal(checker, "{}")
    assert await refusal(checker, "no JSON")
    assert "1,048,577 bytes" in await refusal(checker, " " * (1024 * 1024 + 1))


@pytest.mark.slow
async def test_a_slow_grammar_ends_and_holds_nobody_up(checker: GrammarChecker) -> None:
    await all_free(checker)
    slow = asyncio.create_task(refusal(checker, tag_of("regex", SLOW_REGEX)))
    await asyncio.sleep(0)
    await checker.check(tag_of("choice", ["meanwhile"]), PARAM)
    assert not slow.done()
    assert await slow == TOO_LONG
    await checker.check(tag_of("choice", ["afterwards"]), PARAM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", {"type": "object", "properties": {f"p{number}": {} for number in range(3000)}}),
        ("grammar", 'root ::= root root | "a"'),
        ("regex", "(a{0,1000}){0,1000}"),
    ],
)
async def test_what_takes_long_in_other_ways(checker: GrammarChecker, kind: Any, value: Any) -> None:
    assert await refusal(checker, tag_of(kind, value)) in (TOO_LONG, TOO_SLOW)


async def test_judgements_are_kept() -> None:
    async with checking(num_workers=1) as checker:
        good, bad = tag_of("choice", ["a"]), tag_of("regex", "(a)\\1")
        await checker.check(good, PARAM)
        first = await refusal(checker, bad)
        [pid] = pids(checker)
        os.kill(pid, signal.SIGSTOP)
        await checker.check(good, PARAM)
        assert await refusal(checker, bad) == first


async def test_the_same_grammar_is_checked_once() -> None:
    async with checking(num_workers=1, max_waiting=1) as checker:
        await asyncio.gather(*(checker.check(tag_of("choice", ["a"]), PARAM) for _ in range(20)))


@pytest.mark.slow
async def test_a_client_that_leaves_does_not_end_a_check() -> None:
    async with checking(num_workers=1) as checker:
        tag = tag_of("choice", ["a"])
        leaving = asyncio.create_task(checker.check(tag, PARAM))
        staying = asyncio.create_task(checker.check(tag, PARAM))
        await asyncio.sleep(0)
        leaving.cancel()
        await staying
        assert leaving.cancelled()


@pytest.mark.slow
async def test_a_full_queue_is_said_at_once() -> None:
    async with checking(num_workers=1, max_waiting=1) as checker:
        waiting = asyncio.create_task(checker.check(tag_of("choice", ["a"]), PARAM))
        await asyncio.sleep(0)
        with pytest.raises(GrammarsBusyError) as caught:
            await checker.check(tag_of("choice", ["b"]), PARAM)
        assert caught.value.status == 503
        assert caught.value.retry_after_s
        await waiting


async def test_no_worker_is_free_in_time() -> None:
    async with checking(num_workers=0, max_wait_s=0.01) as checker:
        with pytest.raises(GrammarsBusyError):
            await checker.check(tag_of("choice", ["a"]), PARAM)


@pytest.mark.slow
async def test_a_worker_that_dies_is_replaced() -> None:
    async with checking(num_workers=1, max_wait_s=60) as checker:
        await checker.check(tag_of("choice", ["a"]), PARAM)
        [pid] = pids(checker)
        os.kill(pid, signal.SIGSEGV)
        await checker.check(tag_of("choice", ["b"]), PARAM)
        assert pids(checker) != [pid]


@pytest.mark.slow
async def test_a_grammar_that_crashes_workers() -> None:
    async with checking(num_workers=2, max_wait_s=60) as checker:
        await all_free(checker)
        for pid in pids(checker):
            os.kill(pid, signal.SIGSTOP)
        crashing = asyncio.create_task(refusal(checker, tag_of("choice", ["a"])))
        await asyncio.sleep(0)
        for pid in pids(checker):
            os.kill(pid, signal.SIGSEGV)
            os.kill(pid, signal.SIGCONT)
        assert await crashing == CRASHED
        await all_free(checker)


@pytest.mark.slow
async def test_no_process_stays() -> None:
    async with checking(max_wait_s=60) as checker:
        await checker.check(tag_of("choice", ["a"]), PARAM)
        before = pids(checker)
        slow = asyncio.create_task(checker.check(tag_of("regex", SLOW_REGEX), PARAM))
        await asyncio.sleep(0)
    assert before
    assert not any(map(is_running, before))
    with pytest.raises(asyncio.CancelledError):
        await slow


PARENT = """
import asyncio
from serve_app.grammars.checker import GrammarChecker
from serve_app.harmony.tokens import Vocabulary

async def main():
    checker = GrammarChecker(Vocabulary.load())
    checker.start()
    for worker in [await checker._free.get() for _ in checker._workers]:
        print(worker._process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_workers_end_with_a_parent_that_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    workers = [psutil.Process(int(await parent.stdout.readline())) for _ in range(2)]
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(psutil.wait_procs, workers, 60)
    assert not any(worker.is_running() for worker in workers)
