"""What ends a replica whose event loop stands still for good: `Watchdog`, and the process beside it."""

from serve_app.watchdog.watchdog import Watchdog

__all__ = ["Watchdog"]
