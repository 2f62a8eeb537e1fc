import gc
from collections.abc import Collection
from typing import Any

import pytest

from serve_app import readiness
from serve_app.readiness import changed, died, ready_replicas, register, watch


class ReplicaID:
    """What is read of Serve's."""

    def __init__(self, unique_id: str) -> None:
        self.unique_id = unique_id


class Router:
    """What readiness reads of Serve's router."""

    def __init__(self, *replicas: str) -> None:
        self.curr_replicas: dict[Any, None] = {}
        self.add(*replicas)

    def add(self, *replicas: str) -> None:
        self.curr_replicas |= {ReplicaID(replica): None for replica in replicas}

    def remove(self, replica: str) -> None:
        self.curr_replicas = {known: None for known in self.curr_replicas if known.unique_id != replica}


@pytest.fixture(autouse=True)
def _empty_registry() -> None:
    readiness._routers.clear()
    readiness._listeners.clear()


def ready(app: str = "app", deployment: str = "Engine") -> list[str]:
    return list(ready_replicas(app, deployment))


def test_nothing_is_ready_of_a_deployment_that_nobody_routes_to() -> None:
    assert ready() == []


def test_the_list_follows_the_router() -> None:
    router = Router()
    register("app", "Engine", router)
    assert ready() == []
    router.add("a", "b")
    assert ready() == ["a", "b"]
    router.remove("a")  # as Serve's own router does: it replaces the mapping
    assert ready() == ["b"]


def test_deployments_are_told_apart_by_both_names() -> None:
    engine, other = Router("a"), Router("b", "c")
    register("app", "Engine", engine)
    register("other", "Engine", other)
    assert ready() == ["a"]
    assert ready("other") == ["b", "c"]
    assert ready("app", "Ingress") == []


def test_the_last_router_of_a_deployment_answers() -> None:
    old, new = Router("a", "b", "c"), Router("d")
    register("app", "Engine", old)
    register("app", "Engine", new)
    assert ready() == ["d"]
    del old
    gc.collect()
    assert ready() == ["d"]


def test_a_router_that_is_gone_is_forgotten() -> None:
    router = Router("a")
    register("app", "Engine", router)
    assert ready() == ["a"]
    del router
    gc.collect()
    assert ready() == []
    assert len(readiness._routers) == 0


# --- watching ------------------------------------------------------------------------------------------


class Watcher:
    """What one who watches has been told, in order."""

    def __init__(self) -> None:
        self.told: list[list[str] | str] = []

    def on_change(self, replicas: Collection[str]) -> None:
        self.told.append(list(replicas))

    def on_death(self, replica: str) -> None:
        self.told.append(replica)


def test_who_watches_is_told_at_once_and_of_every_change() -> None:
    watcher, router = Watcher(), Router("a")
    register("app", "Engine", router)
    watch("app", "Engine", watcher.on_change)
    router.add("b")
    changed("app", "Engine")
    router.remove("a")
    changed("app", "Engine")
    assert watcher.told == [["a"], ["a", "b"], ["b"]]


def test_one_may_watch_before_there_is_a_router() -> None:
    watcher, router = Watcher(), Router()
    watch("app", "Engine", watcher.on_change)
    register("app", "Engine", router)
    router.add("a")
    changed("app", "Engine")
    assert watcher.told == [[], ["a"]]


def test_a_death_is_told_before_the_change_that_it_is() -> None:
    watcher, router = Watcher(), Router("a", "b")
    register("app", "Engine", router)
    watch("app", "Engine", watcher.on_change, watcher.on_death)
    router.remove("a")
    died("app", "Engine", "a")
    assert watcher.told == [["a", "b"], "a", ["b"]]


def test_who_does_not_ask_for_deaths_is_told_of_the_change() -> None:
    watcher, router = Watcher(), Router("a")
    register("app", "Engine", router)
    watch("app", "Engine", watcher.on_change)
    router.remove("a")
    died("app", "Engine", "a")
    assert watcher.told == [["a"], []]


def test_only_the_deployment_that_is_watched_is_told_of() -> None:
    watcher, router = Watcher(), Router("a")
    register("app", "Engine", router)
    watch("app", "Engine", watcher.on_change, watcher.on_death)
    for app, deployment in (("other", "Engine"), ("app", "Ingress")):
        changed(app, deployment)
        died(app, deployment, "a")
    assert watcher.told == [["a"]]
