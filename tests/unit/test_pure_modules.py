"""The pure centre imports neither ray, vllm nor torch: each is imported where all three are blocked."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What is about Ray or vLLM. Everything else in these packages is pure, and stays so.
IMPURE_MODULES = {"app", "gate", "ingress", "routing", "stop", "vllm_adapter", "vllm_plugin"}
# `bench` runs on machines that have none of the three.
PURE_PACKAGES = ("admission", "bench")
PURE_MODULES = [
    *sorted({path.stem for path in (ROOT / "serve_app").glob("*.py")} - IMPURE_MODULES),
    *(
        f"{package}.{path.stem}"
        for package in PURE_PACKAGES
        for path in sorted((ROOT / "serve_app" / package).glob("*.py"))
    ),
]
PROGRAM = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "vllm", "torch"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
importlib.import_module(sys.argv[1])
"""


def run(module: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, module], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", PURE_MODULES)
def test_imports_without_ray_vllm_and_torch(name: str) -> None:
    done = run(f"serve_app.{name}")
    assert done.returncode == 0, done.stderr


def test_the_packages_are_there() -> None:
    assert {"admission.policy", "admission.http", "bench.runner"} <= set(PURE_MODULES)


def test_the_block_works() -> None:
    done = run("ray")
    assert done.returncode != 0
    assert "ray is imported" in done.stderr
