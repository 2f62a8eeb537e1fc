"""The pure centre imports neither ray, vllm nor torch: each is imported where all three are blocked."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What is about Ray or vLLM. Everything else in these packages is pure, and stays so.
IMPURE_MODULES = {"app", "gate", "ingress", "routing", "stop", "vllm_adapter", "vllm_plugin"}
# `bench` runs on machines that have none of the three.
PURE_PACKAGES = ("admission", "answers", "api", "bench", "harmony")
PURE_MODULES = {
    "serve_app": sorted({path.stem for path in (ROOT / "serve_app").glob("*.py")} - IMPURE_MODULES),
} | {
    f"serve_app.{package}": sorted(
        ".".join(path.relative_to(ROOT / "serve_app" / package).with_suffix("").parts)
        for path in (ROOT / "serve_app" / package).rglob("*.py")
    )
    for package in PURE_PACKAGES
}
PROGRAM = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "vllm", "torch"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
for module in sys.argv[1:]:
    print(module, flush=True)
    importlib.import_module(module)
"""


def run(*modules: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *modules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", PURE_MODULES)
def test_imports_without_ray_vllm_and_torch(package: str) -> None:
    done = run(*(f"{package}.{module}".removesuffix(".__init__") for module in PURE_MODULES[package]))
    # The last module that was begun is the one.
    assert done.returncode == 0, f"{done.stdout.split()[-1:]}: {done.stderr}"


def test_the_packages_are_there() -> None:
    assert {"policy", "http"} <= set(PURE_MODULES["serve_app.admission"])
    assert "answer" in PURE_MODULES["serve_app.answers"]
    assert "routes" in PURE_MODULES["serve_app.api"]
    assert "reader" in PURE_MODULES["serve_app.harmony"]


def test_the_block_works() -> None:
    done = run("ray")
    assert done.returncode != 0
    assert "ray is imported" in done.stderr


def test_layers_import_downwards() -> None:
    """harmony knows nothing of answers, answers nothing of the API, and neither of HTTP or admission."""
    above = {"harmony": ("answers", "api", "admission"), "answers": ("api", "admission")}
    for package, forbidden in above.items():
        for path in (ROOT / "serve_app" / package).rglob("*.py"):
            text = path.read_text()
            for other in forbidden:
                assert f"serve_app.{other}" not in text, f"{path.name} imports {other}"
