"""What vLLM's processes get of this package: by platform, and their end with their parent's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from serve_app.staging import timeline
from serve_app.vllm_worker import cpu_repairs, grammars, phases, plugin, resumption, routing_kernels
from tests.services import ROOT

TIMEOUT_S = 600
EVERYWHERE = [grammars.install, resumption.install]


@dataclass
class Platform:
    """In place of vLLM's."""

    name: str

    def is_cuda(self) -> bool:
        return self.name == "cuda"

    def is_cpu(self) -> bool:
        return self.name == "cpu"


class Parent:
    """A process that ends when a test says so."""

    def __init__(self) -> None:
        self.ended = Event()

    def join(self) -> None:
        assert self.ended.wait(TIMEOUT_S)


@pytest.mark.parametrize(
    ("platform", "has_kernels", "expected"),
    [
        ("cuda", True, [*EVERYWHERE, routing_kernels.install]),
        ("cuda", False, EVERYWHERE),
        ("cpu", False, [*EVERYWHERE, cpu_repairs.install]),
        # The kernels are those of NVIDIA's GPUs.
        ("cpu", True, [*EVERYWHERE, cpu_repairs.install]),
        ("rocm", True, EVERYWHERE),
    ],
)
def test_what_is_changed(platform: str, has_kernels: bool, expected: list[Any]) -> None:
    assert plugin.changes(Platform(platform), lambda: has_kernels, {}) == expected


def test_kernels_are_asked_for_on_gpus_only() -> None:
    """The question imports them, where they are."""

    def ask() -> bool:
        raise AssertionError("asked")

    plugin.changes(Platform("cpu"), ask, {})
    with pytest.raises(AssertionError, match="asked"):
        plugin.changes(Platform("cuda"), ask, {})


def test_phases_are_recorded_where_a_start_is(tmp_path: Path) -> None:
    environment = {timeline.VARIABLE: str(tmp_path / "start.jsonl")}
    first, *others = plugin.changes(Platform("cpu"), lambda: False, environment)
    assert isinstance(first, partial)
    assert (first.func, first.args) == (phases.install, (tmp_path / "start.jsonl",))
    assert others == [*EVERYWHERE, cpu_repairs.install]


@pytest.mark.slow
def test_nothing_happens_in_a_process_that_vllm_has_not_started() -> None:
    """The ingress imports vLLM too, and its masks, samplers and life are its own."""
    program = (
        "import multiprocessing, sys, threading\n"
        "assert multiprocessing.parent_process() is None\n"
        "from serve_app.vllm_worker import plugin\n"
        "plugin.install()\n"
        "print([thread.name for thread in threading.enumerate()], 'vllm' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['MainThread'] False\n"


def test_leaves_when_the_parent_has_ended() -> None:
    parent, left = Parent(), list[int]()
    thread = plugin.leave_with(parent, left.append)
    assert thread.daemon  # it must not keep a process that ends by itself
    assert not left
    parent.ended.set()
    thread.join(TIMEOUT_S)
    assert left == [1]


# The engine core's part: it writes its id into a pipe, and would then stay for ever.
CHILD = """
import multiprocessing, os, sys, threading
from multiprocessing.process import BaseProcess

def core(pipe):
    from serve_app.vllm_worker import plugin
    plugin.leave_with(multiprocessing.parent_process())
    os.write(pipe, b"up")
    threading.Event().wait()

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=core, args=(int(sys.argv[1]),))
    child.start()
    child.join()
"""


def test_a_process_whose_parent_is_killed_ends(tmp_path: Path) -> None:
    program = tmp_path / "replica.py"
    program.write_text(CHILD)
    reader, writer = os.pipe()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    replica = subprocess.Popen(
        [sys.executable, str(program), str(writer)], pass_fds=[writer], env=environment
    )
    os.close(writer)
    try:
        assert os.read(reader, 2) == b"up"
        replica.send_signal(signal.SIGKILL)
        replica.wait(TIMEOUT_S)
        # The end of the pipe: nobody has it open any more.
        assert os.read(reader, 1) == b""
    finally:
        replica.kill()
        replica.wait(TIMEOUT_S)
        os.close(reader)


@pytest.mark.filterwarnings("ignore")  # vLLM's
def test_vllm_finds_the_plugin() -> None:
    from vllm.plugins import DEFAULT_PLUGINS_GROUP

    [entry] = metadata.entry_points(group=DEFAULT_PLUGINS_GROUP, name="serve_app")
    assert entry.load() is plugin.install


def test_an_engine_starts_only_with_the_plugin() -> None:
    """vLLM itself says what it could not load in its log, and goes on without."""
    plugin.check_registered({})
    plugin.check_registered({"VLLM_PLUGINS": "other,serve_app"})
    for registered in ([], ["serve_app.vllm_plugin:install"]):
        with pytest.raises(plugin.PluginMissingError, match="scripts/environment"):
            plugin.check_registered({}, registered)
    for allowed in ("", "other"):
        with pytest.raises(plugin.PluginMissingError, match="VLLM_PLUGINS"):
            plugin.check_registered({"VLLM_PLUGINS": allowed})


# A process as vLLM starts it, on whatever this machine has.
STARTED = """
import multiprocessing, sys

def core():
    from serve_app.vllm_worker import plugin
    plugin.install()
    import threading, torch, xgrammar
    from vllm.platforms import current_platform
    from vllm.v1.sample import rejection_sampler
    print([thread.name for thread in threading.enumerate() if thread.daemon])
    print(xgrammar.GrammarCompiler.__module__, xgrammar.TokenizerInfo.from_huggingface.__module__)
    if current_platform.is_cpu():
        print(rejection_sampler.expand_batch_to_tokens.__module__, torch.Generator.__module__)

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=core)
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.slow
def test_a_process_that_vllm_starts(tmp_path: Path) -> None:
    """All of it, with vLLM's own platform, executors and grammar backend."""
    program = tmp_path / "replica.py"
    program.write_text(STARTED)
    environment = os.environ | {"PYTHONPATH": str(ROOT), timeline.VARIABLE: str(tmp_path / "start.jsonl")}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("[", "serve_app"))]
    assert lines[0] == "['leave-with-parent']"
    assert set(" ".join(lines[1:]).split()) <= {
        "serve_app.vllm_worker.grammars",
        "serve_app.vllm_worker.cpu_repairs",
    }
    assert len(lines) >= 2
    assert "docs/upgrading.md" not in done.stdout + done.stderr  # no warning of a name that is missing
