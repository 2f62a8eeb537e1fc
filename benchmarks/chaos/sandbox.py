"""Namespaces for a drill: processes, network and mounts of its own, where the machine allows that.

Nothing outside can be hit by a fault, ports are free, each node of the cluster has an address, and all of it
goes when the drill does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Of a process inside: the folder for its files.
INSIDE = "CHAOS_SANDBOX"
NODES = ("10.77.0.1", "10.77.0.2", "10.77.0.3")
UNSHARE = ["unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
AS_USER = [*UNSHARE, "--user", "--map-root-user"]
# The first process of the namespace is a shell, which buries what others have left.
REAPER = ["bash", "-c", '"$@"; exit $?', "drill"]


def main(module: str, work: Callable[[Path], int], without: Callable[[Path], int]) -> int:
    """Returns the exit status of `work`, which runs in namespaces, as `python -m MODULE` begun anew.

    `without` runs here instead where there can be none. Both get a folder for their files, which goes when
    they have ended. Whoever stops this program stops all of it.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if is_inside():
        return work(folder())
    # Ray's and HAProxy's sockets lie in it, so its path has to be short.
    path = tempfile.mkdtemp(prefix="drill-", dir="/tmp")
    try:
        status = run(module, path)
        return without(Path(path)) if status is None else status
    finally:
        shutil.rmtree(path, ignore_errors=True)


def is_inside() -> bool:
    """Whether this process runs in namespaces of its own."""
    return INSIDE in os.environ


def folder() -> Path:
    """The folder that a process inside was given."""
    return Path(os.environ[INSIDE])


def run(module: str, folder: str) -> int | None:
    """Runs `python -m MODULE` anew in namespaces, with our arguments; returns its exit status.

    None where there can be no namespaces. `folder` is for its files. However this ends, all processes of the
    namespaces end with it.
    """
    for unshare in (UNSHARE, AS_USER):
        if _succeeds([*unshare, *REAPER, "true"]):
            command = [*unshare, *REAPER, sys.executable, "-m", module, *sys.argv[1:]]
            with subprocess.Popen(command, env=os.environ | {INSIDE: folder}) as process:
                try:
                    return process.wait()
                finally:
                    # It does not listen to any other signal.
                    process.kill()
    return None


def prepare_network() -> None:
    """Gives the loopback of the namespace the addresses of the nodes."""
    _ip("link", "set", "lo", "up")
    for address in NODES:
        _ip("address", "add", f"{address}/32", "dev", "lo")


def mount_small_disk(folder: str, size_bytes: int) -> bool:
    """Makes `folder` a disk of that size, in memory. Returns False where that is not allowed."""
    return _succeeds(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder])


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
