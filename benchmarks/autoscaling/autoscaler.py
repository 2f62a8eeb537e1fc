"""Ray Serve's own autoscaling code, run on a clock that a simulation sets.

What is Serve's: the handles' record of queued and running requests, their reports, the controller's average
over them, the policy with its delays and bounds. What is not: processes, and the time that a report takes.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ray.serve import autoscaling_policy
from ray.serve._private import autoscaling_state, router
from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.constants import RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve._private.metrics_utils import InMemoryMetricsStore
from ray.serve._private.router import RouterMetricsManager
from ray.serve.config import AutoscalingConfig

DEPLOYMENT = DeploymentID("engine", "simulated")
# Where Serve reads the time on the way from a request to a decision; all by `time.time()` on the module.
READERS = autoscaling_policy, autoscaling_state, router


class Clock:
    """Stands in for the module `time` where Serve reads it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        """The time that the simulation has reached."""
        return self.now_s

    monotonic = time


@contextlib.contextmanager
def serve_reads(clock: Clock) -> Iterator[None]:
    """Serve's autoscaling code takes the time from `clock` for as long as the block lasts."""
    real = [vars(reader)["time"] for reader in READERS]
    for reader in READERS:
        setattr(reader, "time", clock)  # noqa: B010  # modules do not declare it
    try:
        yield
    finally:
        for reader, module in zip(READERS, real, strict=True):
            setattr(reader, "time", module)  # noqa: B010


class Handle(RouterMetricsManager):
    """What an ingress replica's handle counts and reports. Without the tasks and gauges of the real one."""

    def __init__(self, number: int, config: DeploymentConfig) -> None:
        # Only what the methods for recording and reporting read.
        self._handle_id = f"handle-{number}"
        self._deployment_id = DEPLOYMENT
        self._self_actor_id = f"ingress-{number}"
        self._handle_source = DeploymentHandleSource.REPLICA
        self._deployment_config = config
        self.metrics_store = InMemoryMetricsStore()  # type: ignore[no-untyped-call]
        self.num_queued_requests = 0
        self.num_requests_sent_to_replicas: defaultdict[ReplicaID, int] = defaultdict(int)

    def count(self, queued: int, running: dict[ReplicaID, int]) -> None:
        """What the handle knows now."""
        self.num_queued_requests = queued
        self.num_requests_sent_to_replicas = defaultdict(int, running)


class Autoscaler:
    """The controller's part of it for one deployment, and the handles that report to it."""

    def __init__(self, config: AutoscalingConfig, num_handles: int) -> None:
        deployment = DeploymentConfig(autoscaling_config=config)
        # RouterMetricsManager.update_deployment_config
        self.record_interval_s = min(
            config.look_back_period_s * RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR,
            config.metrics_interval_s,
        )
        self.push_interval_s = config.metrics_interval_s
        self.handles = [Handle(number, deployment) for number in range(num_handles)]
        self._state = DeploymentAutoscalingState(DEPLOYMENT)
        info = DeploymentInfo(deployment, replica_config=None, start_time_ms=0, deployer_job_id="")  # type: ignore[arg-type]
        self._state.register(info, config.min_replicas)

    def record(self, number: int) -> None:
        """A handle notes what it counts, as it does every `record_interval_s`."""
        self.handles[number]._add_autoscaling_metrics_point()  # type: ignore[no-untyped-call]

    def push(self, number: int) -> None:
        """A handle's report reaches the controller, as it does every `push_interval_s`."""
        report = self.handles[number]._get_metrics_report()
        # Copies, as on the wire: the handle goes on writing into the lists of its report.
        report.queued_requests = list(report.queued_requests)
        report.metrics = {
            name: {replica: list(series) for replica, series in found.items()}
            for name, found in report.metrics.items()
        }
        self._state.record_request_metrics_for_handle(report)

    def decide(self, ready: Sequence[ReplicaID], target: int) -> int:
        """Returns the number of replicas to have, from those that are ready and the last decision."""
        self._state.update_running_replica_ids(list(ready))
        return self._state.get_decision_num_replicas(target)

    def total_requests(self) -> float:
        """Returns the average of queued and running requests that the last decision rests on."""
        return self._state.get_last_decision_total_num_requests()
