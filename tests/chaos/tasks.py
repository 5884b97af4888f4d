"""Tasks of the worker processes in these tests. Each writes what it does into a journal.

Loaded by ``roost run -m tasks``. ``CHAOS_FOLDER`` is where the journal and the gates are; a gate is
a file that a handler waits for. ``CHAOS_CONSTANTS`` shortens deadlines that have no setting.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from tests.support.conformance.cases import eventually, until

import roost

FOLDER = Path(os.environ["CHAOS_FOLDER"])
JOURNAL = os.open(FOLDER / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
LONGEST = 600
"""Seconds that a job waits for its gate at most."""

for place, value in json.loads(os.environ.get("CHAOS_CONSTANTS", "{}")).items():
    module, _, name = place.partition(":")
    assert hasattr(importlib.import_module(module), name)
    setattr(importlib.import_module(module), name, value)


def write(event: str, job: roost.Job) -> None:
    """Append one line, with the time by the clock that all processes of a machine share."""
    line = json.dumps(
        {
            "event": event,
            "job_id": job.id,
            "attempt": job.attempt,
            "pid": os.getpid(),
            "at": time.monotonic(),
        }
    )
    os.write(JOURNAL, f"{line}\n".encode())


@contextmanager
def written(job: roost.Job) -> Iterator[None]:
    """Write when the handler starts and how it ends."""
    write("started", job)
    try:
        yield
    except BaseException:
        write("interrupted", job)
        raise
    write("ended", job)


@roost.job("note")
async def note(job: roost.Job) -> None:
    write("started", job)


@roost.job("hold")
async def hold(gate: str, job: roost.Job) -> None:
    """Run until the gate is opened."""
    with written(job):
        await eventually((FOLDER / gate).exists, within=LONGEST)


@roost.job("hold_thread")
def hold_thread(gate: str, job: roost.Job) -> None:
    """Do the same in a thread, and ignore every cancel."""
    with written(job):
        until((FOLDER / gate).exists, within=LONGEST)


@roost.job("hold_shielded")
async def hold_shielded(gate: str, job: roost.Job) -> None:
    """Do the same in the event loop, and ignore every cancel."""
    with written(job), anyio.move_on_after(LONGEST, shield=True):
        await eventually((FOLDER / gate).exists, within=LONGEST)


@roost.job("block")
async def block(gate: str, job: roost.Job) -> None:
    """Stop the whole event loop until the gate is opened."""
    with written(job):
        until((FOLDER / gate).exists, within=LONGEST)


@roost.job("die")
async def die(job: roost.Job) -> None:
    write("started", job)
    os._exit(9)


@roost.job("serial", max_concurrency=1)
async def serial(job: roost.Job) -> None:
    with written(job):
        await anyio.sleep(0.01)


@roost.job("serial_hold", max_concurrency=1)
async def serial_hold(gate: str, job: roost.Job) -> None:
    await hold(gate, job)


@roost.job("rated", rate_per_minute=20)
async def rated(how: str, job: roost.Job) -> None:
    write("started", job)
    if how == "fail":
        raise RuntimeError("on purpose")
    if how == "snooze":
        raise roost.SnoozeJob(0.1)
