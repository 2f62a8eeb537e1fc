"""The check: what it finds in a library of a test, and in vLLM and Ray with a name removed."""

from __future__ import annotations

import importlib
import logging
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serve_app.private_names import PrivateName, PrivateNameError, check, usable
from serve_app.private_names.name import looks_up

pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM and Ray import


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A library of a function that is looked up as a global, as an attribute and by import."""
    module: Any = ModuleType("library")
    program = """
from types import SimpleNamespace

def draft(x, scale=1):
    return x * scale

def step(x):
    return draft(x)

def late(x):
    from library import draft
    return draft(x)

class Worker:
    size: int

    def __init__(self):
        self.rank = 0

    def start(self):
        return self.load(now=True)

    def load(self, *, now):
        self.loaded = now

    @property
    def state(self):
        return self.load

def nested():
    async def inner(worker):
        return worker.load(now=True)
    return inner
"""
    exec(compile(program, "library.py", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "library", module)
    return module


def entry(path: str, **fields: Any) -> PrivateName:
    defaults: dict[str, Any] = {
        "used_in": ("serve_app.user",),
        "without_it": "nothing works",
        "test": "tests/unit/private_names/test_check.py",
    }
    return PrivateName(path=path, **defaults | fields)


@pytest.mark.parametrize(
    "path",
    ["library", "library:draft", "library:Worker.load", "library:Worker.size", "library:Worker.rank"],
)
def test_what_is_there(library: Any, path: str) -> None:
    assert entry(path).problem() is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("library:gone", "there is no library:gone"),
        ("library:Worker.gone", "there is no library:Worker.gone"),
        ("library.gone:draft", "library.gone cannot be imported"),
    ],
)
def test_what_is_not(library: Any, path: str, problem: str) -> None:
    found = entry(path).problem()
    assert found
    assert problem in found


def test_parameters(library: Any) -> None:
    assert entry("library:draft", parameters=("x", "scale")).problem() is None
    assert entry("library:Worker.load", parameters=("now",)).problem() is None
    found = entry("library:draft", parameters=("x", "bias", "scale", "shape")).problem()
    assert found == "library:draft does not accept bias, shape"


@pytest.mark.parametrize(
    ("path", "caller"),
    [
        ("library:draft", "library:step"),
        ("library:draft", "library:late"),
        ("library:Worker.load", "library:Worker.start"),
        ("library:Worker.load", "library:Worker.state"),
        ("library:Worker.load", "library:nested"),
        ("library:Worker.rank", "library:Worker"),
    ],
)
def test_what_is_still_looked_up(library: Any, path: str, caller: str) -> None:
    found = entry(path, looked_up_by=(caller,)).problem()
    # A class stands for its constructor, which writes `rank` and does not read it.
    assert (found is None) == (caller != "library:Worker")


def test_what_is_replaced_must_be_looked_up(library: Any) -> None:
    found = entry("library:draft", looked_up_by=("library:Worker.start",)).problem()
    assert found == "library:Worker.start does not look library:draft up any more"
    found = entry("library:draft", looked_up_by=("library:gone",)).problem()
    assert found == "there is no library:gone, which is to look library:draft up"


def test_a_copy_in_another_module_is_not_what_is_replaced(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Any = ModuleType("other")
    exec("from library import draft\ndef step(x):\n    return draft(x)\n", vars(other))
    monkeypatch.setitem(sys.modules, "other", other)
    assert looks_up(library.step, library, "draft")
    assert not looks_up(other.step, library, "draft")
    assert entry("library:draft", looked_up_by=("other:step",)).problem() is not None


def test_compiled_code_cannot_be_looked_into(library: Any) -> None:
    assert not looks_up(len, library, "draft")


def test_costly_modules_are_not_imported_for_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    costly = entry("colorsys:gone", is_costly=True)
    assert costly.problem() is None
    assert "colorsys" not in sys.modules
    assert costly.problem(everything=True) is not None
    # Now it is there.
    assert costly.problem() is not None


def test_a_package_that_is_not_installed_lacks_nothing() -> None:
    assert entry("no_such_package:gone", package="no_such_package").problem() is None
    assert entry("no_such_package:gone").problem() is not None


def test_what_is_vital_stops_the_start_with_words(library: Any) -> None:
    names = [
        entry("library:draft"),
        entry("library:gone", without_it="sampled answers are noise"),
        entry("library:Worker.gone", without_it="no engine starts"),
        entry("library:lost", used_in=("serve_app.other",)),
        entry("library:lost", used_in=("serve_app.user_of_another",)),
    ]
    with pytest.raises(PrivateNameError) as caught:
        check("serve_app.user", names)
    assert str(caught.value).splitlines() == [
        "serve_app.user uses parts of other packages that are not there as it knows them:",
        "- there is no library:gone; without it, sampled answers are noise (library is not installed)",
        "- there is no library:Worker.gone; without it, no engine starts (library is not installed)",
        "Install the versions that pyproject.toml pins, or adapt serve_app.user: docs/upgrading.md says how",
    ]
    check("serve_app.somebody", names)
    # A package has what its modules have.
    with pytest.raises(PrivateNameError, match="noise"):
        check("serve_app", names)


def test_what_costs_a_report_is_one_warning(library: Any, caplog: pytest.LogCaptureFixture) -> None:
    names = [
        entry("library:gone", is_vital=False, without_it="a report lacks a line"),
        entry("library:lost", is_vital=False, without_it="it is slower"),
    ]
    with caplog.at_level(logging.WARNING, "ray.serve"):
        check("serve_app.user", names)
        assert not usable("serve_app.user", names)
    first, second = [record.getMessage() for record in caplog.records]
    assert first == second
    assert "there is no library:gone; without it, a report lacks a line" in first
    assert "it is slower" in first
    assert usable("serve_app.user", [entry("library:draft")])


# What is removed of the installed versions, and who must say so.
REMOVED = [
    ("vllm.v1.engine.async_llm:AsyncLLM._run_output_handler", "serve_app.vllm_adapter"),
    ("vllm.v1.engine.output_processor:OutputProcessor.get_num_unfinished_requests", "serve_app.vllm_adapter"),
    ("vllm.utils.gc_utils:freeze_gc_heap", "serve_app.vllm_adapter"),
    ("vllm.v1.sample.rejection_sampler:apply_sampling_constraints", "serve_app.vllm_worker.cpu_repairs"),
    ("vllm.v1.structured_output.backend_xgrammar:XgrammarBackend", "serve_app.vllm_worker.grammars"),
    ("xgrammar:GrammarCompiler", "serve_app.vllm_worker.grammars"),
    ("vllm.v1.worker.gpu.cudagraph_utils:CudaGraphManager.dispatch", "serve_app.vllm_worker.graph_report"),
    ("ray.serve._private.router:AsyncioRouter._handle_actor_died_error", "serve_app.routing"),
    ("ray.serve._private.utils:generate_request_id", "serve_app.routing"),
    ("ray.serve.context:_get_global_client", "serve_app.stop"),
    ("ray.experimental.internal_kv:_internal_kv_put", "serve_app.sealing_key"),
]


@pytest.mark.parametrize(("path", "user"), REMOVED)
def test_a_release_without_it_does_not_start(path: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("vllm.v1.engine.async_llm")
    importlib.import_module("ray.serve._private.router")
    check(user)
    module, _, attributes = path.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = attributes.split(".")
    for attribute in outer:
        owner = getattr(owner, attribute)
    monkeypatch.delattr(owner, last)
    with pytest.raises(PrivateNameError, match=re.escape(f"there is no {path}")):
        check(user)


def test_phases_are_left_alone_where_vllm_would_not_call_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    from serve_app.vllm_worker import phases

    monkeypatch.delattr(WorkerWrapperBase, "init_device")
    with caplog.at_level(logging.WARNING, "ray.serve"):
        phases.install(tmp_path / "start.jsonl")
    assert "`stage report` does not say what a start spends inside vLLM" in caplog.text
    assert not hasattr(WorkerWrapperBase, "init_device")
