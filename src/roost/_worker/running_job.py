"""One job in a slot: its handler's scope, why it is cancelled, and what is counted of it.

It waits only for a thread or process that can't be interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum
from time import monotonic

import anyio
import attrs
from anyio import TaskHandle

from roost._drivers.shield import shielded
from roost._model.tally import Sample, Series
from roost._model.telemetry import Attempt
from roost._model.verdict import STARTED_AT, Verdict
from roost._ops.claim import ClaimedJob, as_datetime
from roost._worker.metadata import AttemptMetadata
from roost._worker.slot_group import SlotGroup

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

    :param group: the slots of which it has one.
    :param counted_from: by ``time.monotonic``, when the claim began that counts for its rate.
    :param started_at: by ``time.monotonic``, when it got its slot.
    :param task: cancelling it interrupts the handler; set when the job has been started.
    :param timeout: the scope of the handler's own timeout, while it runs under one.
    :param time_limit: the seconds of that timeout, for the error record.
    :param uninterrupted: the shielded wait for a thread or process that goes on after a cancel.
    :param abandon_at: by the loop's clock, when a thread that still runs is abandoned.
    :param cancelled_for: why it was interrupted, other than by its timeout.
    :param handler_ended: only a hook still runs: a cancel comes too late.
    :param metadata: what its handler has changed in the job's metadata.
    :param completed: the handler has written its completion in a transaction of its own.
    :param abandoned: its thread still runs: the job must not be given to another worker.
    :param series: where the attempt is counted; ``None``: it has not begun.
    :param trace: what an instrumentation records of the attempt; ``None``: nothing.
    """

    claimed: ClaimedJob
    group: SlotGroup
    counted_from: float = 0.0
    started_at: float = 0.0
    task: TaskHandle[None] | None = None
    timeout: anyio.CancelScope | None = None
    time_limit: float = 0.0
    uninterrupted: anyio.CancelScope | None = None
    abandon_at: float = math.inf
    cancelled_for: Reason | None = None
    handler_ended: bool = False
    abandoned: bool = False
    completed: bool = False
    metadata: AttemptMetadata | None = None
    series: Series | None = None
    trace: Attempt | None = None

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

    def with_start(self, verdict: Verdict) -> Verdict:
        """Return the verdict with the start of the attempt in its error record.

        Only for a prefetched job. Others have started when they were claimed, which the row says.
        The time is the database's: that of the claim, and the wait for a slot since its answer.
        """
        if verdict.error is None or self.claimed.prefetch_no is None:
            return verdict
        waited = round((self.started_at - self.counted_from) * 1e6)
        started_at = as_datetime(self.claimed.attempted_at + waited).isoformat()
        return verdict._replace(error=verdict.error | {STARTED_AT: started_at})

    def sample(self) -> Sample | None:
        """Return what is to be counted of the attempt, which ends now; ``None``: it never began.

        The time that the claim's answer took, about a millisecond, is not part of its wait.
        """
        if self.series is None:
            return None
        claimed, started_at = self.claimed, self.started_at
        due, inserted = claimed.scheduled_at, claimed.inserted_at
        if due < inserted:  # noqa: PLR1730  (it was scheduled in the past; max() takes 0.1 µs)
            due = inserted
        wait = (claimed.attempted_at - due) / 1e6 + started_at - self.counted_from
        return self.series, wait if wait > 0 else 0.0, monotonic() - started_at

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
