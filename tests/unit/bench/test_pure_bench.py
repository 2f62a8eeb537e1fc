"""The load generator needs neither ray, vllm nor torch: it runs on machines that have none of them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import importlib, pathlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "vllm", "torch"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
for path in pathlib.Path("serve_app/bench").glob("*.py"):
    importlib.import_module(f"serve_app.bench.{path.stem}")
"""


def test_imports_without_ray_vllm_and_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
