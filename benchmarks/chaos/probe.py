"""What the service says of itself, asked from a process beside it that is in its cluster.

    python -m benchmarks.chaos.probe ADDRESS

Answers each line of its input, a number and what is asked, with a line of JSON. A process of its own, since
Ray may take one down that holds results of a replica that has died.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client

APP = "gpt-oss"
TIMEOUT_S = 20.0


def replicas() -> dict[str, list[dict[str, Any]]]:
    """State and process id of each replica, by deployment."""
    client = _get_global_client()
    assert client
    [application] = client.get_serve_details()["applications"].values()
    return {
        name: [
            {"state": str(getattr(one["state"], "value", one["state"])), "pid": one.get("pid")}
            for one in details["replicas"]
        ]
        for name, details in application["deployments"].items()
    }


def open_work(engine: str) -> dict[str, Any]:
    """What gate, engines and ingresses have open."""
    gate = serve.get_deployment_handle("Gate", APP).load.remote().result(timeout_s=TIMEOUT_S)
    engines = serve.get_deployment_handle(engine, APP).broadcast("num_unfinished_requests")
    ingresses = serve.get_deployment_handle("Ingress", APP).broadcast("open_work")
    return {
        "gate": list(gate),
        "engines": list(engines.results(timeout_s=TIMEOUT_S)),
        "ingresses": list(ingresses.results(timeout_s=TIMEOUT_S)),
    }


def load() -> list[int]:
    """How many sequences run and wait, as the gate has it."""
    return list(serve.get_deployment_handle("Gate", APP).load.remote().result(timeout_s=TIMEOUT_S))


def main() -> None:
    """Command line."""
    # Ray writes to standard output too, of nodes that die for one.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
    engine = next(name for name in replicas() if name not in ("Ingress", "Gate"))
    for line in sys.stdin:
        number, _, what = line.strip().partition(" ")
        try:
            if what == "replicas":
                answer: Any = replicas()
            else:
                answer = load() if what == "load" else open_work(engine)
            print(json.dumps({"number": int(number), "answer": answer}), file=answers, flush=True)
        except Exception as error:  # whatever Ray has to say of a service that is broken
            words = f"{type(error).__name__}: {error}"[:500]
            print(json.dumps({"number": int(number), "error": words}), file=answers, flush=True)


if __name__ == "__main__":
    main()
