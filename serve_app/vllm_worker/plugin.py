"""The entry point `vllm.general_plugins` (pyproject.toml): what vLLM calls in each process that it starts."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from serve_app import private_names
from serve_app.staging import timeline
from serve_app.vllm_worker import cpu_repairs, grammars, phases, routing_kernels


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
    found.append(grammars.install)
    # The question also gives vLLM's own copy the name `triton_kernels`.
    if platform.is_cuda() and has_triton_kernels():
        found.append(routing_kernels.install)
    if platform.is_cpu():
        found.append(cpu_repairs.install)
    return found
