"""Which differences between two starts mean that compiled code of one is nothing for the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppConfig, EngineConfig
from serve_app.engine_arguments import engine_arguments
from serve_app.staging.cache_key import IRRELEVANT_ARGUMENTS, cpu_flags, factors_of, key_of

COMPILER = {"vllm": "0.32.0", "torch": "2.13.0", "cuda": "13.0", "device": "NVIDIA H100", "driver": "580"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"hidden_size": 2880}')
    return tmp_path / "model"


def key(
    checkpoint: Path, arguments: dict[str, Any] | None = None, compiler: Any = COMPILER, folder: str = "/c"
) -> str:
    base = {"model": str(checkpoint), "max_num_seqs": 64, "speculative_config": {"model": str(checkpoint)}}
    return key_of(factors_of(base | (arguments or {}), compiler, Path(folder)))


def test_the_same_for_the_same(checkpoint: Path) -> None:
    assert key(checkpoint) == key(checkpoint)
    assert key_of({"a": {"b": 1, "c": 2}, "d": 3}) == key_of({"d": 3, "a": {"c": 2, "b": 1}})
    assert len(key(checkpoint)) == 64


@pytest.mark.parametrize("name", [*COMPILER, "unknown"])
def test_versions_and_device_matter(checkpoint: Path, name: str) -> None:
    assert key(checkpoint, compiler=COMPILER | {name: "another"}) != key(checkpoint)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_num_seqs": 65},
        {"kv_cache_dtype": "fp8"},
        {"compilation_config": {"cudagraph_capture_sizes": [1, 2]}},
        {"an_argument_of_a_later_release": 1},
        {"speculative_config": None},
    ],
)
def test_arguments_matter(checkpoint: Path, arguments: dict[str, Any]) -> None:
    assert key(checkpoint, arguments) != key(checkpoint)


@pytest.mark.parametrize("name", IRRELEVANT_ARGUMENTS)
def test_irrelevant_arguments_do_not(checkpoint: Path, name: str) -> None:
    assert key(checkpoint, {name: "another"}) == key(checkpoint)


@pytest.mark.filterwarnings("ignore")
def test_irrelevant_arguments_are_arguments() -> None:
    """A misspelt name would leave nothing out."""
    from serve_app.vllm_adapter import argument_names

    assert set(IRRELEVANT_ARGUMENTS) <= argument_names()


@pytest.mark.filterwarnings("ignore")
def test_compiler_of_this_machine(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.vllm_adapter import compiler_factors

    here = compiler_factors()
    assert here["vllm"].startswith("0.32")
    assert {"torch", "cuda", "device", "capability", "packages", "switches"} <= set(here)
    assert json.loads(json.dumps(here)) == here
    # Where caches lie, and what a process is told besides, make no difference to vLLM either.
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/elsewhere")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    assert key(checkpoint, compiler=compiler_factors()) == key(checkpoint, compiler=here)
    monkeypatch.setenv("VLLM_USE_AOT_COMPILE", "0")
    assert compiler_factors()["switches"] != here["switches"]


def test_the_folder_matters(checkpoint: Path) -> None:
    assert key(checkpoint, folder="/d") != key(checkpoint)


def test_what_the_checkpoint_holds_matters(checkpoint: Path) -> None:
    before = key(checkpoint)
    (checkpoint / "config.json").write_text('{"hidden_size": 2881}')
    assert key(checkpoint) != before


def test_a_name_of_the_hub_has_no_folder(tmp_path: Path) -> None:
    assert key(Path("openai/gpt-oss-20b")) != key(Path("openai/gpt-oss-120b"))


def test_arguments_of_a_config(checkpoint: Path) -> None:
    """Whatever a config derives can be part of a key, and names and memory make no difference."""

    def of(engine: dict[str, Any], model: dict[str, Any]) -> str:
        config = AppConfig(
            model={"id": "a", "source": "file:/x", **model},  # type: ignore[arg-type]
            engine=EngineConfig(**{"max_concurrent_requests": 4} | engine),
        )
        return key(checkpoint, engine_arguments(config, str(checkpoint), None))

    plain = of({}, {})
    assert of({"gpu_memory_utilization": 0.5}, {"served_names": ("b", "c")}) == plain
    assert of({"max_model_len": 512}, {}) != plain
    assert of({"fast_boot": True}, {}) != plain


def test_instruction_sets(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu sse2 ibpb avx512f md_clear fma\nbugs :\nflags : none\n")
    assert cpu_flags(info) == "avx512f fma sse2"
    assert cpu_flags(tmp_path / "nothing") == ""
    assert cpu_flags()
