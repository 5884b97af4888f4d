"""The jobs that a worker holds: prefetched, running in a slot, or parked. Keyed by lease.

All of it is synchronous, so a cancel can't leave half of a change.

A worker can claim a job again while an earlier attempt of it still runs here: the lease was lost
and a thread goes on, or the handler completed the job itself and a user retried it. The new attempt
is parked until the earlier one has ended: one job never runs twice at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from enum import Enum
from time import monotonic

import anyio
import attrs
from anyio import TaskHandle

from roost._drivers.shield import shielded
from roost._model.logs import StructuredLogger
from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._worker.lane import Wake
from roost._worker.metadata import AttemptMetadata

logger = StructuredLogger("roost.worker.execute")

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
    :param time_limit: the seconds of that timeout, for the error record.
    :param uninterrupted: the shielded wait for a thread or process that goes on after a cancel.
    :param abandon_at: by the loop's clock, when a thread that still runs is abandoned.
    :param cancelled_for: why it was interrupted, other than by its timeout.
    :param handler_ended: only a hook still runs: a cancel comes too late.
    :param metadata: what its handler has changed in the job's metadata.
    :param completed: the handler has written its completion in a transaction of its own.
    :param abandoned: its thread still runs: the job must not be given to another worker.
    """

    claimed: ClaimedJob
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


class Slots:
    """Slots for ``concurrency`` jobs, a queue of prefetched jobs for them, and parked attempts.

    :ivar finished: jobs that have left a slot.
    :ivar failed: those of them whose attempt failed.
    :ivar reserved: slots that prefetched jobs leave free, for jobs of limited tasks.
    :ivar marked: how many of the next prefetched jobs may start, because the worker's row says
        that they may have started. `PrefetchMarkLane` raises it; ``mark_wake`` asks it to.
    :ivar prefetched_started: prefetched jobs that have got a slot.
    """

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.finished = 0
        self.failed = 0
        self.reserved = 0
        self.marked = 0
        self.prefetched_started = 0
        self.mark_wake = Wake()
        self._low_water = 0
        self._prefetched: deque[tuple[ClaimedJob, float]] = deque()
        self._moved_at = math.inf
        self._running: dict[Lease, RunningJob] = {}
        self._lease_of: dict[int, Lease] = {}  # of the running attempt, by job id
        self._parked: dict[int, tuple[ClaimedJob, float]] = {}  # the newest attempt, by job id
        self._empty = anyio.Event()

    def __iter__(self) -> Iterator[RunningJob]:
        return iter(list(self._running.values()))

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, lease: Lease) -> bool:
        """Say whether an attempt with this lease is held here."""
        if lease in self._running or not (self._prefetched or self._parked):
            return lease in self._running
        return lease in self.leases

    def get(self, lease: Lease) -> RunningJob | None:
        """Return the attempt with this lease if it is in a slot."""
        return self._running.get(lease)

    @property
    def prefetched(self) -> int:
        """How many claimed jobs wait for a slot."""
        return len(self._prefetched)

    @property
    def moved_at(self) -> float:
        """When a prefetched job last got a slot, by ``time.monotonic``; infinity: none waits."""
        return self._moved_at if self._prefetched else math.inf

    @property
    def first_claimed_at(self) -> float:
        """When the first prefetched job was claimed, by ``time.monotonic``; infinity: none."""
        return self._prefetched[0][1] if self._prefetched else math.inf

    @property
    def job_ids(self) -> Collection[int]:
        """The ids of all jobs held here."""
        return {lease.job_id for lease in self.leases}

    @property
    def leases(self) -> Collection[Lease]:
        """The leases of all attempts held here, including those of earlier incarnations."""
        return {
            *self._running,
            *(claimed.lease for claimed, _ in self._prefetched),
            *(claimed.lease for claimed, _ in self._parked.values()),
        }

    @property
    def free_slots(self) -> int:
        """How many more jobs could start at once, after the prefetched ones that will."""
        idle = self.concurrency - len(self._running)
        return idle - min(len(self._prefetched), max(idle - self.reserved, 0))

    def room(self, prefetch: int) -> int:
        """Return how many more jobs may be claimed when ``prefetch`` may wait for a slot."""
        return self.concurrency + prefetch - len(self._running) - len(self._prefetched)

    def put(self, claimed: Iterable[ClaimedJob]) -> None:
        """Add claimed jobs behind the prefetched ones."""
        now = monotonic()
        if not self._prefetched:
            self._moved_at = now
        for job in claimed:
            self._prefetched.append((job, now))

    def put_first(self, claimed: Sequence[ClaimedJob], *, since: float) -> None:
        """Add jobs before the prefetched ones: they were claimed for free slots.

        :param since: by ``time.monotonic``, when the claim began.
        """
        if not self._prefetched:
            self._moved_at = monotonic()
        self._prefetched.extendleft((job, since) for job in reversed(claimed))

    def start_next(self, *, now: float) -> RunningJob | None:
        """Move the next prefetched job into a free slot; ``None``: no job or no slot.

        A job whose earlier attempt still runs is parked instead.
        """
        while self._prefetched and len(self._running) < self.concurrency - self.reserved:
            claimed, since = self._prefetched[0]
            if claimed.prefetch_no is not None and not self._may_start_prefetched():
                return None
            self._prefetched.popleft()
            self._moved_at = now
            lease = claimed.lease
            if lease.job_id in self._lease_of:
                self._park(claimed._replace(prefetch_no=None), since)
                continue
            self._lease_of[lease.job_id] = lease
            running = self._running[lease] = RunningJob(claimed, since, now)
            return running
        return None

    def _may_start_prefetched(self) -> bool:
        """Use one of the marked starts; ``False``: none is left."""
        if self.marked <= self._low_water:
            self.mark_wake.set()
        if not self.marked:
            return False
        self.marked -= 1
        self.prefetched_started += 1
        return True

    def to_mark(self, *, ahead: int) -> list[ClaimedJob]:
        """Return the prefetched jobs to mark next: those for the free slots, and ``ahead`` more.

        A job on its last attempt is marked only for a free slot: if the worker died before it
        starts, it would be discarded.
        """
        idle = self.concurrency - self.reserved - len(self._running)
        found: list[ClaimedJob] = []
        place = 0
        for claimed, _ in self._prefetched:
            if claimed.prefetch_no is None:
                idle -= 1
                continue
            place += 1
            if place <= self.marked:
                continue
            is_last = claimed.attempt >= claimed.max_attempts
            if place > idle and (is_last or place > idle + ahead):
                break
            found.append(claimed)
        return found

    def mark(self, last: ClaimedJob, *, ahead: int) -> None:
        """Let the prefetched jobs up to ``last`` start: the row says that they may have."""
        self.marked = 0
        for claimed, _ in self._prefetched:
            if claimed.prefetch_no is not None:
                if claimed.place > last.place:
                    break
                self.marked += 1
        self._low_water = self.marked // 3 if ahead else 0

    def finish(self, running: RunningJob) -> None:
        """Free the slot. A parked attempt of the same job is the next to start."""
        lease = running.claimed.lease
        del self._running[lease]
        del self._lease_of[lease.job_id]
        self.finished += 1
        if self._parked and (parked := self._parked.pop(lease.job_id, None)) is not None:
            self._prefetched.appendleft(parked)
        if not self._running:
            self._empty.set()

    def _park(self, claimed: ClaimedJob, since: float) -> None:
        """Keep the attempt until the earlier one has ended."""
        lease = claimed.lease
        known = self._parked.get(lease.job_id)
        newest = self._lease_of[lease.job_id] if known is None else known[0].lease
        if lease.lease_no <= newest.lease_no:
            return  # it was claimed twice, or another worker has taken its lease since
        self._parked[lease.job_id] = claimed, since
        logger.warning(
            "job %(job_id)d (%(task)s) was claimed again while its earlier attempt still runs in "
            "this worker: attempt %(attempt)d starts when that one has ended",
            job_id=lease.job_id,
            task=claimed.task,
            attempt=claimed.attempt,
        )

    def drain_parked(self, lease: Lease | None = None) -> list[ClaimedJob]:
        """Remove and return the parked attempt with this lease, or all of them."""
        drained = [
            claimed for claimed, _ in self._parked.values() if lease in (None, claimed.lease)
        ]
        for claimed in drained:
            del self._parked[claimed.lease.job_id]
        return drained

    def drain_prefetched(self, queues: Collection[str] | None = None) -> list[ClaimedJob]:
        """Remove and return the prefetched jobs of these queues, or all of them."""
        drained: list[ClaimedJob] = []
        kept: list[tuple[ClaimedJob, float]] = []
        place = marked = 0
        for claimed, since in self._prefetched:
            place += claimed.prefetch_no is not None
            if queues is None or claimed.queue in queues:
                drained.append(claimed)
            else:
                kept.append((claimed, since))
                marked += claimed.prefetch_no is not None and place <= self.marked
        self._prefetched = deque(kept)
        self.marked = marked
        return drained

    async def wait_until_none_runs(self) -> None:
        """Return when every slot is free."""
        while self._running:
            self._empty = anyio.Event()
            await self._empty.wait()
