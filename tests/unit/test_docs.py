"""The documents say what the code does: paths, commands, the config reference, the list of modules.

`python tests/unit/test_docs.py` writes the generated parts of docs/configuration.md anew.
"""

import ast
import importlib
import importlib.util
import json
import re
import runpy
import shlex
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from xml.etree import ElementTree

import msgspec
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serve_app import errors
from serve_app.api import openapi
from serve_app.api.chat.response import ChatAnswer
from serve_app.api.efforts import EFFORTS
from serve_app.client import __main__ as client
from serve_app.config import AppConfig, read_config
from serve_app.config.source import Source
from serve_app.plan.contents import H100_MEMORY_GIB, make_plan
from serve_app.plan.memory import GIB_BYTES
from serve_app.plan.text import render

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
API = ROOT / "docs" / "api.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 150
SVG = "{http://www.w3.org/2000/svg}"

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w./-])(?:configs|docs|requirements|scripts|serve_app|tests)/[\w./-]*\w")
MODULE = re.compile(r"-m (serve_app[\w.]*)")
SETTING = re.compile(r"(?<!\w)SERVE_\w+")
PLAN_CONFIG = "configs/prod.yaml"
PLAN_SECTIONS = (PLAN_CONFIG, "CUDA-graph sizes", "Memory of")


# --- generated parts -----------------------------------------------------------------------------------


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the config with its dotted path, sections before what is in them."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        if below := section_of(field):
            yield from fields(below, f"{prefix}{name}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its defaults"
    # What a validator derives from another key; the description says how.
    return "derived" if value in ("", ()) or isinstance(value, Source) else f"`{json.dumps(value)}`"


def allowed(field: FieldInfo) -> str:
    limits = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = [
        f"{words} {getattr(item, name):,}"
        for item in field.metadata
        for name, words in limits.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join([" or ".join(kinds(field.annotation)), *bounds])


def kinds(annotation: Any) -> list[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return [name for argument in arguments for name in kinds(argument)]
    if origin is Annotated:
        return kinds(arguments[0])
    if origin is Literal:
        return [f"`{value}`" for value in arguments]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ["section"]
    names: dict[Any, str] = {
        str: "text",
        Source: "text",
        int: "whole number",
        float: "number",
        bool: "`true` or `false`",
        types.NoneType: "`null`",
        dict: "map",
        list: "list of text",
        tuple: "list of text",
    }
    return [names[origin or annotation]]


def reference() -> str:
    """The config reference as a Markdown table."""
    lines = ["| key | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    for path, field in fields(AppConfig):
        assert field.description, f"{path} has no description"
        description = field.description.replace("|", r"\|")
        lines.append(f"| `{path}` | {default(field)} | {allowed(field)} | {description} |")
    return "\n".join(lines)


def plan() -> str:
    """The plan of the production config, without the longer sections."""
    config = read_config(ROOT / PLAN_CONFIG)
    made = {"file": PLAN_CONFIG} | make_plan(config, int(H100_MEMORY_GIB * GIB_BYTES), 0)
    shown: list[str] = []
    for section in render(made).split("\n\n"):
        if section.startswith(PLAN_SECTIONS):
            shown.append(section)
        elif shown[-1] != "...":
            shown.append("...")
    body = "\n\n".join(shown)
    return f"```text\n$ .venv/bin/python -m serve_app.plan {PLAN_CONFIG}\n{body}\n```"


def written_anew(text: str) -> str:
    """docs/configuration.md with its generated parts replaced."""
    for name, content in (("reference", reference()), ("plan", plan())):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        assert after, f"docs/configuration.md has no part between {begin} and {end}"
        text = f"{before}{begin}\n\n{content}\n\n{end}{after}"
    return text


def test_config_reference_and_plan_are_those_of_the_code() -> None:
    text = CONFIGURATION.read_text()
    assert text == written_anew(text), "run: python tests/unit/test_docs.py"


def test_reference_holds_every_key_of_every_config() -> None:
    """The walk above misses no section: a config file cannot use a key that the reference does not have."""
    named = {path for path, _ in fields(AppConfig)}
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        assert named_in(read_config(file).model_dump()) <= named, file


def named_in(values: dict[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, value in values.items():
        names.add(prefix + name)
        if isinstance(value, dict) and name not in ("environment", "engine_overrides"):
            names |= named_in(value, f"{prefix}{name}.")
    return names


# --- paths and commands --------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return [
        body
        for document in DOCUMENTS
        for kind, body in BLOCK.findall(document.read_text())
        if kind == language
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not leads_somewhere(document, link)]
    missing += [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    assert not missing
    assert links


def leads_somewhere(document: Path, link: str) -> bool:
    file, _, heading = link.partition("#")
    target = document.parent / file if file else document
    return target.exists() and (not heading or heading in anchors(target))


def anchors(document: Path) -> list[str]:
    """What GitHub makes of the headings: lower case, words joined with hyphens, nothing else."""
    headings = HEADING.findall(BLOCK.sub("", document.read_text()))
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= README_LINES
    linked = {link.partition("#")[0] for link in LINK.findall(text)}
    pages = {str(document.relative_to(ROOT)) for document in DOCUMENTS} - {"README.md"}
    assert pages <= linked


def test_no_row_of_a_table_stands_twice() -> None:
    """A figure, port or key that two pages have is wrong on one of them after the next change."""
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        lines = document.read_text().splitlines()
        for before, line in pairwise(lines):
            if line.startswith("| ") and before.startswith("| ") and not line.startswith("| ---"):
                assert line not in found, f"{line} is in {found[line]} and {document.name}"
                found[line] = document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_place_waits_for_a_figure(document: Path) -> None:
    assert "TODO" not in document.read_text()


def test_pictures_are_text_that_parses() -> None:
    for picture in (ROOT / "docs").glob("*.svg"):
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("picture", "module"),
    [
        ("serving_cpu", "benchmarks.serving.picture"),
        ("serving_gpu", "benchmarks.serving.gpu_picture"),
        ("bare_node", "benchmarks.bare_node_picture"),
    ],
)
def test_pictures_are_drawn_from_the_results(picture: str, module: str) -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / f"{picture}.json").read_text())
    drawn = importlib.import_module(module).draw(results)
    assert (ROOT / "docs" / f"{picture}.svg").read_text() == drawn, f"draw it anew with {module}"


def test_the_picture_of_the_architecture_is_what_its_script_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))["draw"]()
    assert ARCHITECTURE.with_suffix(".svg").read_text() == drawn


# Ray warns when it is imported.
@pytest.mark.filterwarnings("ignore")
def test_the_picture_has_the_deployments_that_are_built() -> None:
    from ray.serve import Application

    from serve_app.app import build

    bound = build(read_config(ROOT / PLAN_CONFIG))._bound_deployment
    # Each deployment is given the handles of those that it calls.
    names: set[str] = set()
    found = [bound]
    while found:
        deployment = found.pop()
        names.add(deployment.name)
        found += [one._bound_deployment for one in deployment.init_args if isinstance(one, Application)]
    picture = ElementTree.parse(ARCHITECTURE.with_suffix(".svg"))
    boxes = {box.get("data-deployment"): box for box in picture.iter(f"{SVG}g")}
    boxes.pop(None, None)
    assert set(boxes) == names == {"Ingress", "Gate", "Engine"}
    for name, box in boxes.items():
        assert name in [text.text for text in box.iter(f"{SVG}text")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_quoted_modules_can_be_run(document: Path) -> None:
    for module in MODULE.findall(document.read_text()):
        found = importlib.util.find_spec(module)
        assert found, module
        if found.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{module}.__main__"), module


def test_quoted_scripts_can_be_run() -> None:
    for line in "".join(blocks("bash")).splitlines():
        if line.startswith("scripts/"):
            assert (ROOT / line.split()[0]).stat().st_mode & 0o111, line


def test_quoted_client_commands_are_accepted() -> None:
    commands = [line for line in "".join(blocks("bash")).splitlines() if "-m serve_app.client" in line]
    assert commands
    for command in commands:
        arguments = shlex.split(command.partition("-m serve_app.client")[2].partition(" < ")[0])
        client.parser().parse_args(arguments)


def test_quoted_programs_and_bodies_parse() -> None:
    for program in blocks("python"):
        ast.parse(program)
    for part in blocks("yaml"):
        yaml.safe_load(part)
    bodies = re.findall(r"-d '(.*?)'", "".join(blocks("bash")), re.DOTALL)
    assert bodies
    for body in bodies:
        json.loads(body)


def test_named_models_are_those_of_the_configs() -> None:
    """Quoted requests ask for the demo model, and the README says what it is called on a GPU."""
    text = README.read_text()
    demo, prod = (read_config(ROOT / "configs" / f"{name}.yaml").model for name in ("local", "prod"))
    assert set(re.findall(r'\bmodel"?[=:] ?"([^"]+)"', text)) == set(demo.served_names)
    assert prod.served_names[0] in text


def test_settings_of_the_scripts_are_theirs() -> None:
    known = set(SETTING.findall((ROOT / "scripts" / "environment").read_text()))
    for document in DOCUMENTS:
        assert set(SETTING.findall(document.read_text())) <= known, document.name


# --- the API -------------------------------------------------------------------------------------------


def table(document: Path, heading: str) -> list[list[str]]:
    """The cells of a table, by the first words of its head."""
    _, _, rest = document.read_text().partition(f"| {heading} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    assert lines, heading
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def test_endpoints_are_those_of_the_code() -> None:
    """All of the OpenAPI document but those that are there to say that nothing is stored."""
    named = {found for row in table(README, "endpoint") for found in re.findall(r"`([A-Z]+ \S+)`", row[0])}
    described = {f"{one.method.upper()} {one.path}" for one in openapi.OPERATIONS if one.answer is not None}
    assert named == described | {"GET /docs", "GET /openapi.json"}


def test_statuses_are_those_of_the_errors() -> None:
    """Beside these, HTTP's own for a path without a method."""
    raised = {int(error.status) for error in subclasses(errors.ServiceError)}
    assert {int(row[0]) for row in table(API, "status")} == raised | {405, 500}


def subclasses(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def test_efforts_are_those_of_the_code() -> None:
    [text] = re.findall(r"\*\*Reasoning effort\*\* (.*?)\n\n", API.read_text(), re.DOTALL)
    assert set(re.findall(r"`([a-z]+)`", text)) == set(EFFORTS)


def test_the_quoted_answer_is_one() -> None:
    [quoted] = re.findall(r"<!-- answer.json -->\n\n```json\n(.*?)```", README.read_text(), re.DOTALL)
    answer = msgspec.json.decode(quoted, type=ChatAnswer)
    assert msgspec.json.decode(msgspec.json.encode(answer)) == json.loads(quoted)


# --- modules -------------------------------------------------------------------------------------------


def test_architecture_has_one_line_for_each_module() -> None:
    named = re.findall(r"^\| `([\w/]+\.py)` \| \S", ARCHITECTURE.read_text(), re.MULTILINE)
    package = ROOT / "serve_app"
    modules = [str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(named) == sorted(modules)


if __name__ == "__main__":
    CONFIGURATION.write_text(written_anew(CONFIGURATION.read_text()))
