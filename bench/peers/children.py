"""Run the scripts of the contestants and read the events that they print."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from bench.lab import ROOT
from bench.peers.contestants import Contestant, command, environment

REPLY_TIMEOUT = 120.0
"""Seconds to wait for an event or for the end of a process."""


class ContestantError(Exception):
    """A contestant's process failed, or printed nothing within `REPLY_TIMEOUT`."""


@attrs.frozen
class Child:
    """A process that runs a verb of a contestant."""

    name: str
    process: subprocess.Popen[str]
    events: queue.Queue[dict[str, Any] | None]

    def wait_for(self, key: str) -> Any:
        """Wait for the next event that has the key, and return its value; skip other events."""
        until = time.monotonic() + REPLY_TIMEOUT
        while True:
            try:
                event = self.events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise ContestantError(f"{self.name} did not print {key!r} in time") from None
            if event is None:
                raise ContestantError(f"{self.name} ended before it printed {key!r}")
            if key in event:
                return event[key]

    def request_stop(self) -> None:
        """Ask the process to stop by closing its stdin, and don't wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        """Kill the process and wait for its end. An ordered stop would take too long."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Wait until the process has ended by itself."""
        try:
            code = self.process.wait(REPLY_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ContestantError(f"{self.name} doesn't end") from None
        if code:
            raise ContestantError(f"{self.name} ended with {code}")


@contextmanager
def started(contestant: Contestant, verb: str, dsn: str, **options: object) -> Iterator[Child]:
    """Start a verb and yield the process; at the end ask it to stop, and wait for it.

    A process that was killed meanwhile is not waited for.
    """
    arguments = {"dsn": dsn, "loop": contestant.loop, "driver": contestant.driver, **options}
    process = subprocess.Popen(
        [*command(contestant.peer), verb, json.dumps(arguments)],
        cwd=ROOT,
        env=environment(contestant.peer),
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
            child.request_stop()
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
    """Run a verb to its end, and ignore its events."""
    with started(contestant, verb, dsn, **options):
        pass


def ask(contestant: Contestant, verb: str, dsn: str, key: str, **options: object) -> Any:
    """Run a verb to its end, and return the value of its event."""
    with started(contestant, verb, dsn, **options) as child:
        return child.wait_for(key)
