"""A job in a slot: its scopes, why it was cancelled, and how its thread is waited for."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum

import anyio
import attrs
from anyio import TaskHandle

from roost._drivers.shield import shielded
from roost._ops.claim import ClaimedJob

UNINTERRUPTIBLE_GRACE = 1.0
"""Seconds after the grace for what can't be interrupted: a thread, a handler that won't unwind."""
MAX_SHIELD = 60.0
"""Seconds of one shielded wait for a thread or process; it is repeated until that has ended."""


class Reason(Enum):
    """Why a running job is being cancelled. It is recorded before the cancel."""

    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    USER = "user"
    LEASE_LOST = "lease lost"


@attrs.define(eq=False)
class RunningJob:
    """A job in a slot.

    :param counted_from: by ``time.monotonic``, when the claim began that counts for its rate.
    :param started_at: by ``time.monotonic``, when it got its slot.
    :param task: cancelling it interrupts the handler; set when the job has been started.
    :param timeout: the scope of the handler's own timeout, while it runs under one.
    :param uninterrupted: the shielded wait for a thread or process that goes on after a cancel.
    :param abandon_at: by the loop's clock, when a thread that still runs is abandoned.
    :param cancelled_for: why it was interrupted, other than by its timeout.
    :param handler_ended: only a hook still runs: a cancel comes too late.
    :param completed: the handler has written its completion in a transaction of its own.
    :param abandoned: its thread still runs: the job must not be given to another worker.
    """

    claimed: ClaimedJob
    counted_from: float = 0.0
    started_at: float = 0.0
    task: TaskHandle[None] | None = None
    timeout: anyio.CancelScope | None = None
    uninterrupted: anyio.CancelScope | None = None
    abandon_at: float = math.inf
    cancelled_for: Reason | None = None
    handler_ended: bool = False
    abandoned: bool = False
    completed: bool = False

    @property
    def reason(self) -> Reason | None:
        """Why the handler was interrupted; ``None``: it was not."""
        if self.cancelled_for is None and self.timeout is not None and self.timeout.cancel_called:
            return Reason.TIMEOUT
        return self.cancelled_for

    @property
    def scope(self) -> object:
        """The worker's innermost scope around the handler. anyio has no public name for a task's.

        ``None`` before the task has begun to run.
        """
        return self.timeout or getattr(self.task, "_cancel_scope", None)

    @property
    def ran_undisturbed(self) -> bool:
        """Whether no cancel, timeout or write of its handler's own decides how it ends."""
        return (
            self.cancelled_for is None
            and (self.timeout is None or not self.timeout.cancel_called)
            and not (self.completed or self.abandoned)
        )

    @property
    def is_stopping(self) -> bool:
        """Whether the worker's stop has set `abandon_at`."""
        return self.abandon_at < math.inf

    def cancel(self, reason: Reason) -> None:
        """Interrupt the handler now, unless it was interrupted before."""
        if self.reason is None and not self.handler_ended:
            self.cancelled_for = reason
            if self.task is not None:
                self.task.cancel()

    def time_out_after(self, seconds: float) -> anyio.CancelScope:
        """Return the scope that is the handler's timeout, ``seconds`` from now."""
        self.timeout = anyio.move_on_after(seconds)
        return self.timeout

    async def wait_uninterrupted(self, ended: Callable[[], Awaitable[None]]) -> None:
        """Wait for ``ended()``: the end of a thread or process. The slot and the lease are held.

        No cancel interrupts the wait. It ends early only at `abandon_at`, which the stop of the
        worker sets.
        """
        while (left := self.abandon_at - anyio.current_time()) > 0:
            with shielded(min(left, MAX_SHIELD)) as self.uninterrupted:
                await ended()
                return

    def end_by(self, deadline: float) -> None:
        """Abandon a thread that still runs `UNINTERRUPTIBLE_GRACE` after ``deadline``."""
        self.abandon_at = deadline + UNINTERRUPTIBLE_GRACE
        if self.uninterrupted is not None:
            self.uninterrupted.deadline = min(self.uninterrupted.deadline, self.abandon_at)
