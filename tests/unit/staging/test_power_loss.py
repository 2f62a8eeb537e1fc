"""What is on disk when, as the system calls of a download tell it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.staging.versions import RANGE_BYTES, Version, assert_complete

PROGRAM = """
import sys
from pathlib import Path
from serve_app.staging.objects import S3Location
from serve_app.staging.store import Store
store = Store(Path(sys.argv[1]), range_bytes=int(sys.argv[2]), concurrency=4)
print(store.stage(S3Location.parse(sys.argv[3])).path)
"""
# As strace writes it: the call, its arguments, and what it returned if it did not fail.
CALL = re.compile(r"(\w+)\((.*)\) += (\d+).*")


def system_calls(version: Version, folder: Path, trace: Path) -> list[tuple[str, str]]:
    """Name and arguments of what a process does to files while it stages the version."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    # -y shows the paths of open files.
    options = ["-f", "-y", "--seccomp-bpf", "-e", "trace=pwrite64,write,fsync,rename,renameat,renameat2"]
    command = [sys.executable, "-c", PROGRAM, str(folder), str(RANGE_BYTES), version.location.uri()]
    done = subprocess.run(
        [strace, *options, "-o", str(trace), *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    if "ptrace" in done.stderr.lower() and done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / version.folder_name)
    lines = trace.read_text().splitlines()
    # A call that another thread interrupts in the log counts where it ends.
    unfinished: dict[str, str] = {}
    calls = []
    for line in lines:
        number, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            unfinished[number] = rest.removesuffix("<unfinished ...>")
            continue
        if " resumed>" in rest:
            rest = unfinished.pop(number) + rest.partition(" resumed>")[2]
        if match := CALL.fullmatch(rest.strip()):
            calls.append((match[1], match[2]))
    return calls


def test_everything_is_on_disk_before_the_folder_gets_its_name(version: Version, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    calls = system_calls(version, folder, tmp_path / "trace")
    assert_complete(folder / version.folder_name, version)
    files = folder / ".partial" / version.manifest.digest[:16] / "files"
    [rename] = [
        number
        for number, (name, arguments) in enumerate(calls)
        if name.startswith("rename") and str(files) in arguments
    ]

    def places(names: tuple[str, ...], path: Path) -> list[int]:
        return [
            number
            for number, (name, arguments) in enumerate(calls)
            if name in names and arguments.partition(",")[0].rstrip().endswith(f"<{path}>")
        ]

    for path in [*version.content, ".manifest.json"]:
        written = places(("pwrite64", "write"), files / path)
        synced = places(("fsync",), files / path)
        assert bool(written) == bool(version.content.get(path, b"manifest"))
        assert max(written, default=-1) < max(synced) < rename, path
    # The names within the folder, and afterwards its own.
    for inner in (files, files / "sub"):
        assert max(places(("fsync",), inner)) < rename
    assert places(("fsync",), folder)[-1] > rename
