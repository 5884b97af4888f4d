"""Start one worker process, pass requests to stop on to it, and kill it if it does not stop."""

from __future__ import annotations

import json
import math
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio
import attrs
from anyio.abc import Process

from roost._model.logs import StructuredLogger
from roost.cli.shutdown import (
    EXIT_TIMEOUT,
    FINAL_WRITE_TIMEOUT,
    FLUSH_TIMEOUT,
    FORCED_STOP_TIMEOUT,
    STOP_MARGIN,
)

logger = StructuredLogger("roost.cli")

KILL_MARGIN = FLUSH_TIMEOUT + FINAL_WRITE_TIMEOUT + EXIT_TIMEOUT + 0.5
"""Seconds from the deadline of a worker's own watchdog until the process is killed."""
DEFAULT_GRACE = 30.0
"""Grace of a process that has not told its own: it is still starting."""


@attrs.frozen
class Ended:
    """How a worker process ended.

    :param pid: its id; ``None``: it could not be started.
    :param code: its exit code; minus the number of the signal that ended it.
    :param ready_for: seconds that its worker ran; ``None``: it was never ready.
    :param killed: it was killed because it did not stop in time.
    :param error: why it was called wrongly, which it does not print itself.
    """

    pid: int | None
    code: int
    ready_for: float | None
    killed: bool
    error: str | None = None

    @property
    def in_order(self) -> bool:
        """Whether a stop lost nothing: a worker that was never ready held no job."""
        return self.code == 0 or (self.ready_for is None and not self.killed)

    @property
    def how(self) -> str:
        """The end in words, for a log line."""
        if self.code >= 0:
            return f"with exit code {self.code}"
        try:
            return f"by signal {signal.Signals(-self.code).name}"
        except ValueError:
            return f"by signal {-self.code}"


def same_command(*arguments: str) -> list[str]:
    """Return the command line that started this process, with other arguments."""
    own = len(sys.orig_argv) - len(sys.argv) + 1
    return [sys.executable, *sys.orig_argv[1:own], *arguments]


class WorkerProcess:
    """One process of a worker.

    :param command: the command line, to which ``--supervised`` is added.
    :param number: which of the supervisor's processes this is, from 1.
    :param environment: its environment; ``None``: this process's.
    """

    def __init__(
        self, command: Sequence[str], *, number: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._number = number
        self._environment = environment
        self._grace = DEFAULT_GRACE
        self.pid: int | None = None
        self._ready_at: float | None = None
        self._requests = 0
        self._requested = anyio.Event()
        self._killed = False
        self._error: str | None = None
        self._unread = b""
        self.ended = anyio.Event()
        """Set when the process has ended, or could not be started."""

    @property
    def ready(self) -> bool:
        """Whether its worker was ready to run jobs."""
        return self._ready_at is not None

    def request_stop(self) -> None:
        """Ask the process to stop: a first, second and third time, as signals do."""
        self._requests += 1
        self._requested.set()

    async def run(self) -> Ended:
        """Start the process and wait for its end. A cancel kills it.

        :raises OSError: it could not be started.
        """
        try:
            return await self._run()
        finally:
            self.ended.set()

    async def _run(self) -> Ended:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                process = await anyio.open_process(
                    [*self._command, "--supervised", f"{theirs.fileno()}:{self._number}"],
                    stdin=None,
                    stdout=None,
                    stderr=None,
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                )
            self.pid = process.pid
            logger.info(
                "worker process %(number)d started: pid %(pid)d",
                number=self._number,
                pid=process.pid,
            )
            async with process, anyio.create_task_group() as group:
                group.start_soon(self._read_messages, ours)
                group.start_soon(self._pass_requests_on, ours, process)
                code = await process.wait()
                ended_at = anyio.current_time()
                group.cancel_scope.cancel()
            while self._receive(ours):  # what it told last
                pass
        ready_for = None if self._ready_at is None else ended_at - self._ready_at
        return Ended(process.pid, code, ready_for, self._killed, self._error)

    async def _read_messages(self, link: socket.socket) -> None:
        await anyio.wait_readable(link)
        while self._receive(link):
            await anyio.wait_readable(link)

    def _receive(self, link: socket.socket) -> bool:
        """Take the messages that have arrived. Return whether anything has."""
        try:
            received = link.recv(65_536)
        except OSError:  # nothing has, or the process is gone
            return False
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"grace":
                self._grace = float(value)
            elif word == b"ready":
                self._ready_at = anyio.current_time()
            elif word == b"error":
                self._error = json.loads(value)
        return bool(received)

    async def _pass_requests_on(self, link: socket.socket, process: Process) -> None:
        passed = 0
        kill_at = math.inf
        while True:
            with anyio.CancelScope(deadline=kill_at) as waiting:
                await self._requested.wait()
            if waiting.cancelled_caught:
                break
            self._requested = anyio.Event()
            while passed < self._requests:
                with suppress(OSError):  # it has just ended
                    link.send(b"s")
                kill_at = min(kill_at, anyio.current_time() + self._time_to_stop(passed))
                passed += 1
        logger.error(
            "worker process %(number)d (pid %(pid)d) has not stopped in time and is killed; other "
            "workers rescue its jobs",
            number=self._number,
            pid=process.pid,
        )
        self._killed = True
        process.kill()

    def _time_to_stop(self, earlier: int) -> float:
        """Return how long the process may take after a request, with ``earlier`` ones before it."""
        if earlier == 0:
            return self._grace + STOP_MARGIN + KILL_MARGIN
        return (FORCED_STOP_TIMEOUT if earlier == 1 else 0.0) + KILL_MARGIN
