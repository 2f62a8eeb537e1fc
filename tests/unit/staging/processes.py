"""Processes of the tests that stage: forked from one that has imported everything, so that many are cheap."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import boto3

from serve_app.staging import eviction, objects, publish, store
from serve_app.staging.errors import StagingError
from serve_app.staging.objects import S3Location
from serve_app.staging.progress import Progress
from tests.unit.staging.fault_proxy import PATIENCE_S

# boto3 keeps what it has read of its data files, which is most of what a client costs.
boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")


@dataclass(frozen=True)
class Job:
    """What a process does: it stages, says what it got, and keeps that until it is told to end."""

    endpoint: str
    location: S3Location
    folder: Path
    range_bytes: int
    concurrency: int = 4
    max_bytes: int | None = None
    kill_at_step: int | None = None
    """kill -9 just before this file operation in `folder`, counted from 1."""
    settings: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    """Constants of modules of staging."""
    source: Path | None = None
    """If given, the process publishes this folder instead."""


class _Reported(Progress):
    """Tells the test what is begun."""

    def __init__(self, connection: Connection) -> None:
        super().__init__("", None)
        self._connection = connection

    @contextmanager
    def of(self, total_bytes: int, verb: str = "") -> Iterator[Callable[[int], None]]:
        self._connection.send(("begins", verb or "download"))
        yield lambda count: None


def work(job: Job, connection: Connection) -> None:
    """Sends `("begins", what)`, then `("done", folder)`, `("failed", message)` or `("interrupted", "")`.

    Ends when told to.
    """
    os.environ.update(
        AWS_ENDPOINT_URL=job.endpoint,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="us-east-1",
    )
    modules = {"eviction": eviction, "objects": objects, "store": store}
    for (module, name), value in job.settings.items():
        setattr(modules[module], name, value)
    if job.kill_at_step is not None:
        _kill_at(job.kill_at_step, str(job.folder))
    try:
        if job.source:
            result = publish.publish(job.source, job.location, source="file:test").manifest.digest
        else:
            staging = store.Store(
                job.folder,
                max_bytes=job.max_bytes,
                range_bytes=job.range_bytes,
                concurrency=job.concurrency,
            )
            staged = staging.stage(job.location, progress=_Reported(connection))
            result = str(staged.path)
        connection.send(("done", result))
    except StagingError as error:
        connection.send(("failed", str(error)))
    except KeyboardInterrupt:
        connection.send(("interrupted", ""))
    with suppress(EOFError):
        connection.recv()


def _kill_at(step: int, folder: str) -> None:
    """Kills this process at the file operation in `folder` with this number: no cleanup, no last words."""
    num_steps = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal num_steps
        # What rmtree removes it names relative to its folder.
        is_inside = any(isinstance(path, (str, Path)) and folder in str(path) for path in arguments)
        if event in _REMOVALS or (event in _STEPS and is_inside):
            num_steps += 1
            if num_steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


# Python's audit events of what changes or opens files, and of what finishes a download.
_STEPS = {"open", "os.mkdir", "os.rename", "os.utime", "os.truncate", "shutil.rmtree"}
_REMOVALS = {"os.remove", "os.rmdir"}


class Worker:
    """A process at work. As a context, it is killed at the end if it still runs."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pytest", __name__])
        self.connection, other = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=work, args=(job, other), daemon=True)
        self.process.start()
        other.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.connection.close()

    def hear(self) -> tuple[str, str]:
        """Returns the next thing the process has to say; `("ended", "")` if it is dead."""
        assert self.connection.poll(PATIENCE_S), "the process says nothing"
        try:
            what, detail = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return "ended", ""
        return what, detail

    def result(self) -> tuple[str, str]:
        """Returns what the process came to: done, failed or ended."""
        while True:
            what, detail = self.hear()
            if what != "begins":
                return what, detail

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        """kill -9, and waits until the process is gone."""
        self.process.kill()
        self.process.join(PATIENCE_S)

    def end(self) -> None:
        """Lets the process end by itself."""
        self.connection.send("end")
        self.process.join(PATIENCE_S)
