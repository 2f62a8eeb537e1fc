"""The service in virtual time: arrivals, a bounded queue, replicas that start, generate and drain."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from benchmarks.autoscaling.autoscaler import Autoscaler, Clock, serve_reads
from benchmarks.autoscaling.fleet import Fleet
from benchmarks.autoscaling.parameters import Parameters, initial_replicas
from benchmarks.autoscaling.policies import Policy
from benchmarks.autoscaling.replica import Phase, Replica
from benchmarks.autoscaling.run import Run, Sample
from benchmarks.autoscaling.traces import Trace


class Service:
    """One trace under one policy. `run` may be called once."""

    def __init__(self, trace: Trace, policy: Policy, parameters: Parameters) -> None:
        self.trace, self.policy, self.parameters = trace, policy, parameters
        self.clock = Clock()
        self.autoscaler = Autoscaler(policy.autoscaling_config(), parameters.num_handles)
        self.queue: deque[int] = deque()
        self.target = initial_replicas(trace.initial_rate, policy, parameters)
        self.result = Run(trace, policy, parameters)
        self._next = 0
        # When there last were no replicas to serve anybody; deadlines count from then on.
        self._held_until_s = -math.inf
        number = len(trace.arrivals_s)
        # Serve asks two replicas at random and takes the one with fewer requests.
        generator = np.random.default_rng(parameters.seed)
        self._draws: list[tuple[float, float]] = list(
            zip(*generator.random((2, number)).tolist(), strict=True)
        )
        self.fleet = Fleet(parameters, self.target, self._give_back)
        self._become_ready(0.0)

    def run(self) -> Run:
        """Plays the trace, then waits until every request has been served or refused."""
        interval_s = self.parameters.control_interval_s
        with serve_reads(self.clock):
            tick = 0
            while True:
                now_s = tick * interval_s
                self._play_until(now_s)
                if now_s >= self.trace.duration_s and not self.queue and not self.fleet.num_running:
                    break
                self._control(tick, now_s)
                tick += 1
        for replica in self.fleet.replicas:
            self._give_back(replica, math.inf)
        return self.result

    def _play_until(self, end_s: float) -> None:
        """Everything that happens by `end_s` except what the controller does, in order."""
        arrivals, deadline_s = self.trace.arrivals_s, self.parameters.deadline_s
        replicas = self.fleet.replicas
        while True:
            replica, done_s = None, math.inf
            for one in replicas:
                if one.done_s < done_s:
                    replica, done_s = one, one.done_s
            arrival_s = arrivals[self._next] if self._next < len(arrivals) else math.inf
            expiry_s = math.inf
            if self.queue and (self.policy.min_replicas or self.fleet.ready):
                expiry_s = max(arrivals[self.queue[0]], self._held_until_s) + deadline_s
            now_s = min(done_s, arrival_s, expiry_s)
            if now_s > end_s:
                return
            self.clock.now_s = now_s
            if replica and now_s == done_s:
                self._finish(replica, now_s)
            elif now_s == expiry_s:
                self.result.refuse(self.queue.popleft(), now_s, "deadline")
            else:
                self._arrive(self._next, now_s)
                self._next += 1

    def _arrive(self, request: int, now_s: float) -> None:
        if replica := self._choose(request):
            self._start(replica, request, now_s)
        elif len(self.queue) < self.parameters.queue:
            self.queue.append(request)
            if not self.fleet.ready:
                # RouterMetricsManager.wrap_queued_request: with no replica, handles report at once.
                handle = request % self.parameters.num_handles
                self._count(handle)
                self.autoscaler.push(handle)
        else:
            self.result.refuse(request, now_s, "full")

    def _choose(self, request: int) -> Replica | None:
        ready = self.fleet.ready
        if len(ready) > 1:
            first, second = self._draws[request]
            one = int(first * len(ready))
            other = (one + 1 + int(second * (len(ready) - 1))) % len(ready)
            best = min(ready[one], ready[other], key=_running)
            if best.running < self.parameters.cap:
                return best
        # Both are full, so Serve goes on to others.
        best_of_all = min(ready, key=_running, default=None)
        return best_of_all if best_of_all and best_of_all.running < self.parameters.cap else None

    def _start(self, replica: Replica, request: int, now_s: float) -> None:
        replica.start(
            now_s, request, self.trace.answer_tokens[request], request % self.parameters.num_handles
        )
        self.result.start(request, now_s)

    def _finish(self, replica: Replica, now_s: float) -> None:
        request = replica.finish()
        replica.by_handle[request % self.parameters.num_handles] -= 1
        self.result.finish(request, now_s)
        if replica.phase is Phase.READY:
            self._fill(replica, now_s)
        self.fleet.remove_if_drained(replica, now_s)

    def _fill(self, replica: Replica, now_s: float) -> None:
        while self.queue and replica.running < self.parameters.cap:
            self._start(replica, self.queue.popleft(), now_s)

    def _control(self, tick: int, now_s: float) -> None:
        """What handles and controller do at their intervals."""
        self.clock.now_s = now_s
        self._become_ready(now_s)
        interval_s, autoscaler = self.parameters.control_interval_s, self.autoscaler
        for handle in range(self.parameters.num_handles):
            # They have not started in the same moment.
            offset = tick + round(handle * autoscaler.push_interval_s / 2 / interval_s)
            is_recorded = offset % round(autoscaler.record_interval_s / interval_s) == 0
            is_pushed = offset % round(autoscaler.push_interval_s / interval_s) == 0
            if is_recorded or is_pushed:
                self._count(handle)
            if is_recorded:
                autoscaler.record(handle)
            if is_pushed:
                autoscaler.push(handle)
        if now_s < self.trace.duration_s:
            target = autoscaler.decide([replica.id for replica in self.fleet.ready], self.target)
            if target != self.target:
                self.result.scale(now_s, self.target, target)
                self.target = target
                self.fleet.reach(target, now_s)
            if tick % round(self.parameters.sample_s / interval_s) == 0:
                self._sample(now_s)

    def _count(self, handle: int) -> None:
        num_handles = self.parameters.num_handles
        queued = sum(request % num_handles == handle for request in self.queue)
        running = {
            replica.id: replica.by_handle[handle]
            for replica in self.fleet.replicas
            if replica.phase is not Phase.STARTING
        }
        self.autoscaler.handles[handle].count(queued, running)

    def _become_ready(self, now_s: float) -> None:
        was_none_ready = not self.fleet.ready
        started = self.fleet.become_ready(now_s)
        if started and was_none_ready:
            self._held_until_s = now_s
        for replica in started:
            self._fill(replica, now_s)

    def _give_back(self, replica: Replica, now_s: float) -> None:
        self.result.add_replica(replica.created_s, now_s)

    def _sample(self, now_s: float) -> None:
        sample = Sample(
            now_s,
            self.fleet.count(Phase.READY),
            self.fleet.count(Phase.STARTING),
            self.fleet.count(Phase.DRAINING),
            len(self.queue),
            self.fleet.num_running,
            self.autoscaler.total_requests(),
        )
        self.result.samples.append(sample)


def _running(replica: Replica) -> int:
    return replica.running
