"""A Serve config file as Serve reads it, and what of it this application cannot work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from serve_app.config import AppConfig
from serve_app.deployment_options import engine_options, gate_options, ingress_options


def problems(document: Any, name: str, config: AppConfig) -> list[str]:
    """Returns a line for each key outside `args` that Serve refuses, or that would leave the API unreachable.

    `name` is the import path of our application in `document`, and `config` its `args`.
    """
    try:
        ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: {_shown(item)}"
            for item in error.errors(include_url=False)
        ]
    [ours] = [each for each in document["applications"] if each.get("import_path") == name]
    return [*_unreachable(document, ours), *_contradicted(ours.get("deployments") or [], config)]


def _shown(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    return message if isinstance(item["input"], Mapping | list) else f"{item['input']!r}: {message}"


def _unreachable(document: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """What would leave a service that nobody reaches; Serve's schema lets it pass."""
    if document.get("proxy_location") == "Disabled":
        yield "proxy_location: Disabled: without a proxy nobody reaches the API; HeadOnly or EveryNode"
    prefix = ours.get("route_prefix", "/")
    if prefix is None:
        yield "route_prefix: null: the API would have no path; leave it out for /"
    elif not prefix.startswith("/") or (prefix.endswith("/") and prefix != "/") or {*prefix} & {"{", "}"}:
        yield f"route_prefix: {prefix!r}: must be /, or begin with / and not end with one, without braces"


def _contradicted(deployments: list[Mapping[str, Any]], config: AppConfig) -> Iterator[str]:
    """What would set a number apart from those that follow from `args` with it."""
    engine = "TimedEngine" if config.engine.timed else "Engine"
    options = {
        engine: engine_options(config),
        "Gate": gate_options(config),
        "Ingress": ingress_options(config),
    }
    # Serve's settings of one replica's log are anybody's choice.
    for known in options.values():
        known.pop("logging_config", None)
    for deployment in deployments:
        name = deployment["name"]
        if name not in options:
            yield f"deployments: {name}: there is no such deployment; there are {', '.join(options)}"
            continue
        for key in {**dict.fromkeys(("num_replicas", "autoscaling_config", "user_config")), **options[name]}:
            if key in deployment:
                yield f"deployments.{name}.{key}: follows from args; leave it out, and set the keys of args"
