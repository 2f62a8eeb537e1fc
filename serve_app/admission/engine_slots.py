"""Slots in the engines: each replica runs `max_concurrent_requests` sequences and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection


class EngineSlots:
    """Slots on the replicas that are ready. On replicas that have left they count until given back."""

    def __init__(self, per_replica: int, reserved_share: float) -> None:
        self._per_replica = per_replica
        self._reserved_share = reserved_share
        self._ready: dict[str, None] = {}
        self._lost: set[str] = set()
        self._loads: Counter[str] = Counter()

    @property
    def replicas(self) -> Collection[str]:
        """Those that are ready."""
        return self._ready.keys()

    @replicas.setter
    def replicas(self, replicas: Collection[str]) -> None:
        # Serve may not have noticed yet. Ids do not return, so one that is lost stays lost.
        self._lost &= set(replicas)
        self._ready = dict.fromkeys(replica for replica in replicas if replica not in self._lost)

    def lose(self, replica: str) -> None:
        """This replica is dead."""
        if self._ready.pop(replica, replica) is None:
            self._lost.add(replica)

    @property
    def num_all(self) -> int:
        """Slots on the ready replicas, taken or not."""
        return len(self._ready) * self._per_replica

    @property
    def num_free(self) -> int:
        """Slots that can be taken."""
        return sum(max(0, self._per_replica - self._loads[replica]) for replica in self._ready)

    @property
    def num_taken(self) -> int:
        """Slots taken, on replicas that have left too."""
        return self._loads.total()

    @property
    def num_reserved(self) -> int:
        """Slots that only the upper tiers may take: the share, at least one, and never all."""
        if not self._reserved_share:
            return 0
        return min(max(1, int(self._reserved_share * self.num_all)), max(0, self.num_all - 1))

    def num_taken_on(self, replica: str) -> int:
        """Slots taken on one replica, ready or not."""
        return self._loads[replica]

    def take(
        self, replica: str | None = None, prefers: Collection[str] = (), avoids: str | None = None
    ) -> str:
        """Takes a slot on the ready replica with the fewest taken, or on a given one. Returns which.

        Of the replicas with room those of `prefers` come first, and `avoids` last.
        """
        if replica is None:
            replica = min(self._ready, key=self._loads.__getitem__)
            if prefers or replica == avoids:
                has_room = [one for one in self._ready if self._loads[one] < self._per_replica]
                replica = min(
                    has_room or [replica],
                    key=lambda one: (one == avoids, one not in prefers, self._loads[one]),
                )
        self._loads[replica] += 1
        return replica

    def give_back(self, replica: str) -> None:
        """Frees a slot."""
        self._loads[replica] -= 1
        if not self._loads[replica]:
            del self._loads[replica]
