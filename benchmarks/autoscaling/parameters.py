"""What all policies of a study have in common, and what a trace begins with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.autoscaling.policies import CAP, Policy
from benchmarks.autoscaling.speed import STEPS, Speed
from benchmarks.autoscaling.traces import ANSWER_TOKENS


@dataclass(frozen=True)
class Parameters:
    """Engines, admission and Serve's intervals."""

    speed: Speed = STEPS
    cap: int = CAP
    # Requests that may wait; as many as all replicas run at once.
    queue: int = 8 * CAP
    # After which a request that waits is refused.
    deadline_s: float = 30.0
    # From the decision to ready, rounded: 85 s with staged compile caches, 256 without
    # (benchmarks/results/bare_node.json). A node that has to be started first comes on top.
    start_s: float = 85.0
    # Serve's is 0.1 s; its delays are measured in seconds, so a longer one adds no more than itself.
    control_interval_s: float = 1.0
    # One in each ingress replica (configs/prod.yaml).
    num_handles: int = 2
    sample_s: float = 10.0
    mean_answer_tokens: int = ANSWER_TOKENS
    seed: int = 0

    @property
    def replica_rate(self) -> float:
        """Requests a second that one full replica completes."""
        return self.speed.tokens_per_s(self.cap) / self.mean_answer_tokens


def initial_replicas(rate: float, policy: Policy, parameters: Parameters) -> int:
    """Returns the replicas that the policy would have at a steady `rate`: a trace does not begin cold."""
    if policy.target > parameters.cap:
        return policy.min_replicas
    running = min(parameters.cap, max(1, int(policy.target)))
    mean = parameters.mean_answer_tokens
    needed = math.ceil(rate * mean / parameters.speed.tokens_per_s(running))
    return max(policy.min_replicas, min(policy.max_replicas, needed))
