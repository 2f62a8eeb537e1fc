"""A folder that is there whole or not at all, whoever else makes it at the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

MARK = ".made-from"


def place(folder: Path, mark: str, write: Callable[[Path], None]) -> bool:
    """Fills `folder` by `write`, unless it holds `mark`: what it was made from. True if it was written.

    Everything is written beside its place and renamed there: another process sees all of it or nothing.
    """
    if (folder / MARK).is_file() and (folder / MARK).read_text() == mark:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch, "new")
        made.mkdir()
        write(made)
        (made / MARK).write_text(mark)
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster; what it placed is as good.
            if not (folder / MARK).is_file():
                raise
    return True
