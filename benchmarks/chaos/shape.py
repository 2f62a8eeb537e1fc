"""How large the service under drill is, and its config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serve_app.demo import MODEL_NAME

ROOT = Path(__file__).parents[2]
TIMED, VLLM = "timed", "vllm"
# What Ray reserves.
NUM_CPUS = 0.2
DRAIN_TIMEOUT_S = 100


@dataclass(frozen=True)
class Shape:
    """How large a service is. Slots are many enough for all clients on all engines but one."""

    engines: int
    ingresses: int
    slots: int
    steps_per_second: float = 20.0
    stall_timeout_s: float = 5.0
    # An ingress takes 20 s to start on two idle cores; a node, and what runs on it, three times that. So does
    # an engine, and longer beside those that go on.
    recovery_timeout_s: float = 150.0


SHAPES = {TIMED: Shape(3, 2, 64), VLLM: Shape(2, 2, 16, stall_timeout_s=20.0, recovery_timeout_s=420.0)}


@dataclass(frozen=True)
class Staging:
    """Where nodes have the model from, and the folder that they stage it into."""

    source: str
    revision: str
    folder: Path


def serve_config(engines: str, shape: Shape, port: int, staging: Staging | None) -> dict[str, Any]:
    """Returns configs/timed.yaml or configs/local.yaml, of this shape; its own source without `staging`."""
    name = "timed.yaml" if engines == TIMED else "local.yaml"
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    # Each node has another address.
    config["http_options"] = {"host": "0.0.0.0", "port": port}
    arguments = config["applications"][0]["args"]
    arguments["engine"] |= {
        "max_concurrent_requests": shape.slots,
        "min_replicas": shape.engines,
        "max_replicas": shape.engines,
        "stall_timeout_s": shape.stall_timeout_s,
        "num_cpus": NUM_CPUS,
    }
    if engines == TIMED:
        arguments["engine"]["timed"] = {"steps_per_second": shape.steps_per_second}
    arguments["ingress"] = {"replicas": shape.ingresses, "num_cpus": NUM_CPUS}
    # No longer than HAProxy keeps streams by default, and longer than any answer takes.
    arguments["drain_timeout_s"] = DRAIN_TIMEOUT_S
    if staging:
        source = {"source": staging.source, "revision": staging.revision}
        arguments["model"] = {"id": MODEL_NAME} | source
        arguments["staging"] = {"folder": str(staging.folder)}
    return config
