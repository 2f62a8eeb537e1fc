"""`serve_app.app:build`, the import path of the Serve application: config in, application out."""

# No `from __future__ import annotations`: Serve reads the annotation of `build`'s argument as a class.
import logging
import os
from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from serve_app import fast_paths
from serve_app.config import AppConfig, check_overrides
from serve_app.deployment_options import engine_options, ingress_options
from serve_app.engine import Engine
from serve_app.ingress import Ingress
from serve_app.timed_engine import TimedEngine

logger = logging.getLogger("ray.serve")


def build(args: AppConfig) -> Application:
    """Returns the ingress bound to the engine. Raises `ConfigError` before any actor is started."""
    if args.engine.engine_overrides:
        from serve_app.vllm_adapter import argument_names

        check_overrides(args, argument_names())
    # `serve run CONFIG` and `serve deploy` both build in a Ray task, whose environment is that of its node's
    # `ray start`: the one that Serve's controller, proxies and replicas read the switches from.
    for path in fast_paths.missing(args, os.environ):
        logger.warning("%s", path)
    engine = _deployment(TimedEngine if args.engine.timed else Engine, engine_options(args))
    ingress = _deployment(serve.ingress()(Ingress), ingress_options(args))
    return ingress.bind(args, engine.bind(args))


def _deployment(cls: type, options: dict[str, Any]) -> Deployment:
    deployment: Deployment = serve.deployment(**options)(cls)
    return deployment
