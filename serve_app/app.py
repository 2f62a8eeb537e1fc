"""`serve_app.app:build`, the import path of the Serve application: config in, application out."""

# No `from __future__ import annotations`: Serve reads the annotation of `build`'s argument as a class.
import logging
import os
from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from serve_app import private_names
from serve_app.config import AppConfig, check_overrides, fast_paths, hard_stop, log_settings
from serve_app.deployment_options import engine_options, gate_options, ingress_options
from serve_app.engine import Engine
from serve_app.engine_arguments import engine_arguments
from serve_app.gate import Gate
from serve_app.harmony.installation import check_installation, installed_versions
from serve_app.ingress import Ingress
from serve_app.timed.engine import TimedEngine

logger = logging.getLogger("ray.serve")


def build(args: AppConfig) -> Application:
    """Returns the ingress bound to engine and gate.

    Raises `ConfigError`, `HarmonyInstallationError` and `PrivateNameError`, all before any actor is started.
    """
    application = checked_application(args)
    # `serve run CONFIG` and `serve deploy` both build in a Ray task, whose environment is that of its node's
    # `ray start`: the one that Serve's controller, proxies and replicas read the switches from.
    for path in fast_paths.missing(args, os.environ):
        logger.warning("%s", path)
    if problem := log_settings.problem(os.environ):
        logger.warning("%s", problem)
    return application


def checked_application(args: AppConfig) -> Application:
    """Returns what `build` does, and raises what it does, without a word in the log."""
    # Serve imports the router by its name, and what goes wrong then is said by nobody.
    private_names.check("serve_app.routing")
    check_installation(installed_versions())
    hard_stop.check(args, os.environ)
    if args.engine.engine_overrides:
        from serve_app.vllm_adapter import argument_names, argument_problems

        # Where the checkpoints will be is for each node to say.
        arguments = engine_arguments(args, "", "" if args.speculator is None else "/")
        check_overrides(
            args,
            argument_names(),
            lambda names: argument_problems({name: arguments[name] for name in names}),
        )
    engine = _deployment(TimedEngine if args.engine.timed else Engine, engine_options(args))
    engines = engine.bind(args)
    gate = _deployment(Gate, gate_options(args)).bind(args, engines)
    ingress: Application = _deployment(serve.ingress()(Ingress), ingress_options(args)).bind(
        args, engines, gate
    )
    return ingress


def _deployment(cls: type, options: dict[str, Any]) -> Deployment:
    deployment: Deployment = serve.deployment(**options)(cls)
    return deployment
