"""The kinds of fault: what each does, what it may cost, and what it needs of service and machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

# Between a connection's end and the moment at which its client has seen it, on a busy machine.
NOTICED_WITHIN_S = 10.0


class Cost(Enum):
    """What a fault may cost clients."""

    NOTHING = "nothing"
    OPEN = "requests that were open when it came"
    CONNECTIONS = "those, and connections until the proxy listens again"


class Need(Enum):
    """What not every drill has."""

    VLLM = "vLLM's engines: a timed engine has no process of its own"
    NODES = "network namespaces, which give each node an address of its own"
    NETWORK = "network namespaces and the qdisc HTB, for cuts on loopback"
    DISK = "the right to mount a tmpfs"


@dataclass(frozen=True)
class Kind:
    """A kind of fault. `lasts_s` is between which it is undone; None where there is nothing to undo."""

    name: str
    what: str
    cost: Cost = Cost.NOTHING
    lasts_s: tuple[float, float] | None = None
    needs: frozenset[Need] = frozenset()


SHORT_S, STOPPED_S, START_S = (3.0, 8.0), (4.0, 12.0), (20.0, 30.0)
OF_VLLM, OF_NODES, OF_NETWORK, OF_DISK = (frozenset({need}) for need in Need)
OPEN = Cost.OPEN
_ALL = (
    Kind("kill-engine", "kill -9 of vLLM's engine core or worker", needs=OF_VLLM),
    Kind("stop-engine", "SIGSTOP of vLLM's engine core or worker", lasts_s=STOPPED_S, needs=OF_VLLM),
    Kind("hang-engine", "SIGSTOP of vLLM's engine core or worker, for good", needs=OF_VLLM),
    Kind("kill-replica", "kill -9 of an engine replica"),
    Kind("stop-replica", "SIGSTOP of an engine replica", lasts_s=STOPPED_S),
    Kind("hang-replica", "SIGSTOP of an engine replica, for good"),
    Kind("kill-ingress", "kill -9 of an ingress replica", OPEN),
    Kind("stop-ingress", "SIGSTOP of an ingress replica", lasts_s=STOPPED_S),
    Kind("kill-gate", "kill -9 of the gate"),
    Kind("stop-gate", "SIGSTOP of the gate", lasts_s=STOPPED_S),
    Kind("kill-proxy", "kill -9 of HAProxy", Cost.CONNECTIONS),
    Kind("stop-proxy", "SIGSTOP of HAProxy", lasts_s=SHORT_S),
    Kind("kill-node", "kill -9 of the raylet of a node", OPEN, lasts_s=(5.0, 10.0), needs=OF_NODES),
    Kind("cut-engines", "nothing passes between ingresses and engines", lasts_s=SHORT_S, needs=OF_NETWORK),
    Kind("slow-engines", "little passes between ingresses and engines", lasts_s=STOPPED_S, needs=OF_NETWORK),
    Kind("cut-gate", "nothing passes between ingresses and the gate", lasts_s=SHORT_S, needs=OF_NETWORK),
    Kind("slow-gate", "little passes between ingresses and the gate", lasts_s=STOPPED_S, needs=OF_NETWORK),
    Kind("full-disk", "an ingress dies while the disk is full", OPEN, lasts_s=START_S, needs=OF_DISK),
    Kind("s3-away", "an ingress dies while S3 is away", OPEN, lasts_s=START_S, needs=OF_DISK),
)
KINDS = {kind.name: kind for kind in _ALL}


class UnknownFaultError(ValueError):
    """A name that is no fault's."""


def chosen(names: str, has: Collection[Need]) -> tuple[list[Kind], dict[str, str]]:
    """Returns the kinds that `names` lists ("all", "none" or names with commas), and why others are left out.

    Raises `UnknownFaultError`, whose text names those that there are.
    """
    if names == "none":
        return [], {}
    wanted = list(KINDS) if names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in KINDS]:
        raise UnknownFaultError(f"no such fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    kinds = [KINDS[name] for name in wanted]
    lacking = {kind.name: sorted(need.value for need in kind.needs if need not in has) for kind in kinds}
    left_out = {name: f"needs {'; '.join(needs)}" for name, needs in lacking.items() if needs}
    return [kind for kind in kinds if kind.name not in left_out], left_out


@dataclass
class Fault:
    """A fault that came. Seconds since the load began; None for what has not happened."""

    kind: Kind
    target: str
    at_s: float
    done_s: float  # when what it has killed was gone
    healed_s: float | None = None
    recovered_s: float | None = None

    def explains(self, sent_s: float, ended_s: float, *, is_connection: bool) -> bool:
        """Whether it may have ended a request. `is_connection`: the service itself has said nothing."""
        if self.kind.cost is Cost.NOTHING or not is_connection:
            return False
        if sent_s <= self.done_s:
            return self.at_s <= ended_s <= self.done_s + NOTICED_WITHIN_S
        if self.kind.cost is Cost.OPEN:
            return False
        return self.recovered_s is None or sent_s <= self.recovered_s
