import gc

import pytest

from serve_app import readiness
from serve_app.readiness import num_ready_replicas, register


class Router:
    """What readiness reads of Serve's router."""

    def __init__(self, *replicas: str) -> None:
        self.curr_replicas = dict.fromkeys(replicas)


@pytest.fixture(autouse=True)
def _empty_registry() -> None:
    readiness._routers.clear()


def test_nothing_is_ready_of_a_deployment_that_nobody_routes_to() -> None:
    assert num_ready_replicas("app", "Engine") == 0


def test_the_count_follows_the_router() -> None:
    router = Router()
    register("app", "Engine", router)
    assert num_ready_replicas("app", "Engine") == 0
    router.curr_replicas["a"] = None
    router.curr_replicas["b"] = None
    assert num_ready_replicas("app", "Engine") == 2
    del router.curr_replicas["a"]
    assert num_ready_replicas("app", "Engine") == 1
    router.curr_replicas = {}  # Serve's own router replaces the mapping
    assert num_ready_replicas("app", "Engine") == 0


def test_deployments_are_told_apart_by_both_names() -> None:
    engine, other = Router("a"), Router("a", "b")
    register("app", "Engine", engine)
    register("other", "Engine", other)
    assert num_ready_replicas("app", "Engine") == 1
    assert num_ready_replicas("other", "Engine") == 2
    assert num_ready_replicas("app", "Ingress") == 0


def test_the_last_router_of_a_deployment_answers() -> None:
    old, new = Router("a", "b", "c"), Router("d")
    register("app", "Engine", old)
    register("app", "Engine", new)
    assert num_ready_replicas("app", "Engine") == 1
    del old
    gc.collect()
    assert num_ready_replicas("app", "Engine") == 1


def test_a_router_that_is_gone_is_forgotten() -> None:
    router = Router("a")
    register("app", "Engine", router)
    assert num_ready_replicas("app", "Engine") == 1
    del router
    gc.collect()
    assert num_ready_replicas("app", "Engine") == 0
    assert len(readiness._routers) == 0
