"""`serve run CONFIG` in the foreground, whose end waits for open streams: Ctrl-C drains the service first.

python scripts/run.py CONFIG
"""

import signal
import sys

from ray import serve
from ray.serve.scripts import cli

from serve_app.stop import stop

if __name__ == "__main__":
    # A background process may have been told to ignore it, by its shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What `serve run` calls when it is interrupted.
    serve.shutdown = stop
    cli(["run", *sys.argv[1:]])
