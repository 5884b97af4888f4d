"""Run several worker processes, and restart those that end by themselves.

This process imports none of the user's code, so a handler can't end it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress

import anyio
import attrs
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost.cli.output import print_error
from roost.cli.shutdown import stop_signals
from roost.cli.supervised import WRONG_CALL
from roost.cli.worker_process import Ended, WorkerProcess

logger = StructuredLogger("roost.cli")

FIRST_DELAY = 1.0
"""Seconds from a process's end until its restart. Doubles with each further end."""
LONGEST_DELAY = 60.0
RESET_AFTER = 60.0
"""Seconds that a worker must have run for its next restart to begin with `FIRST_DELAY` again."""
REAP_INTERVAL = 1.0


@attrs.define
class Backoff:
    """The delay before the next start of one process."""

    ends: int = 0

    def next_delay(self, ready_for: float | None) -> float:
        """Return the seconds until the next start.

        :param ready_for: seconds that the worker ran; ``None``: it was never ready.
        """
        if ready_for is not None and ready_for >= RESET_AFTER:
            self.ends = 0
        self.ends += 1
        return float(min(FIRST_DELAY * 2 ** min(self.ends - 1, 16), LONGEST_DELAY))


class Supervisor:
    """Keeps ``workers`` processes of ``command`` running until signals stop them.

    :param once: the processes end by themselves and are not restarted.
    """

    def __init__(self, command: Sequence[str], *, workers: int, once: bool = False) -> None:
        self._command = command
        self._workers = workers
        self._once = once
        self._running: set[WorkerProcess] = set()
        self._failing: dict[int, int] = {}
        self._one_was_ready = False
        self._printed: set[str] = set()
        self._stopping = anyio.Event()
        self._code = 0

    async def run(self) -> int:
        """Run the processes until all have ended, and return this process's exit code."""
        logger.info(
            "supervisor is ready: pid %(pid)d, %(workers)d worker processes",
            pid=os.getpid(),
            workers=self._workers,
        )
        async with anyio.create_task_group() as group:
            await group.start(self._handle_signals)  # before there is a process
            if os.getpid() == 1:
                group.start_soon(self._reap_orphans)
            async with anyio.create_task_group() as processes:
                for number in range(1, self._workers + 1):
                    processes.start_soon(self._keep_running, number)
            group.cancel_scope.cancel()
        return self._code

    async def _handle_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*stop_signals()) as received:
            task_status.started()
            async for number in received:
                logger.info("signal received: %(signal)s", signal=signal.Signals(number).name)
                self._request_stop()

    def _request_stop(self) -> None:
        self._stopping.set()
        for process in self._running:
            process.request_stop()

    async def _reap_orphans(self) -> None:
        while True:
            await anyio.sleep(REAP_INTERVAL)
            own = [process.pid for process in self._running if process.pid is not None]
            if len(own) == len(self._running):  # none is just being started
                reap_orphans(own)

    async def _keep_running(self, number: int) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            ended = await self._run_once(number)
            self._print_error(ended)
            if self._note_last(ended):
                return
            if ended.ready_for is None:
                self._failing[number] = self._failing.get(number, 0) + 1
            else:
                self._failing.pop(number, None)
            self._log(number, ended, delay := backoff.next_delay(ended.ready_for))
            with anyio.move_on_after(delay):
                await self._stopping.wait()

    async def _run_once(self, number: int) -> Ended:
        process = WorkerProcess(self._command, number=number)
        self._running.add(process)
        try:
            return await process.run()
        except OSError as error:  # for example too many processes or open files
            logger.error(
                "worker process %(number)d could not be started: %(error)s",
                number=number,
                error=str(error),
            )
            return Ended(None, 1, None, killed=False)
        finally:
            self._running.discard(process)
            self._one_was_ready |= process.ready

    def _print_error(self, ended: Ended) -> None:
        """Print why a process was called wrongly, unless all stop for this reason."""
        if ended.error is None or (self._stopping.is_set() and ended.error in self._printed):
            return
        print_error(ended.error)
        self._printed.add(ended.error)

    def _note_last(self, ended: Ended) -> bool:
        """Return whether a process is not to be restarted, and add its end to the exit code."""
        ready = self._one_was_ready or any(process.ready for process in self._running)
        if ended.code == WRONG_CALL and not ready:
            if not self._stopping.is_set():
                logger.error("a worker process was called wrongly, so all stop")
                self._request_stop()
            self._code = WRONG_CALL
            return True
        if self._stopping.is_set():
            self._code = self._code or int(not ended.in_order)
            return True
        if self._once:
            self._code = self._code or int(ended.code != 0)
            return True
        return False

    def _log(self, number: int, ended: Ended, delay: float) -> None:
        if ended.pid is not None:
            report = logger.error if number in self._failing else logger.warning
            report(
                "worker process %(number)d (pid %(pid)d) ended %(how)s; restart in %(delay)g s",
                number=number,
                pid=ended.pid,
                how=ended.how,
                delay=delay,
            )
        if len(self._failing) == self._workers:
            logger.critical(
                "no worker runs: each of the %(workers)d processes failed at its start, this one "
                "%(times)d times in a row; restarts go on, at least every %(longest)g s",
                workers=self._workers,
                times=self._failing[number],
                longest=LONGEST_DELAY,
            )


def reap_orphans(own: Collection[int]) -> None:
    """Reap ended processes that others left to this one, as a container's first process must.

    :param own: this process's own children, for which the event loop waits.
    """
    with suppress(ChildProcessError):  # it has no child
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in own:
                return  # the next call sees those behind it
            os.waitpid(found.si_pid, 0)
