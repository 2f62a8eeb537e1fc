"""Clients in JavaScript: each script of tests/app/node runs once, and each of its checks is a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node import Script, run_script
from tests.services import MODEL, Service

pytestmark = pytest.mark.app

TIMEOUT_S = 1200
AI_CHECKS = (
    "text",
    "stream",
    "object",
    "object_stream",
    "tools",
    "tools_stream",
    "forced_tool",
    "second_turn",
    "cut",
    "error",
)
AGENTS_CHECKS = (
    "answer",
    "tool",
    "stream",
    "structured",
    "structured_stream",
    "turns",
    "handoff",
)
CHECKS: dict[str, tuple[str, ...]] = {
    "openai": (
        "models",
        "chat",
        "chat_stream",
        "chat_stream_helper",
        "chat_run_tools",
        "chat_run_tools_streaming",
        "chat_parse",
        "chat_parse_stream",
        "chat_parse_tool",
        "chat_forced_tool",
        "chat_n_and_logprobs",
        "responses",
        "responses_events",
        "responses_stream_helper",
        "responses_stream_with_call",
        "responses_parse",
        "responses_parse_stream",
        "responses_parse_tool",
        "responses_call_and_result",
        "responses_encrypted_reasoning",
        "responses_incomplete",
        "responses_input_tokens",
        "errors",
        "abort",
    ),
    "anthropic": (
        "create",
        "stream",
        "events",
        "thinking",
        "tool_and_result",
        "forced_tool",
        "forced_tool_stream",
        "tool_runner",
        "stop_sequence",
        "count_tokens",
        "errors",
        "models",
    ),
    "agents": tuple(f"{api}_{name}" for api in ("responses", "chat") for name in AGENTS_CHECKS),
    "ai": (
        *(f"{api}_{name}" for api in ("responses", "chat", "compatible", "anthropic") for name in AI_CHECKS),
        "compatible_reasoning",
        "anthropic_reasoning",
        "responses_sealed_reasoning",
    ),
}


@pytest.fixture(scope="module")
def run(
    service: Service, node_modules: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Script]:
    """A client's script, run when its first check is asked for."""
    done: dict[str, Script] = {}

    def run_once(client: str) -> Script:
        if client not in done:
            folder = tmp_path_factory.mktemp("node") / client
            done[client] = run_script(client, node_modules, folder, service.url, MODEL, TIMEOUT_S)
        return done[client]

    return run_once


@pytest.mark.parametrize(
    ("client", "name"), [(client, name) for client, names in CHECKS.items() for name in names]
)
def test_check(run: Callable[[str], Script], client: str, name: str) -> None:
    script = run(client)
    assert name in script.checks, script.log
    check = script.checks[name]
    assert check.ok, check.error


@pytest.mark.parametrize("client", CHECKS)
def test_every_check_of_a_script_is_listed(run: Callable[[str], Script], client: str) -> None:
    assert set(run(client).checks) == set(CHECKS[client])
