"""The starts of engine replicas that all nodes of a Ray cluster remember."""

from __future__ import annotations

import logging
import sys

from serve_app.staging import report
from serve_app.staging.errors import StagingError
from serve_app.staging.starts import Start

# A node that does not answer for so long is left out.
NODE_TIMEOUT_S = 30.0


def of_all_nodes(folder: str) -> list[Start]:
    """Returns the starts of all nodes of the running Ray cluster, the oldest first; each expands `folder`.

    Nodes that do not answer are named on standard error. Raises `StagingError` where no cluster runs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise StagingError(f"no Ray cluster runs on this machine ({error}); set RAY_ADDRESS") from error
    read = ray.remote(num_cpus=0)(report.of_node)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    answers = [
        read.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            folder
        )
        for node in nodes
    ]
    found: dict[tuple[str, float], Start] = {}
    for node, answer in zip(nodes, answers, strict=True):
        try:
            for start in ray.get(answer, timeout=NODE_TIMEOUT_S):
                # Once, where nodes share the folder.
                found[start.replica, start.started_at] = start
        except ray.exceptions.RayError as error:
            sys.stderr.write(f"{node['NodeManagerHostname']}: {str(error).splitlines()[0]}\n")
    ray.shutdown()
    return sorted(found.values(), key=lambda start: start.started_at)
