"""Codex as it comes: one turn against the service, with nothing configured but where the service is."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

TURN_TIMEOUT_S = 900
CONFIG = """\
model = "{model}"
model_provider = "service"

[model_providers.service]
name = "service"
base_url = "{url}/v1"
env_key = "SERVICE_KEY"
wire_api = "responses"
"""
# What the second test forces: it takes no arguments and changes nothing, so that it does not matter what the
# demo model would write.
HARMLESS_TOOL = "get_goal"


def turn(modules: Path, folder: Path, url: str, prompt: str) -> list[dict[str, Any]]:
    """The events of one turn; fails where Codex does."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.format(model=MODEL, url=url))
    command = [str(modules / ".bin" / "codex"), "exec", "--json"]
    command += ["--skip-git-repo-check", "--sandbox", "read-only", prompt]
    nowhere = "http://127.0.0.1:9"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CODEX_HOME": str(home),
        "SERVICE_KEY": "none",
        # It has no business with anyone else.
        "HTTPS_PROXY": nowhere,
        "HTTP_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        command,
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TURN_TIMEOUT_S,
        check=False,
    )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (events, done.stderr)
    return events


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_turn(service: Service, node_modules: Path, tmp_path: Path) -> None:
    events = turn(node_modules, tmp_path, service.url, "What is 2 + 3?")
    assert events[-1]["type"] == "turn.completed", events
    assert not {"error", "turn.failed"} & set(types(events)), events
    usage = events[-1]["usage"]
    # Its instructions and tools: what a context of 4,096 tokens has no room for.
    assert usage["input_tokens"] > 4096
    assert usage["output_tokens"] > 0


class Forcing(BaseHTTPRequestHandler):
    """Passes everything on, and forces a tool in the first request: the demo model would invent one here."""

    upstream: ClassVar[str]
    bodies: ClassVar[list[dict[str, Any]]]
    protocol_version = "HTTP/1.0"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        if len(self.bodies) == 1:
            body = body | {"tool_choice": {"type": "function", "name": HARMLESS_TOOL}}
        with httpx.stream("POST", self.upstream + self.path, json=body, timeout=TURN_TIMEOUT_S) as answer:
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.end_headers()
            for chunk in answer.iter_bytes():
                self.wfile.write(chunk)
                self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing to stderr."""


@pytest.fixture
def forcing(service: Service) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server between Codex and the service, and the bodies that it has seen."""
    bodies: list[dict[str, Any]] = []
    handler = type("Handler", (Forcing,), {"upstream": service.url, "bodies": bodies})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", bodies
        finally:
            server.shutdown()
            thread.join()


def test_turn_with_a_call(
    forcing: tuple[str, list[dict[str, Any]]], node_modules: Path, tmp_path: Path
) -> None:
    url, bodies = forcing
    events = turn(node_modules, tmp_path, url, "Call get_goal.")
    assert events[-1]["type"] == "turn.completed", events
    assert not {"error", "turn.failed"} & set(types(events)), events
    assert len(bodies) >= 2
    added = bodies[1]["input"][len(bodies[0]["input"]) :]
    by_type = {item["type"]: item for item in added}
    call, result = by_type["function_call"], by_type["function_call_output"]
    assert call["name"] == HARMLESS_TOOL
    assert result["call_id"] == call["call_id"]
    assert "unsupported call" not in str(result["output"])
    # Codex stores nothing at the service: what the model thought comes back sealed.
    for item in added:
        if item["type"] == "reasoning":
            assert item["encrypted_content"]
