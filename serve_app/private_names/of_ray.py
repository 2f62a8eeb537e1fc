"""The private names of Ray."""

from __future__ import annotations

from functools import partial

from serve_app.private_names.name import PrivateName

ROUTING = "serve_app.routing"
STOP = "serve_app.stop"
SEALING_KEY = "serve_app.sealing_key"
SIMULATION = "benchmarks/autoscaling/autoscaler.py"

# --- the router of requests to engines -----------------------------------------------------------------

_ROUTER = partial(PrivateName, used_in=(ROUTING,), test="tests/unit/test_routing.py")
_CLASS = "ray.serve._private.request_router.request_router:RequestRouter"
_COMMON = "ray.serve._private.request_router.common"
_CALLER = "ray.serve._private.router:AsyncioRouter"
_NOT_THE_GATES = "requests do not go where the gate says"
_NOT_READY = "nobody knows which engines are ready"

_OF_THE_ROUTER = (
    _ROUTER(path=_CLASS, without_it=_NOT_THE_GATES),
    _ROUTER(
        path=f"{_CLASS}.initialize_state", looked_up_by=(f"{_CALLER}.request_router",), without_it=_NOT_READY
    ),
    _ROUTER(
        path=f"{_CLASS}.update_replicas",
        parameters=("replicas",),
        looked_up_by=(f"{_CLASS}._update_running_replicas",),
        without_it=_NOT_READY,
    ),
    _ROUTER(path=f"{_CLASS}.curr_replicas", used_in=(ROUTING, "serve_app.readiness"), without_it=_NOT_READY),
    _ROUTER(path=f"{_CLASS}._deployment_id", without_it=_NOT_READY),
    _ROUTER(
        path=f"{_CLASS}.on_replica_actor_died",
        parameters=("replica_id",),
        looked_up_by=(f"{_CALLER}._handle_actor_died_error",),
        without_it="requests go to a dead engine until Serve has noticed",
    ),
    _ROUTER(
        path=f"{_CLASS}._choose_replica_for_request",
        parameters=("pending_request", "is_retry"),
        looked_up_by=(f"{_CALLER}._route_and_send_request_once",),
        without_it=_NOT_THE_GATES,
    ),
    _ROUTER(
        path=f"{_CLASS}.choose_replicas",
        parameters=("candidate_replicas", "pending_request"),
        looked_up_by=(f"{_CLASS}._choose_replicas_with_backoff",),
        without_it=_NOT_THE_GATES,
    ),
    _ROUTER(path=f"{_COMMON}:PendingRequest.args", without_it=_NOT_THE_GATES),
    _ROUTER(path=f"{_COMMON}:PendingRequest.kwargs", without_it=_NOT_THE_GATES),
    _ROUTER(path=f"{_COMMON}:PendingRequest.metadata", without_it=_NOT_THE_GATES),
    _ROUTER(path=f"{_COMMON}:PendingRequest.routing_context", without_it=_NOT_THE_GATES),
    _ROUTER(path=f"{_COMMON}:RequestRoutingContext.should_backoff", without_it=_NOT_THE_GATES),
    _ROUTER(
        path="ray.serve._private.common:RequestMetadata.internal_request_id",
        without_it="of the choices of one request (n > 1), one is routed",
    ),
    _ROUTER(path="ray.serve._private.common:RequestMetadata.call_method", without_it=_NOT_THE_GATES),
    _ROUTER(
        path="ray.serve._private.utils:generate_request_id",
        without_it="of the choices of one request (n > 1), one is routed",
    ),
    _ROUTER(
        path="ray.serve._private.request_router.replica_wrapper:RunningReplica.replica_id",
        without_it=_NOT_THE_GATES,
    ),
)

# --- the control store, and the end of the service -----------------------------------------------------

_KEY = partial(
    PrivateName,
    used_in=(SEALING_KEY,),
    test="tests/unit/test_sealing_key.py",
    without_it="ingresses have no common key for reasoning, unless ingress.sealing_key_file names one",
)
_STOP = partial(
    PrivateName,
    used_in=(STOP,),
    test="tests/unit/test_stop.py",
    without_it="the service cannot be stopped without cutting streams (`serve shutdown` cuts them)",
)
_CONTROLLER = "ray.serve._private.client:ServeControllerClient"

_OF_THE_CLUSTER = (
    _KEY(
        path="ray.experimental.internal_kv:_internal_kv_put",
        parameters=("key", "value", "overwrite", "namespace"),
    ),
    _KEY(path="ray.experimental.internal_kv:_internal_kv_get", parameters=("key", "namespace")),
    _STOP(path="ray.serve.context:_get_global_client", used_in=(STOP, "benchmarks/chaos/probe.py")),
    _STOP(path=f"{_CONTROLLER}.delete_all_apps", parameters=("blocking",)),
    _STOP(path=f"{_CONTROLLER}.get_serve_details"),
    _STOP(path=f"{_CONTROLLER}.shutdown"),
    _STOP(
        path="ray.serve:shutdown",
        used_in=("scripts/run.py",),
        looked_up_by=("ray.serve.scripts:run.callback",),
        test="tests/app/test_the_end.py",
    ),
    _STOP(path="ray.serve.scripts:cli", used_in=("scripts/run.py",), test="tests/app/test_the_end.py"),
)

# --- Serve's autoscaling, run on a clock of its own ----------------------------------------------------

_SIMULATION = partial(
    PrivateName,
    used_in=(SIMULATION,),
    test="tests/unit/benchmarks/test_autoscaling.py",
    is_vital=False,
    is_costly=True,
    without_it="`python -m benchmarks.autoscaling` cannot be run; the service is not affected",
)
_STATE = "ray.serve._private.autoscaling_state:DeploymentAutoscalingState"
_METRICS = "ray.serve._private.router:RouterMetricsManager"

_OF_THE_SIMULATION = (
    _SIMULATION(path=_STATE),
    _SIMULATION(path=f"{_STATE}.register"),
    _SIMULATION(path=f"{_STATE}.record_request_metrics_for_handle"),
    _SIMULATION(path=f"{_STATE}.update_running_replica_ids"),
    _SIMULATION(path=f"{_STATE}.get_decision_num_replicas"),
    _SIMULATION(path=f"{_STATE}.get_last_decision_total_num_requests"),
    _SIMULATION(path=_METRICS),
    _SIMULATION(path=f"{_METRICS}._add_autoscaling_metrics_point"),
    _SIMULATION(path=f"{_METRICS}._get_metrics_report"),
    _SIMULATION(path="ray.serve._private.metrics_utils:InMemoryMetricsStore"),
    _SIMULATION(path="ray.serve._private.common:DeploymentHandleSource.REPLICA"),
    _SIMULATION(path="ray.serve._private.common:DeploymentID"),
    _SIMULATION(
        path="ray.serve._private.common:ReplicaID",
        used_in=(SIMULATION, "benchmarks/autoscaling/replica.py"),
    ),
    _SIMULATION(path="ray.serve._private.config:DeploymentConfig"),
    _SIMULATION(path="ray.serve._private.deployment_info:DeploymentInfo"),
    _SIMULATION(path="ray.serve._private.constants:RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR"),
    _SIMULATION(
        path="ray.serve._private.constants:CONTROL_LOOP_INTERVAL_S",
        used_in=("benchmarks/autoscaling/__main__.py",),
    ),
    _SIMULATION(path="ray.serve._private.autoscaling_state:time"),
    _SIMULATION(path="ray.serve._private.router:time"),
    _SIMULATION(path="ray.serve.autoscaling_policy:time"),
)

NAMES: tuple[PrivateName, ...] = (*_OF_THE_ROUTER, *_OF_THE_CLUSTER, *_OF_THE_SIMULATION)
