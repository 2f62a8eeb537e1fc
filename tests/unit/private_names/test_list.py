"""The list holds what the code uses, and the installed versions have what it holds."""

from __future__ import annotations

import ast
import dis
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from serve_app.private_names import NAMES, PrivateName
from serve_app.private_names.name import attributes_of_objects

ROOT = Path(__file__).parents[3]
# `benchmarks/serving/ray_llm_app.py` is Ray's own service, compared with in an environment of its own.
SOURCES = sorted(
    path
    for pattern in ("serve_app/**/*.py", "scripts/*.py", "benchmarks/*/*.py")
    for path in ROOT.glob(pattern)
    if path.name != "ray_llm_app.py" and "private_names" not in path.parts
)
# Documented of Ray without an underscore, and yet internal.
INTERNAL_OF_RAY = ("ray.serve.context", "ray.experimental", "ray.serve.scripts")

pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM and Ray import


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_the_installed_versions_have_it(name: PrivateName) -> None:
    assert name.problem(everything=True) is None


def test_each_name_is_listed_once() -> None:
    assert len({name.path for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_users_and_tests_are_there(name: PrivateName) -> None:
    for user in name.used_in:
        assert path_of(user).exists(), user
    assert (ROOT / name.test).is_file(), name.test
    assert name.without_it[0].islower() or name.without_it[0] == "`"


def path_of(user: str) -> Path:
    if not user.startswith("serve_app"):
        return ROOT / user
    path = ROOT.joinpath(*user.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


# --- what the code uses --------------------------------------------------------------------------------


class Uses(ast.NodeVisitor):
    """The private names that a module uses, as far as its text says it: imports, and attributes of them."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.patched: set[str] = set()
        # What a name in the module stands for.
        self._names: dict[str, str] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.asname or "." not in alias.name:
                self._names[alias.asname or alias.name] = alias.name
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.module
        for alias in node.names:
            path = joined(node.module, alias.name)
            self._names[alias.asname or alias.name] = path
            self._add(path)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if (path := self._path(node)) is not None:
            self._add(path)
            if isinstance(node.ctx, ast.Store):
                self.patched.add(path)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        # `importlib.import_module("xgrammar.load_binding")`
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            self._add(str(node.args[0].value))
        self.generic_visit(node)

    def _path(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute) and (path := self._path(node.value)) is not None:
            return joined(path, node.attr)
        return None

    def _add(self, path: str) -> None:
        if is_private(path):
            self.found.add(path)


def joined(path: str, attribute: str) -> str:
    """The path of an attribute; one of a module begins after a colon unless it is a module too."""
    if ":" in path:
        return f"{path}.{attribute}"
    if path.split(".")[0] in ("vllm", "ray", "xgrammar", "torch", "triton_kernels"):
        try:
            importlib.import_module(f"{path}.{attribute}")
        except ImportError:
            pass
        else:
            return f"{path}.{attribute}"
    return f"{path}:{attribute}"


@cache
def exports_of_vllm() -> frozenset[str]:
    """What vLLM's `__init__` exports. Anything else may move in any release."""
    return frozenset(importlib.import_module("vllm").__all__)


def is_private(path: str) -> bool:
    module, _, attributes = path.partition(":")
    library = module.split(".")[0]
    if library == "vllm":
        return module != "vllm" or not attributes or attributes.split(".")[0] not in exports_of_vllm()
    if library == "ray":
        return module.startswith(INTERNAL_OF_RAY) or any(
            part.startswith("_") and not part.startswith("__") for part in re.split(r"[.:]", path)
        )
    return library == "xgrammar" and any(part.startswith("_") for part in module.split("."))


def uses(path: Path) -> Uses:
    found = Uses()
    found.visit(ast.parse(path.read_text()))
    return found


def listed(path: Path) -> list[PrivateName]:
    """The names that the list has of a file."""
    return [name for name in NAMES if any(path_of(user) == path for user in name.used_in)]


def missing_of(path: Path, found: set[str], names: list[PrivateName]) -> set[str]:
    """What of `found` is not listed for the file; the module of a listed name needs no entry of its own."""
    paths = {name.path for name in names}
    return {
        one
        for one in found
        if one not in paths
        and not any(other.startswith((f"{one}:", f"{one}.")) for other in paths)
        and one != "vllm"
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_is_listed(path: Path) -> None:
    found = uses(path)
    assert not missing_of(path, found.found, listed(path))
    # What is replaced must be looked up by somebody.
    by_path = {name.path: name for name in NAMES}
    for patched in found.patched:
        # torch's switches apart, which are there to be set.
        if patched.startswith(("vllm", "ray", "xgrammar", "torch:")):
            assert by_path[patched].looked_up_by, patched


def test_the_walk_sees_each_kind_of_use() -> None:
    program = """
from vllm.v1.sample import rejection_sampler
from vllm import SamplingParams, envs
import xgrammar
from ray.experimental.internal_kv import _internal_kv_get
import importlib

def f():
    from vllm.platforms import current_platform
    rejection_sampler.expand_batch_to_tokens = f
    xgrammar.GrammarCompiler = f
    envs.compile_factors()
    importlib.import_module("xgrammar.tvm_ffi_binding._ffi_api")
    return current_platform.is_cuda(), SamplingParams.from_optional()
"""
    found = Uses()
    found.visit(ast.parse(program))
    assert found.found == {
        "vllm.v1.sample.rejection_sampler",
        "vllm.v1.sample.rejection_sampler:expand_batch_to_tokens",
        "vllm.envs",
        "vllm.envs:compile_factors",
        "vllm.platforms:current_platform",
        "vllm.platforms:current_platform.is_cuda",
        "ray.experimental.internal_kv:_internal_kv_get",
        "xgrammar.tvm_ffi_binding._ffi_api",
    }
    assert found.patched == {
        "vllm.v1.sample.rejection_sampler:expand_batch_to_tokens",
        "xgrammar:GrammarCompiler",
    }


# What stands in variables: objects of vLLM and Ray that a module is handed, by file and expression.
ASYNC_LLM = "vllm.v1.engine.async_llm:AsyncLLM"
V2_RUNNER = "vllm.v1.worker.gpu.model_runner:GPUModelRunner"
MANAGER = "vllm.v1.worker.gpu.cudagraph_utils:CudaGraphManager"
ROUTER = "ray.serve._private.request_router.request_router:RequestRouter"
HANDED = {
    "serve_app/vllm_adapter/token_engine.py": {
        "self.llm": ASYNC_LLM,
        "state": "vllm.v1.engine.output_processor:RequestState",
        "outputs": "vllm.v1.engine:EngineCoreOutputs",
    },
    "serve_app/vllm_adapter/warming.py": {"llm": ASYNC_LLM},
    "serve_app/vllm_adapter/remote_sequence.py": {
        "lists": "vllm.v1.outputs:LogprobsLists",
        "output.prefill_stats": "vllm.v1.metrics.stats:PrefillStats",
        "output.new_prompt_logprobs_tensors": "vllm.v1.outputs:LogprobsTensors",
    },
    "serve_app/vllm_worker/graph_report.py": {
        "self.vllm_config": "vllm.config:VllmConfig",
        "compilation": "vllm.config:CompilationConfig",
        "runner": V2_RUNNER,
        "manager": MANAGER,
        "dispatcher": "vllm.v1.cudagraph_dispatcher:CudagraphDispatcher",
        "found": "vllm.v1.worker.gpu.cudagraph_utils:BatchExecutionDescriptor",
    },
    "serve_app/routing.py": {
        "super()": ROUTER,
        "self": ROUTER,
        "pending_request": "ray.serve._private.request_router.common:PendingRequest",
        "r": "ray.serve._private.request_router.replica_wrapper:RunningReplica",
    },
    "serve_app/readiness.py": {"router": ROUTER},
    "benchmarks/autoscaling/autoscaler.py": {
        "self._state": "ray.serve._private.autoscaling_state:DeploymentAutoscalingState",
        "self.handles[number]": "ray.serve._private.router:RouterMetricsManager",
    },
}
# Where an attribute leads on to: to the class whose attributes are next.
LEADS_TO = {
    f"{ASYNC_LLM}.engine_core": "vllm.v1.engine.core_client:AsyncMPClient",
    f"{ASYNC_LLM}.output_processor": "vllm.v1.engine.output_processor:OutputProcessor",
    "vllm.v1.engine.core_client:AsyncMPClient.resources": "vllm.v1.engine.core_client:BackgroundResources",
    "vllm.v1.engine.core_client:BackgroundResources.engine_manager": (
        "vllm.v1.engine.utils:CoreEngineProcManager"
    ),
    "vllm.v1.engine.output_processor:RequestState.queue": (
        "vllm.v1.engine.output_processor:RequestOutputCollector"
    ),
    "vllm.config:VllmConfig.scheduler_config": "vllm.config:SchedulerConfig",
    "ray.serve._private.request_router.common:PendingRequest.metadata": (
        "ray.serve._private.common:RequestMetadata"
    ),
    "ray.serve._private.request_router.common:PendingRequest.routing_context": (
        "ray.serve._private.request_router.common:RequestRoutingContext"
    ),
}
# Of plain values, what is asked of them is Python's, or their names are enough.
PLAIN = {"get", "append", "name", "tolist", "to_string", "app_name", "unique_id"}
V1_RUNNER_HAS = {"cudagraph_dispatcher"}
# What `EngineRouter` adds to Serve's.
OUR_ROUTER_HAS = {"_own_id"}


def handed_uses(text: str, handed: dict[str, str]) -> Iterator[str]:
    """Yields the paths of attributes of the objects that a module is handed."""
    tree = ast.parse(text)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        chain: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute) and ast.unparse(root) not in handed:
            chain.insert(0, root.attr)
            root = root.value
        kind = handed.get(ast.unparse(root))
        for attribute in chain if kind else ():
            if attribute in PLAIN:
                break
            path = f"{kind}.{attribute}"
            yield path
            kind = LEADS_TO.get(path)
            if kind is None:
                break


@pytest.mark.parametrize("file", HANDED)
def test_attributes_of_their_objects_are_listed(file: str) -> None:
    names = {name.path for name in listed(ROOT / file)}
    found = set(handed_uses((ROOT / file).read_text(), HANDED[file]))
    found -= {f"{ROUTER}.{name}" for name in OUR_ROUTER_HAS}
    assert found
    ours = {f"{V2_RUNNER}.{name}" for name in V1_RUNNER_HAS}
    assert found - ours <= names
    assert {
        path.replace(V2_RUNNER, "vllm.v1.worker.gpu_model_runner:GPUModelRunner") for path in found & ours
    } <= (names)


def test_attributes_by_name_are_listed() -> None:
    """`getattr(runner, "speculator", None)`, and the methods of a worker that are wrapped."""
    from serve_app.vllm_worker import phases, routing_kernels

    for file in ("phases.py", "graph_report.py"):
        path = ROOT / "serve_app" / "vllm_worker" / file
        ends = {name.path.rpartition(".")[2] for name in listed(path)}
        asked = {
            str(node.args[1].value)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            and isinstance(node.args[1], ast.Constant)
        }
        assert asked
        assert asked <= ends
    paths = {name.path for name in NAMES}
    assert {f"vllm.v1.worker.gpu_worker:Worker.{method}" for method in phases.WORKER_METHODS} <= paths
    assert {f"{V2_RUNNER}.{method}" for method in phases.RUNNER_METHODS} <= paths
    assert {f"{module}:{kernel}" for module, kernel, _ in routing_kernels.KERNELS} <= paths


def test_what_the_router_replaces_of_serves_is_listed() -> None:
    from ray.serve._private.request_router.request_router import RequestRouter

    from serve_app.routing import EngineRouter

    theirs = set(dir(RequestRouter)) | attributes_of_objects(RequestRouter)
    replaced = {name for name in vars(EngineRouter) if name in theirs and not name.startswith("__")}
    replaced -= {name for name in replaced if name.startswith("_abc_")}
    by_path = {name.path: name for name in NAMES}
    for name in replaced:
        assert by_path[f"{ROUTER}.{name}"].looked_up_by, name
    assert {"choose_replicas", "_choose_replica_for_request"} <= replaced


def test_fields_of_outputs_are_listed() -> None:
    """`wire` looks at each, to see what can be merged."""
    from vllm.v1.engine import EngineCoreOutput

    text = (ROOT / "serve_app" / "vllm_adapter" / "wire.py").read_text()
    [entry] = [name for name in NAMES if name.path == "vllm.v1.engine:EngineCoreOutput"]
    used = set(re.findall(r"\b(?:output|first|second)\.(\w+)", text))
    assert used <= set(entry.parameters)
    assert set(entry.parameters) <= set(EngineCoreOutput.__struct_fields__)


def test_the_stand_in_for_xgrammars_compiler_has_all_that_vllm_calls() -> None:
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    from serve_app.vllm_worker.grammars import IsolatedCompiler

    called = {
        str(step.argval)
        for step in dis.get_instructions(XgrammarBackend.compile_grammar)
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and str(step.argval).startswith("compile_")
    }
    assert {"compile_json_schema", "compile_structural_tag"} <= called
    assert called <= set(dir(IsolatedCompiler))
