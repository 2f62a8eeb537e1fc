"""A network that is cut or slow, between processes of one machine: the qdisc HTB on loopback.

Packets to and from chosen ports go through a class that is slow, or lets nothing through.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Any

import psutil

# Eight bits a second: less than a packet an hour.
CUT = "8bit"
ROOT = ["dev", "lo", "root"]
# A few packets wait where it is slow, and hardly any where it is cut.
QUEUE_PACKETS = 1000


def is_possible() -> bool:
    """Whether the kernel has the qdisc, and this process may set it."""
    try:
        degrade([1], CUT)
        heal()
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    return True


def degrade(ports: Iterable[int], rate: str) -> None:
    """Lets packets to and from these ports pass at no more than `rate`, in the words of tc."""
    _tc("qdisc", "add", *ROOT, "handle", "1:", "htb", "default", "0", "r2q", "1")
    small = ["burst", "1", "cburst", "1"] if rate == CUT else []
    _tc("class", "add", "dev", "lo", "parent", "1:", "classid", "1:10", "htb", "rate", rate, *small)
    limit = "1" if rate == CUT else str(QUEUE_PACKETS)
    _tc("qdisc", "add", "dev", "lo", "parent", "1:10", "handle", "10:", "pfifo", "limit", limit)
    for port in ports:
        for side in ("sport", "dport"):
            match = ["u32", "match", "ip", side, str(port), "0xffff"]
            _tc("filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", *match, "flowid", "1:10")


def heal() -> None:
    """Lets everything pass again. What waited is lost, and is sent again by TCP."""
    _tc("qdisc", "del", *ROOT)


def ports_between(some: Iterable[int], others: Iterable[int]) -> set[int]:
    """Returns the ports on which processes of one group listen and are connected to by the other's (ids)."""
    ours, theirs = _connections(some), _connections(others)
    found = set()
    for listening, calling in ((ours, theirs), (theirs, ours)):
        ports = {one.laddr.port for one in listening if one.status == psutil.CONN_LISTEN}
        remote = {one.raddr.port for one in calling if one.status == psutil.CONN_ESTABLISHED}
        found |= ports & remote
    return found


def _connections(pids: Iterable[int]) -> list[Any]:
    return [one for pid in pids for one in psutil.Process(pid).net_connections("tcp")]


def _tc(*arguments: str) -> None:
    subprocess.run(["tc", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
