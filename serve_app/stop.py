"""`python -m serve_app.stop`: stops the service without cutting a stream, where `serve shutdown` cuts all.

`serve shutdown` ends proxies and replicas together. Here the application goes first: its replicas take
nothing new and finish what they have, for `drain_timeout_s` at the most, while the proxies still carry it.
"""

from __future__ import annotations

import argparse
import sys
import time

import ray
from ray.serve._private.client import ServeControllerClient
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

POLL_S = 0.5
REPORT_S = 10.0


def stop() -> None:
    """Takes the service of the connected Ray cluster down; returns when it is gone."""
    try:
        client = _get_global_client()
    except RayServeException:
        say("no service is running")
        return
    assert client
    client.delete_all_apps(blocking=False)
    _wait_until_drained(client)
    client.shutdown()


def _wait_until_drained(client: ServeControllerClient) -> None:
    begin = report_at = time.monotonic()
    # An application that is being deleted lists no replicas any more, but stays until the last one has gone.
    while client.get_serve_details()["applications"]:
        if time.monotonic() >= report_at:
            say(f"open requests are being finished ({time.monotonic() - begin:.0f} s)")
            report_at += REPORT_S
        time.sleep(POLL_S)  # the controller tells nobody


def say(text: str) -> None:
    """To the person who waits."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Stop the service, and let it finish its requests first.")
    parser.add_argument(
        "--address", default="auto", help="of the Ray cluster (default: the one of this machine)"
    )
    ray.init(address=parser.parse_args().address, namespace="serve", log_to_driver=False)
    stop()


if __name__ == "__main__":
    main()
