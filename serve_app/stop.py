"""`python -m serve_app.stop`: stops the service without cutting a stream, where `serve shutdown` cuts all.

`serve shutdown` ends proxies and replicas together. Here the application goes first: its replicas take
nothing new and finish what they have, for `drain_timeout_s` at the most, while the proxies still carry it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from serve_app import private_names

POLL_S = 0.5
REPORT_S = 10.0
INTERRUPTED = 130


class Controller(Protocol):
    """What is asked of Serve's controller, by the names of Ray's client of it."""

    def delete_all_apps(self, blocking: bool) -> None:
        """Has the applications end, each when its replicas have drained."""

    def get_serve_details(self) -> Mapping[str, Any]:
        """What runs. An application that ends lists no replicas, but stays until the last one has gone."""

    def shutdown(self) -> None:
        """Ends what is left of Serve; returns when it has."""


class Clock:
    """The time, and waiting. Tests have another."""

    def now(self) -> float:
        """Returns seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


def stop() -> None:
    """Takes the service of the connected Ray cluster down; returns when it is gone."""
    controller = connected_controller()
    if controller is None:
        say("no service is running")
    else:
        take_down(controller, Clock(), say)


def connected_controller() -> Controller | None:
    """Returns the controller of the connected Ray cluster, or None where Serve does not run."""
    private_names.check("serve_app.stop")  # not `__name__`, which may be `__main__`
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    try:
        return _get_global_client()
    except RayServeException:
        return None


def take_down(controller: Controller, clock: Clock, report: Callable[[str], None]) -> None:
    """Ends the application, waits until its replicas have drained, then ends Serve.

    How long a replica may drain is Serve's to enforce (`drain_timeout_s`).
    """
    controller.delete_all_apps(blocking=False)
    begin = report_at = clock.now()
    while controller.get_serve_details()["applications"]:
        if clock.now() >= report_at:
            report(f"open requests are being finished ({clock.now() - begin:.0f} s)")
            report_at += REPORT_S
        clock.sleep(POLL_S)  # the controller tells nobody
    controller.shutdown()


def say(text: str) -> None:
    """To the person who waits."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def connect(address: str) -> None:
    """Connects this process to a Ray cluster. Raises `ConnectionError` where there is none."""
    import ray

    ray.init(address=address, namespace="serve", log_to_driver=False)


def main(
    arguments: list[str] | None = None,
    connect: Callable[[str], None] = connect,
    stop: Callable[[], None] = stop,
) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Stop the service, and let it finish its requests first.")
    parser.add_argument(
        "--address", default="auto", help="of the Ray cluster (default: the one of this machine)"
    )
    address = parser.parse_args(arguments).address
    try:
        connect(address)
    except ConnectionError as error:
        say(f"there is no Ray cluster to connect to (--address {address}): {error}")
        return 1
    try:
        stop()
    except KeyboardInterrupt:
        say(
            "interrupted: the application still ends when its open requests have; run this again for the rest"
        )
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
