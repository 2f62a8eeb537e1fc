"""The entry point `vllm.general_plugins` (pyproject.toml): what vLLM calls in each process that it starts."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Protocol

from serve_app import private_names
from serve_app.staging import timeline
from serve_app.vllm_worker import cpu_repairs, grammars, phases, resumption, routing_kernels

GROUP, NAME, ENTRY_POINT = "vllm.general_plugins", "serve_app", "serve_app.vllm_worker.plugin:install"


class PluginMissingError(Exception):
    """vLLM would start its processes without `install`, and say so in its log at most. Says what to do."""


class Platform(Protocol):
    """What is asked of vLLM's platform."""

    def is_cuda(self) -> bool:
        """Whether it is an NVIDIA GPU."""

    def is_cpu(self) -> bool:
        """Whether it is none at all."""


class Parent(Protocol):
    """The process that has started this one."""

    def join(self) -> None:
        """Returns when it has ended."""


def check_registered(environment: Mapping[str, str], registered: Sequence[str] | None = None) -> None:
    """Raises `PluginMissingError` where the processes that vLLM starts would not call `install`.

    `registered` are the entry points of this package's name; by default, those of this installation.
    """
    if registered is None:
        registered = [entry.value for entry in metadata.entry_points(group=GROUP, name=NAME)]
    if ENTRY_POINT not in registered:
        raise PluginMissingError(
            f"vLLM would not find {ENTRY_POINT}: of {NAME} it knows {', '.join(registered) or 'nothing'}. An "
            "older version installed this package, or nobody did: run scripts/environment, or `pip install "
            "--no-deps` of it"
        )
    allowed = environment.get("VLLM_PLUGINS")
    if allowed is not None and NAME not in allowed.split(","):
        raise PluginMissingError(
            f"VLLM_PLUGINS is {allowed!r} and leaves out {NAME}: add it, or unset the variable"
        )


def install() -> None:
    """Runs once in every process that imports vLLM's engine; does something in those that vLLM started.

    Raises `PrivateNameError` for a vLLM that cannot be changed as it must be.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    leave_with(parent)
    private_names.check("serve_app.vllm_worker.plugin")
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import has_triton_kernels

    for change in changes(current_platform, has_triton_kernels, os.environ):
        change()


def leave_with(parent: Parent, leave: Callable[[int], object] = os._exit) -> threading.Thread:
    """Has a thread call `leave` when `parent` has ended, which by default ends this process.

    An engine core whose replica was killed would keep its GPU's memory for ever.
    """

    def wait() -> None:
        parent.join()
        leave(1)

    thread = threading.Thread(target=wait, name="leave-with-parent", daemon=True)
    thread.start()
    return thread


def changes(
    platform: Platform, has_triton_kernels: Callable[[], bool], environment: Mapping[str, str]
) -> list[Callable[[], None]]:
    """Returns the functions that change vLLM in a process on `platform`, in their order."""
    found: list[Callable[[], None]] = []
    if path := environment.get(timeline.VARIABLE):
        found.append(partial(phases.install, Path(path)))
    found += [grammars.install, resumption.install]
    # The question also gives vLLM's own copy the name `triton_kernels`.
    if platform.is_cuda() and has_triton_kernels():
        found.append(routing_kernels.install)
    if platform.is_cpu():
        found.append(cpu_repairs.install)
    return found
