"""HAProxy's hard stop: how long it keeps open streams when its list of ingress replicas changes.

Serve reloads HAProxy whenever an ingress replica comes or goes. The former process keeps the streams that it
has until the hard stop, which ends them. So it must not come before replicas have drained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from serve_app.config.errors import ConfigError
from serve_app.config.fast_paths import HA_PROXY, ON
from serve_app.config.tree import AppConfig

HARD_STOP = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"
DEFAULT_S = 120


def needed_s(config: AppConfig) -> int:
    """Returns the least that lets replicas drain, in whole seconds, as Serve reads it."""
    return math.ceil(config.drain_limit_s)


def check(config: AppConfig, environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` where HAProxy is on and would end streams that replicas are still to finish.

    `environment` is that of Serve's own processes: they inherit it from the `ray start` of their node.
    """
    if environment.get(HA_PROXY) != ON:
        return
    text = environment.get(HARD_STOP, str(DEFAULT_S))
    try:
        hard_stop_s = int(text)
    except ValueError:
        raise ConfigError(f"{HARD_STOP} is {text!r} and must be whole seconds") from None
    if hard_stop_s < needed_s(config):
        unset = "" if HARD_STOP in environment else " by default"
        raise ConfigError(
            f"drain_timeout_s: replicas may finish their requests for {needed_s(config)} s, and HAProxy ends "
            f"open streams after {hard_stop_s} s{unset}: set {HARD_STOP}={needed_s(config)} before "
            "`ray start` on every node, or a shorter drain_timeout_s"
        )
