"""The layout that docs/architecture.md describes: layers, what is pure, and what can be deleted.

A room is a module of `serve_app` or one of its packages. `import` counts wherever it stands, inside functions
too, unless it is there for type checkers only.
"""

import graphlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.imports import Imports

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "serve_app"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
LIBRARIES = ("ray", "vllm", "torch")
# Rooms that use Ray, vLLM or torch, and which. All others are pure: new ones too.
IMPURE = {
    "app": {"ray"},
    "cluster_starts": {"ray"},
    "engine": {"ray"},
    "engine_calls": {"ray"},
    "gate": {"ray"},
    "ingress": {"ray"},
    "routing": {"ray"},
    "sealing_key": {"ray"},
    "serve_file": {"ray"},
    "stop": {"ray"},
    "demo": {"torch", "vllm"},
    "vllm_adapter": {"torch", "vllm"},
    "vllm_worker": {"torch", "vllm"},
}
# Rooms that must come up where none of the three is installed: what the commands on a laptop are made of.
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


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name inside the package; a package has the name of its `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


def room_of(module: str) -> str:
    return module.split(".")[0]


@cache
def imports_of(module: str) -> Imports:
    found = Imports.of(modules()[module])
    assert not found.num_relative, "imports are absolute"
    return found


def own(names: set[str]) -> Iterator[str]:
    """The modules of this package among names that are imported."""
    for name in names:
        if name.startswith("serve_app."):
            path = name.removeprefix("serve_app.")
            yield path if path in modules() else path.rpartition(".")[0]


def layers() -> list[set[str]]:
    """The rooms of each layer, from the top, as the page has them."""
    _, _, rest = ARCHITECTURE.partition("<!-- layers -->")
    rows = [line for line in rest.partition("<!-- /layers -->")[0].splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in rows]


def test_every_room_has_one_layer() -> None:
    named = [room for layer in layers() for room in layer]
    assert sorted(named) == sorted({room_of(module) for module in modules()})


def test_imports_run_downward() -> None:
    heights = {room: -number for number, layer in enumerate(layers()) for room in layer}
    wrong = {
        f"{module} imports {other}"
        for module in modules()
        # For type checkers too: who names a type knows the one who has it.
        for other in own(imports_of(module).run | imports_of(module).checked)
        if room_of(module) != room_of(other) and heights[room_of(module)] <= heights[room_of(other)]
    }
    assert not wrong


def test_modules_import_in_no_circle() -> None:
    graph = {module: set(own(imports_of(module).run)) - {module} for module in modules()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_a_circle_would_be_found() -> None:
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def used_libraries(room: str) -> set[str]:
    return {
        name.split(".")[0]
        for module in modules()
        if room_of(module) == room
        for name in imports_of(module).run
        if name.split(".")[0] in LIBRARIES
    }


@pytest.mark.parametrize("room", sorted({room_of(module) for module in modules()}))
def test_only_the_rooms_named_use_ray_vllm_or_torch(room: str) -> None:
    assert used_libraries(room) == IMPURE.get(room, set())


def run(*names: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *names]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def imported() -> subprocess.CompletedProcess[str]:
    return run(*(f"serve_app.{module}" for module in modules() if room_of(module) not in IMPURE))


def test_pure_rooms_come_up_without_ray_vllm_and_torch(imported: subprocess.CompletedProcess[str]) -> None:
    """What they import imports none of the three either; a text of the source cannot show that."""
    # The last module that was begun is the one.
    assert imported.returncode == 0, f"{imported.stdout.split()[-1:]}: {imported.stderr}"
    assert len(imported.stdout.split()) > 150


def test_the_block_works() -> None:
    done = run("ray")
    assert done.returncode != 0
    assert "ray is imported" in done.stderr


@pytest.mark.slow
def test_production_needs_nothing_of_the_demo(tmp_path: Path) -> None:
    """A copy without `demo/` imports all else, and has a vocabulary to render harmony with."""
    shutil.copytree(PACKAGE, tmp_path / "serve_app", ignore=shutil.ignore_patterns("demo", "__pycache__"))
    names = [f"serve_app.{module}" for module in modules() if room_of(module) != "demo"]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert not any(name.startswith('serve_app.demo') for name in sys.modules)\n"
        "from serve_app.harmony import vocabulary_file\n"
        "print(len(vocabulary_file.packaged()), vocabulary_file.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    size, file = done.stdout.split()[-2:]
    assert int(size) > 3_000_000
    assert Path(file).is_relative_to(tmp_path)


def test_where_to_look_names_files_and_what_they_define() -> None:
    section = ARCHITECTURE.partition("## Where to look")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    for row in rows:
        # A file, and the names behind it up to the next file.
        for file, rest in re.findall(r"`([\w/]+\.py)`((?:(?!\.py`).)*)", row):
            text = (PACKAGE / file).read_text()
            for name in re.findall(r"`([A-Za-z_]+)`", rest):
                assert re.search(rf"^(async )?(def|class) {name}\b|^ *{name}(:.*)? = ", text, re.MULTILINE), (
                    file,
                    name,
                )
