"""The Serve options of the three deployments, as plain keyword arguments of `Deployment.options`."""

from __future__ import annotations

import math
from typing import Any

from serve_app.config import AppConfig
from serve_app.config.log_settings import LOGGING_CONFIG

# Chooses an engine replica for a request, in the process of the ingress.
ENGINE_ROUTER = "serve_app.routing:EngineRouter"

# Serve sees a dead replica at its next check; at the default of 10 s it takes 3 to 10 s (measured).
HEALTH_CHECK_PERIOD_S = 2.0
# Three checks in a row must run out of time before Serve replaces a replica that lives, so a busy event loop
# has 30 s: longer than the longest pause seen, 4 to 8 s when a new shape compiles.
HEALTH_CHECK_TIMEOUT_S = 10.0
# A replica that is being replaced looks this often whether its last request has ended.
DRAIN_POLL_S = 1.0

# Serve goes down to what the requests that run now would need. On many replicas they are few, since an engine
# with few requests answers each faster, and on fewer replicas they are more: going all the way down at once
# overloads those that are left. So half of the way at a time (docs/autoscaling.md).
DOWNSCALING_FACTOR = 0.5

# An ingress replica's own limit must never be what holds a request up: the ingress refuses in OpenAI's form,
# while a request that waits in the proxy's queue gets no answer. An open request costs a coroutine, and a
# replica saturates on streamed tokens (20,000/s, some 350 streams) long before. So: twice what all engines
# can run and the gate may let wait, at least 1,000, and that in every replica, since a balancer may send
# everything to one.
INGRESS_SHARE_OF_OPEN = 2
MIN_INGRESS_ONGOING_REQUESTS = 1000
# In an update, new replicas of ingress and gate are there before old ones go.
NEW_BEFORE_OLD = 100
# What Ray reserves. The gate handles three small messages a request.
GATE_CPUS = 0.1
# Ray's label of a node with a GPU; the value is its accelerator type.
ACCELERATOR_LABEL = "ray.io/accelerator-type"


def engine_options(config: AppConfig) -> dict[str, Any]:
    """Returns the options of the engine deployment: one replica is one vLLM engine."""
    engine = config.engine
    actor: dict[str, Any] = {"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus}
    if engine.num_gpus and engine.accelerator_type:
        actor["accelerator_type"] = engine.accelerator_type
    if engine.environment:
        actor["runtime_env"] = {"env_vars": dict(engine.environment)}
    options = {
        "max_ongoing_requests": engine.max_concurrent_requests,
        "max_surge_percent": config.engine.max_surge_percent,
        "request_router_config": {"request_router_class": ENGINE_ROUTER},
        "ray_actor_options": actor,
    }
    return options | _num_replicas(config) | _common(config)


def ingress_options(config: AppConfig) -> dict[str, Any]:
    """Returns the options of the ingress deployment: the API, on CPU cores."""
    num_open = config.engine.max_replicas * config.engine.max_concurrent_requests + config.max_queued_requests
    options = {
        "num_replicas": config.ingress.replicas,
        "max_ongoing_requests": max(MIN_INGRESS_ONGOING_REQUESTS, INGRESS_SHARE_OF_OPEN * num_open),
        "max_surge_percent": NEW_BEFORE_OLD,
        "ray_actor_options": _off_the_gpu_nodes(config, config.ingress.num_cpus),
    }
    return options | _common(config)


def gate_options(config: AppConfig) -> dict[str, Any]:
    """Returns the options of the gate: one replica, which is asked for its address and then left alone."""
    options = {
        "num_replicas": 1,
        "max_surge_percent": NEW_BEFORE_OLD,
        "ray_actor_options": _off_the_gpu_nodes(config, GATE_CPUS),
    }
    return options | _common(config)


def _off_the_gpu_nodes(config: AppConfig, num_cpus: float) -> dict[str, Any]:
    engine = config.engine
    actor: dict[str, Any] = {"num_cpus": num_cpus}
    if engine.num_gpus and engine.accelerator_type:
        # Serve spreads replicas over all nodes, and a node with an ingress is never idle: its GPU would not
        # be given back. On a node with a GPU only where no other has room, as on a single machine.
        actor["label_selector"] = {ACCELERATOR_LABEL: f"!{engine.accelerator_type}"}
        actor["fallback_strategy"] = [{"label_selector": {}}]
    return actor


def _num_replicas(config: AppConfig) -> dict[str, Any]:
    engine = config.engine
    if engine.min_replicas == engine.max_replicas:
        return {"num_replicas": engine.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": engine.min_replicas,
            "max_replicas": engine.max_replicas,
            "target_ongoing_requests": max(
                1, math.floor(engine.target_share * engine.max_concurrent_requests)
            ),
            "upscale_delay_s": engine.upscale_delay_s,
            "downscale_delay_s": engine.downscale_delay_s,
            "downscaling_factor": DOWNSCALING_FACTOR,
        }
    }


def _common(config: AppConfig) -> dict[str, Any]:
    return {
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        "graceful_shutdown_timeout_s": config.drain_limit_s,
        "graceful_shutdown_wait_loop_s": DRAIN_POLL_S,
        "logging_config": dict(LOGGING_CONFIG),
    }
