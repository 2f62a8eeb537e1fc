"""Makes sure that a config's HTTP port is free before anything starts; writes the config with another port.

    python scripts/listen.py CONFIG [--port N --out FILE]

Prints the path of the config to run: CONFIG itself, or FILE when the port was changed.
"""

import argparse
import contextlib
import pathlib
import socket
import sys
from typing import Any

import psutil
import yaml

SERVE_DEFAULT_PORT = 8000


def holder(port: int) -> str:
    """Who listens on the port, in words; other users' processes cannot be seen without being root."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                with contextlib.suppress(psutil.Error):
                    return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now; connections that linger after a stop do not count."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def main() -> int:
    """Return the exit status; a taken port is 1."""
    parser = argparse.ArgumentParser(description="Check the port that a config listens on.")
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    config: dict[str, Any] = yaml.safe_load(arguments.config.read_text())
    options: dict[str, Any] = config.setdefault("http_options", {})
    # Serve takes it in quotes, too.
    port = int(arguments.port or options.get("port", SERVE_DEFAULT_PORT))
    if not is_free(options.get("host", "127.0.0.1"), port):
        print(
            f"port {port} is taken by {holder(port)}: stop it, or choose another with --port", file=sys.stderr
        )
        return 1
    path = arguments.config
    if arguments.port is not None and arguments.out is not None:
        options["port"] = port
        arguments.out.write_text(yaml.safe_dump(config, sort_keys=False))
        path = arguments.out
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
