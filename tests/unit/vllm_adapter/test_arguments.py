"""Which engine arguments vLLM takes, and which sections it wants as objects."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import pytest

from serve_app.config import AppConfig
from serve_app.engine_arguments import engine_arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's


@pytest.fixture
def arguments() -> ModuleType:
    from serve_app.vllm_adapter import arguments

    return arguments


def test_the_defaults_are_all_taken(arguments: ModuleType) -> None:
    """The check refuses nothing that vLLM itself sets, and there is an opinion about most of it."""
    from vllm import AsyncEngineArgs

    plain = {
        field.name: field.default
        for field in dataclasses.fields(AsyncEngineArgs)
        if field.default is None or isinstance(field.default, str | int | float | bool)
    }
    assert len(plain) > 100
    # A default of None in place of a number is vLLM's own way of leaving it to later.
    assert [line for line in arguments.argument_problems(plain) if ": None: " not in line] == []


def test_what_the_service_derives_is_taken(arguments: ModuleType) -> None:
    config = AppConfig.model_validate(
        {"engine": {"max_concurrent_requests": 4}, "speculator": {"source": "hf:a/b"}}
    )
    assert arguments.argument_problems(engine_arguments(config, "/model", "/speculator")) == []


@pytest.mark.parametrize(
    ("name", "section", "kind"),
    [
        ("structured_outputs_config", {"backend": "xgrammar"}, "StructuredOutputsConfig"),
        ("compilation_config", {"mode": 3}, "CompilationConfig"),
        ("kv_transfer_config", {"kv_connector": "X", "kv_role": "kv_both"}, "KVTransferConfig"),
        ("speculative_config", {"method": "eagle3"}, "dict"),
        ("hf_overrides", {"a": 1}, "dict"),
    ],
)
def test_sections_become_what_vllm_wants(
    arguments: ModuleType, name: str, section: dict[str, Any], kind: str
) -> None:
    converted = arguments.with_sections({name: section, "seed": 0})
    assert type(converted[name]).__name__ == kind
    assert converted["seed"] == 0
