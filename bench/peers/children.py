"""Run contestants' scripts, and listen to what they say."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from bench.lab import ROOT
from bench.peers.contestants import Contestant, python_for, script

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
"""Of every script: it imports `bench`."""
PATIENCE = 120.0
"""Seconds to wait for anything that a contestant should say or do."""


class ContestantError(Exception):
    """A contestant's process failed, or was silent for too long."""


@attrs.frozen
class Child:
    """A process that runs a verb of a contestant."""

    name: str
    process: subprocess.Popen[str]
    events: queue.Queue[dict[str, Any] | None]

    def hear(self, key: str) -> Any:
        """Return the value of the next event that has the key; others are passed over."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                event = self.events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise ContestantError(f"{self.name} says nothing of {key!r}") from None
            if event is None:
                raise ContestantError(f"{self.name} ended before it said {key!r}")
            if key in event:
                return event[key]

    def tell_to_stop(self) -> None:
        """Close its stdin, and don't wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        """Kill it: what it is at would take too long to end."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Wait until it has ended by itself."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise ContestantError(f"{self.name} doesn't end") from None
        if code:
            raise ContestantError(f"{self.name} ended with {code}")


@contextmanager
def started(contestant: Contestant, verb: str, dsn: str, **options: object) -> Iterator[Child]:
    """Start a verb and yield the process.

    Unless it was killed it is told to stop then, and waited for.
    """
    told = {"dsn": dsn, "loop": contestant.loop, "driver": contestant.driver, **options}
    process = subprocess.Popen(
        [python_for(contestant.peer), script(contestant.peer), verb, json.dumps(told)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = Child(f"{contestant.name} ({verb})", process, queue.Queue())
    reader = threading.Thread(target=_read, args=(child,), daemon=True)
    reader.start()
    try:
        yield child
        if process.returncode is None:
            child.tell_to_stop()
            child.end()
    finally:
        process.kill()
        process.wait()
        reader.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _read(child: Child) -> None:
    assert child.process.stdout is not None
    for line in child.process.stdout:
        if line.startswith("{"):
            child.events.put(json.loads(line))
    child.events.put(None)


def run(contestant: Contestant, verb: str, dsn: str, **options: object) -> None:
    """Run a verb that says nothing, to its end."""
    with started(contestant, verb, dsn, **options):
        pass


def ask(contestant: Contestant, verb: str, dsn: str, key: str, **options: object) -> Any:
    """Run a verb to its end, and return the value of its event."""
    with started(contestant, verb, dsn, **options) as child:
        return child.hear(key)
