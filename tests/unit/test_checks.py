"""What runs before a commit and on GitHub is what a person runs."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")


def document(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return found


def steps() -> list[dict[str, Any]]:
    return [step for job in document(".github/workflows/ci.yml")["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_the_scripts_of_ci_run() -> None:
    commands = [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("scripts/")
    ]
    assert [step["run"] for step in steps() if "run" in step] == commands


def test_the_workflow_has_the_oldest_python_that_is_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {step["with"]["python-version"] for step in steps() if "with" in step}
    assert {f">={version}" for version in versions} == {project["requires-python"]}


def test_actions_are_pinned_to_a_commit() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used
    assert all(PINNED.fullmatch(action) for action in used)


def test_hooks_run_what_the_check_runs() -> None:
    [repository] = document(".pre-commit-config.yaml")["repos"]
    commands = {
        " ".join(hook["entry"].split()[:2]).removesuffix(" --force-exclude") for hook in repository["hooks"]
    }
    check = (ROOT / "scripts" / "check").read_text()
    assert commands == {"ruff format", "ruff check", "codespell", "shellcheck -x"}
    assert all(re.search(rf"^ *{command}\b", check, re.MULTILINE) for command in commands)
