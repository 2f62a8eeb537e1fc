"""The engine replica over parts of a test: neither Serve nor vLLM is started."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from serve_app.config import AppConfig
from serve_app.config.graph_sizes import DecodeShape
from serve_app.config.source import Source
from serve_app.engine import Engine, EngineParts
from serve_app.staging import starts, timeline
from serve_app.staging.starts import Start
from serve_app.stall import CANARY_AFTER_S, MAX_GAP_S, EngineWatch
from serve_app.transport.curve import CurveAddress
from serve_app.transport.requests import GenerateRequest
from serve_app.vllm_worker.graph_report import GraphsMissingError
from serve_app.warm_up import rounds

REQUEST = GenerateRequest(
    request_id="r-1",
    prompt_token_ids=[1, 2],
    sampling_params=b"",
    reply_to=CurveAddress("tcp://ingress:1", b"key"),
    sequence=0,
)
REPLICA = "abc123"


class DeadError(Exception):
    """What an engine raises whose process has died."""


class Left(BaseException):
    """The process would have ended."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Replica:
    """What a replica is made of in these tests, and what it did, in order."""

    generates: Any = 7
    """What the engine returns, raises or awaits for a request."""
    fails_at: str = ""
    """The part that fails."""
    dies_with: BaseException | None = None
    """What the engine's own health check raises."""
    is_watched: bool = False
    """Whether a watchdog watches its event loop."""
    done: list[str] = field(default_factory=list)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rounds: list[str] = field(default_factory=list)
    graphs: DecodeShape | None = None
    clock: Clock = field(default_factory=Clock)

    def did(self, what: str) -> None:
        self.done.append(what)
        if what == self.fails_at:
            raise GraphsMissingError("no full graph") if what == "graphs" else RuntimeError(f"{what} failed")

    def parts(self) -> EngineParts:
        self.did("imports")
        made: Any = EngineParts(
            new_engine=self.new_engine,  # type: ignore[arg-type]
            new_cache=self.new_cache,  # type: ignore[arg-type]
            compiler_factors=lambda: {"vllm": "0"},
            freeze_gc_heap=lambda: self.did("freeze"),
            engine_dead=DeadError,
        )
        return made  # type: ignore[no-any-return]

    def new_engine(self, arguments: Mapping[str, Any]) -> FakeEngine:
        self.did("engine")
        self.arguments = arguments
        return FakeEngine(self)

    def new_cache(self, staging: Any, arguments: Mapping[str, Any], compiler: Mapping[str, Any]) -> FakeCache:
        assert compiler == {"vllm": "0"}
        assert arguments["max_num_seqs"] == 2
        return FakeCache(self)

    def leave(self, status: int) -> None:
        self.did(f"leave {status}")
        raise Left

    async def start(self, config: AppConfig) -> Engine:
        engine = Engine.__new__(Engine)
        start: Any = engine.__init__  # type: ignore[misc]
        await start(
            config,
            load_parts=self.parts,
            replica_id=lambda: REPLICA,
            leave=self.leave,
            new_watchdog=lambda: FakeWatchdog(self),
        )
        return engine


class FakeWatchdog:
    """In place of a `Watchdog`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        replica.is_watched = True

    def close(self) -> None:
        self._replica.is_watched = False


class FakeEngine:
    """In place of a `TokenEngine`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.watch = EngineWatch(replica.clock)
        self.num_unfinished_requests = 3

    async def check_graphs(self, shape: DecodeShape) -> None:
        self._replica.graphs = shape
        self._replica.did("graphs")

    async def warm_up(self, planned: list[rounds.Round]) -> None:
        self._replica.rounds = [one.name for one in planned]
        self._replica.did("warm-up")

    async def generate(self, request: GenerateRequest) -> int:
        self._replica.did(f"generate {request.request_id}")
        result = self._replica.generates
        if isinstance(result, BaseException):
            raise result
        if isinstance(result, asyncio.Event):
            try:
                await result.wait()
            except asyncio.CancelledError:
                self._replica.did("abort")
                raise
        return 7

    async def ping(self) -> None:
        await asyncio.Event().wait()

    async def generate_token(self) -> None:
        self._replica.did("canary")
        await asyncio.Event().wait()

    async def check_health(self) -> None:
        self._replica.did("health")
        if self._replica.dies_with:
            raise self._replica.dies_with

    def kill(self) -> None:
        self._replica.did("kill")

    def shutdown(self) -> None:
        self._replica.did("shutdown")


class FakeCache:
    """In place of a `CompileCache`."""

    state, key = "cold", "key-of-the-cache"

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def restore(self) -> None:
        self._replica.did("restore")

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        return {"SERVE_APP_TEST_CACHE": "folder"}

    def publish(self) -> None:
        self._replica.did("publish")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a start sets is as it was, after the test; the vocabulary is one that is there already."""
    monkeypatch.setenv("SERVE_APP_TEST_CACHE", "")
    monkeypatch.setenv(timeline.VARIABLE, "")
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(tmp_path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def config_of(model: Path, **engine: Any) -> AppConfig:
    return AppConfig.model_validate(
        {
            "model": {"source": f"file:{model}"},
            "engine": {"max_concurrent_requests": 2} | engine,
            "staging": {"folder": str(model.parent / "staging")},
        }
    )


def the_start(config: AppConfig) -> Start:
    start = starts.read(config.staging.path / "starts" / f"{REPLICA}.jsonl")
    assert start
    return start


READY = ["imports", "restore", "engine", "graphs", "warm-up", "freeze", "publish"]


async def test_a_start_in_order(model: Path) -> None:
    replica, config = Replica(), config_of(model)
    await replica.start(config)
    assert replica.done[:-1] == READY  # and then the replica of this test goes
    assert replica.done[-1] == "shutdown"
    assert replica.arguments["model"] == str(model)
    assert replica.graphs == DecodeShape(2, 0)
    assert replica.rounds == [one.name for one in rounds.plan(config)]
    assert os.environ["SERVE_APP_TEST_CACHE"] == "folder"


async def test_the_report_of_a_start_has_the_phases(model: Path) -> None:
    replica, config = Replica(), config_of(model)
    await replica.start(config)
    start = the_start(config)
    assert (start.status, start.within) == ("ready", "")
    expected = {timeline.STAGING, timeline.IMPORTS, timeline.CACHE_RESTORE, timeline.WARM_UP}
    assert expected <= set(start.phases_s)
    assert start.about["cache_key"] == FakeCache.key
    assert start.about["model"] == config.model.id


async def test_no_graphs_are_asked_for_where_there_are_none(model: Path) -> None:
    replica = Replica()
    await replica.start(config_of(model, fast_boot=True))
    assert replica.graphs is None
    assert [step for step in READY if step != "graphs"] == replica.done[:-1]


@pytest.mark.parametrize("part", ["imports", "restore", "engine", "graphs", "warm-up"])
async def test_a_part_that_fails_fails_the_start(model: Path, part: str) -> None:
    replica, config = Replica(fails_at=part), config_of(model)
    with pytest.raises((RuntimeError, GraphsMissingError)) as caught:
        await replica.start(config)
    error = str(caught.value)
    del caught
    gc.collect()
    start = the_start(config)
    assert start.status == "failed"
    assert error in start.about["error"]
    # Nothing after it is done but to end what was started.
    done = READY[: READY.index(part) + 1]
    assert replica.done == (done if part in READY[:3] else [*done, "shutdown"])


async def test_a_model_that_is_not_there_imports_no_vllm(tmp_path: Path) -> None:
    replica = Replica()
    with pytest.raises(Exception, match="nowhere"):
        await replica.start(config_of(tmp_path / "nowhere"))
    assert replica.done == []


async def test_weights_are_left_where_the_streamer_reads_them(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_app import sources

    asked: list[tuple[str, bool]] = []

    def resolve(source: Source, revision: Any, staging: Any, *, weights: bool = True) -> sources.Checkpoint:
        asked.append((str(source), weights))
        return sources.Checkpoint(str(model))

    monkeypatch.setattr(sources, "resolve", resolve)
    for load_format in ("auto", "runai_streamer"):
        config = config_of(model)
        config = AppConfig.model_validate(
            config.model_dump()
            | {
                "model": {"source": "s3://bucket/model"},
                "engine": config.engine.model_dump() | {"load_format": load_format},
                "speculator": {"source": "s3://bucket/speculator", "num_draft_tokens": 1},
            }
        )
        await Replica().start(config)
    assert asked == [
        ("s3://bucket/model", True),
        ("s3://bucket/speculator", True),
        ("s3://bucket/model", False),
        ("s3://bucket/speculator", True),
    ]


async def test_a_request_is_passed_on(model: Path) -> None:
    replica = Replica()
    engine = await replica.start(config_of(model))
    assert await engine.generate(REQUEST) == 7
    assert await engine.num_unfinished_requests() == 3
    assert replica.done[len(READY)] == "generate r-1"


async def test_a_dead_engine_takes_the_replica_along(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    replica = Replica(generates=DeadError())
    engine = await replica.start(config_of(model))
    with caplog.at_level(logging.CRITICAL), pytest.raises(Left):
        await engine.generate(REQUEST)
    assert "leave 1" in replica.done
    assert "this replica leaves" in caplog.text


async def test_a_dead_engine_takes_an_idle_replica_along(model: Path) -> None:
    """The next request would come to a replica that cannot serve it, and be taken for the cause."""
    replica = Replica()
    engine = await replica.start(config_of(model))
    replica.dies_with = DeadError()
    with pytest.raises(Left):
        await engine.check_health()
    assert replica.done[-1] == "leave 1"


async def test_other_failures_are_of_one_request(model: Path) -> None:
    replica = Replica(generates=ValueError("too long"))
    engine = await replica.start(config_of(model))
    with pytest.raises(ValueError, match="too long"):
        await engine.generate(REQUEST)
    assert "leave 1" not in replica.done


async def test_cancelling_a_call_reaches_the_engine(model: Path) -> None:
    replica = Replica(generates=asyncio.Event())
    engine = await replica.start(config_of(model))
    call = asyncio.create_task(engine.generate(REQUEST))
    while "generate r-1" not in replica.done:  # noqa: ASYNC110
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert "abort" in replica.done
    assert "leave 1" not in replica.done


async def test_health_is_the_engines(model: Path) -> None:
    replica = Replica()
    engine = await replica.start(config_of(model))
    await engine.check_health()
    replica.fails_at = "health"
    with pytest.raises(RuntimeError, match="health failed"):
        await engine.check_health()
    assert "kill" not in replica.done


async def test_an_engine_that_hangs_is_killed_and_the_replica_leaves(model: Path) -> None:
    replica = Replica()
    engine = await replica.start(config_of(model, stall_timeout_s=5))
    engine._engine.watch.begin()
    replica.clock.now += 5
    with pytest.raises(Left):
        await engine.check_health()
    assert replica.done[len(READY) : len(READY) + 2] == ["kill", "leave 1"]
    assert "health" not in replica.done


async def test_an_idle_engine_that_hangs_is_found_by_its_canary(model: Path) -> None:
    replica = Replica()
    engine = await replica.start(config_of(model, stall_timeout_s=5))

    async def check(seconds: float) -> None:
        for _ in range(round(seconds / MAX_GAP_S)):
            replica.clock.now += MAX_GAP_S
            await engine.check_health()
            await asyncio.sleep(0)

    await check(CANARY_AFTER_S)
    assert replica.done[-2:] == ["health", "canary"]  # which the check did not wait for
    with pytest.raises(Left):
        await check(5)
    assert replica.done[-2:] == ["kill", "leave 1"]


async def test_a_replica_that_has_drained_ends_its_engine(model: Path) -> None:
    replica = Replica()
    engine = await replica.start(config_of(model))
    assert "shutdown" not in replica.done
    assert replica.is_watched
    del engine
    gc.collect()
    assert replica.done[-1] == "shutdown"
    assert not replica.is_watched


def test_a_replica_whose_constructor_has_not_run_has_nothing_to_end() -> None:
    Engine.__new__(Engine).__del__()


def test_another_process_gets_it_by_value() -> None:
    """As Serve sends it: with the globals that it uses."""
    from ray import cloudpickle

    import serve_app.engine

    pickler = cast("Any", cloudpickle)
    pickler.register_pickle_by_value(serve_app.engine)
    try:
        content = pickler.dumps(Engine)
    finally:
        pickler.unregister_pickle_by_value(serve_app.engine)
    program = (
        "import pickle, sys; restored = pickle.load(sys.stdin.buffer); "
        "defaults = restored.__init__.__kwdefaults__; "
        "print(restored.__name__, defaults['leave'].__name__, defaults['load_parts'].__name__, "
        "'serve_app.engine' in sys.modules, 'vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True)
    assert done.stdout.split() == [b"Engine", b"_exit", b"vllm_parts", b"False", b"False"]
