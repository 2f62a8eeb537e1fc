"""Serve's log: the settings with which a warning is written when it is said.

Serve's throughput settings hold a replica's records back until there are 1,000, or an error, and write none
to standard error. What they save is the access log's: 25 us of CPU a call. So that log is off here, which
saves more (7 us are left), and all else is written at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.config.fast_paths import ON, THROUGHPUT_OPTIMIZED

TO_STDERR = "RAY_SERVE_LOG_TO_STDERR"
BUFFER_SIZE = "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE"
# The environment of Serve's own processes. Without the throughput settings they are Serve's defaults.
ENVIRONMENT = {TO_STDERR: "1", BUFFER_SIZE: "1"}
# Of a deployment. A config's `deployments` may say otherwise.
LOGGING_CONFIG = {"enable_access_log": False}


def problem(environment: Mapping[str, str]) -> str | None:
    """Returns what holds the log back, in a line to log; None where nothing does.

    `environment` is that of Serve's own processes: they inherit it from the `ray start` of their node.
    """
    if environment.get(THROUGHPUT_OPTIMIZED) != ON:
        return None
    missing = [f"{name}={value}" for name, value in ENVIRONMENT.items() if environment.get(name) != value]
    if not missing:
        return None
    return (
        "warnings are held back: Serve's throughput settings write them when there are 1,000, and none to "
        f"standard error. Set {' '.join(missing)} before `ray start` on every node, as scripts/serve and "
        "cluster.yaml do"
    )
