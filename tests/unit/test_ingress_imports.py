"""What an ingress imports before it answers: it takes most of its start."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from serve_app.ingress import VLLM_MODULES, paused_gc
from tests.services import ROOT

# What `Ingress` imports of the adapter; then the adapter's modules that are there, and the engine's if it is.
IMPORTS = """
import ast, inspect, sys
from serve_app import ingress
names = [
    name.name
    for node in ast.walk(ast.parse(inspect.getsource(ingress)))
    if isinstance(node, ast.ImportFrom) and node.module == "serve_app.vllm_adapter"
    for name in node.names
]
assert "RemoteEngine" in names
for name in names:
    getattr(__import__("serve_app.vllm_adapter", fromlist=[name]), name)
halves = "serve_app.vllm_adapter.", "vllm.v1.engine.async_llm"
print(*(name for name in sys.modules if name.startswith(halves)))
"""


@pytest.mark.slow
def test_the_engines_half_of_the_adapter_is_not_imported_and_the_other_is_checked() -> None:
    python = [sys.executable, "-W", "ignore", "-c", IMPORTS]
    said = subprocess.run(python, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert set(said.splitlines()[-1].split()) == set(VLLM_MODULES)


def test_garbage_is_collected_again_after_a_start_however_it_ends() -> None:
    def start() -> None:
        with paused_gc():
            assert not gc.isenabled()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        start()
    assert gc.isenabled()
