"""The replicas of the service: they start, are ready, drain and are gone."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.autoscaling.parameters import Parameters
from benchmarks.autoscaling.replica import Phase, Replica


class Fleet:
    """`replicas` hold a GPU each, those in `ready` take requests. `on_gone` gets each replica at its end."""

    def __init__(
        self, parameters: Parameters, number: int, on_gone: Callable[[Replica, float], None]
    ) -> None:
        """The first `number` are ready when the trace begins."""
        self.replicas: list[Replica] = []
        self.ready: list[Replica] = []
        self._parameters = parameters
        self._on_gone = on_gone
        self._num_created = 0
        for _ in range(number):
            self._create(-parameters.start_s)

    @property
    def num_running(self) -> int:
        """Requests that all of them generate for."""
        return sum(replica.running for replica in self.replicas)

    def count(self, phase: Phase) -> int:
        """Returns how many there are in a phase."""
        return sum(replica.phase is phase for replica in self.replicas)

    def reach(self, target: int, now_s: float) -> None:
        """Starts replicas or lets some drain, so that `target` stay."""
        staying = [replica for replica in self.replicas if replica.phase is not Phase.DRAINING]
        for _ in range(target - len(staying)):
            self._create(now_s)
        # DefaultDeploymentScheduler._get_replicas_to_stop: those that are not ready, then the newest.
        staying.sort(key=lambda replica: (replica.phase is Phase.READY, -replica.number))
        for replica in staying[: max(0, len(staying) - target)]:
            replica.phase = Phase.DRAINING
            if replica in self.ready:
                self.ready.remove(replica)
            self.remove_if_drained(replica, now_s)

    def become_ready(self, now_s: float) -> list[Replica]:
        """Returns the replicas that have started and take requests from now on."""
        started = [one for one in self.replicas if one.phase is Phase.STARTING and one.ready_s <= now_s]
        for replica in started:
            replica.phase = Phase.READY
        self.ready += started
        return started

    def remove_if_drained(self, replica: Replica, now_s: float) -> None:
        """Gives its GPU back if it is to leave and has nothing left to do."""
        if replica.phase is Phase.DRAINING and not replica.running:
            self.replicas.remove(replica)
            self._on_gone(replica, now_s)

    def _create(self, now_s: float) -> None:
        parameters = self._parameters
        ready_s = now_s + parameters.start_s
        self.replicas.append(
            Replica(self._num_created, now_s, ready_s, parameters.speed, parameters.num_handles)
        )
        self._num_created += 1
