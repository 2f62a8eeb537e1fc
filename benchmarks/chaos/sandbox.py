"""Namespaces for a drill: processes, network and mounts of its own, where the machine allows that.

Nothing outside can be hit by a fault, ports are free, each node of the cluster has an address, and all of it
goes when the drill does.
"""

from __future__ import annotations

import os
import subprocess
import sys

INSIDE = "CHAOS_SANDBOX"
NODES = ("10.77.0.1", "10.77.0.2", "10.77.0.3")
UNSHARE = ["unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
AS_USER = [*UNSHARE, "--user", "--map-root-user"]
# The first process of the namespace is a shell, which buries what others have left.
REAPER = ["bash", "-c", '"$@"; exit $?', "drill"]


def is_inside() -> bool:
    """Whether this process runs in namespaces of its own."""
    return os.environ.get(INSIDE) == "1"


def enter(module: str) -> None:
    """Runs `python -m MODULE` anew in namespaces, with our arguments; returns where none can be."""
    for unshare in (UNSHARE, AS_USER):
        if _succeeds([*unshare, *REAPER, "true"]):
            command = [*unshare, *REAPER, sys.executable, "-m", module, *sys.argv[1:]]
            os.execvpe("unshare", command, os.environ | {INSIDE: "1"})


def prepare_network() -> None:
    """Gives the loopback of the namespace the addresses of the nodes."""
    _ip("link", "set", "lo", "up")
    for address in NODES:
        _ip("address", "add", f"{address}/32", "dev", "lo")


def mount_small_disk(folder: str, size_bytes: int) -> bool:
    """Makes `folder` a disk of that size, in memory. Returns False where that is not allowed."""
    return _succeeds(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder])


def unmount(folder: str) -> None:
    """Takes such a disk away, with what is on it."""
    subprocess.run(["umount", "--lazy", folder], check=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
