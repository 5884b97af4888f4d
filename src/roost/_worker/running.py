"""The jobs that a worker holds: claimed and waiting for a slot, or running in one.

All of it is synchronous, so no cancel can leave half a change.

A job can be claimed again by this worker while its earlier attempt still runs here: the lease was
lost and a thread goes on, or the handler completed the job itself and a user retried it. Then the
new attempt is parked until the earlier one has ended: one job never runs twice at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum
from time import monotonic

import anyio
import attrs
from anyio import TaskHandle

from roost._model.logs import StructuredLogger
from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._worker.wake import Wake

logger = StructuredLogger("roost.worker.execute")

LINGER = 1.0
"""Seconds after the grace for what can't be interrupted: a thread, a handler that won't unwind."""


class Reason(Enum):
    """Why a running job is being cancelled; recorded before it is, since all look alike inside."""

    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    USER = "user"
    LEASE_LOST = "lease lost"


@attrs.define(eq=False)
class RunningJob:
    """A job in a slot.

    :param counted_from: by ``time.monotonic``, not after the start that its rate counts.
    :param started_at: by ``time.monotonic``, when it got its slot.
    :param task: cancelling it interrupts the handler; set when the job has been started.
    :param limit: the handler's own timeout, while it runs under one.
    :param linger: the wait for a thread that goes on after a cancel, until ``linger_until``.
    :param cancelled_for: why it was interrupted, by others than its timeout.
    :param ended: whether the handler has ended and only a hook still runs: a cancel comes too late.
    :param completed: whether the handler has written its completion in a transaction of its own.
    :param abandoned: whether its thread was left behind: nobody may say that the job has ended.
    """

    claimed: ClaimedJob
    counted_from: float = 0.0
    started_at: float = 0.0
    task: TaskHandle[None] | None = None
    limit: anyio.CancelScope | None = None
    linger: anyio.CancelScope | None = None
    linger_until: float = math.inf
    cancelled_for: Reason | None = None
    ended: bool = False
    abandoned: bool = False
    completed: bool = False

    @property
    def reason(self) -> Reason | None:
        """Why the handler was interrupted; ``None``: it was not."""
        if self.cancelled_for is None and self.limit is not None and self.limit.cancel_called:
            return Reason.TIMEOUT
        return self.cancelled_for

    @property
    def scope(self) -> object:
        """The innermost scope of the worker's around the handler; anyio has no name for a task's.

        Not there before the task has begun to run.
        """
        return self.limit or getattr(self.task, "_cancel_scope", None)

    @property
    def ran_undisturbed(self) -> bool:
        """Whether no cancel, timeout or write of its handler's own decides how it ends."""
        return (
            self.cancelled_for is None
            and (self.limit is None or not self.limit.cancel_called)
            and not (self.completed or self.abandoned)
        )

    def cancel(self, reason: Reason) -> None:
        """Interrupt the handler now, unless that was done before."""
        if self.reason is None and not self.ended:
            self.cancelled_for = reason
            if self.task is not None:
                self.task.cancel()

    def limited_to(self, seconds: float) -> anyio.CancelScope:
        """Return the scope that is the handler's timeout, ``seconds`` from now."""
        self.limit = anyio.move_on_after(seconds)
        return self.limit

    def lingering(self) -> anyio.CancelScope:
        """Return the scope for waiting until the thread has ended, so that the slot is held.

        It is shielded, and only a stop of the worker gives it a deadline.
        """
        self.linger = anyio.move_on_after(math.inf, shield=True)
        self.linger.deadline = self.linger_until
        return self.linger

    def end_by(self, deadline: float) -> None:
        """Leave a thread behind that goes on for ``LINGER`` seconds after ``deadline``."""
        self.linger_until = deadline + LINGER
        if self.linger is not None:
            self.linger.deadline = self.linger_until


class Running:
    """Slots for ``concurrency`` jobs, a line in front of them, and what is parked.

    :ivar finished: jobs that have left a slot.
    :ivar failed: those of them whose attempt failed.
    :ivar covered: how many of the line's next prefetched jobs may start, since it is written that
        they may have. `StartsLane` writes it, and is woken by ``cover_wake`` before there are none.
    :ivar prefetched_started: prefetched jobs that have left the line for a slot.
    :ivar reserved: slots that are kept free, once they are, for jobs that do not stand in line.
    """

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.finished = 0
        self.failed = 0
        self.reserved = 0
        self.covered = 0
        self.prefetched_started = 0
        self.cover_wake = Wake()
        self._low_water = 0
        self._waiting: deque[tuple[ClaimedJob, float]] = deque()
        self._waiting_since = math.inf
        # By job id: `start_next` starts no second attempt of a job beside the first.
        self._running: dict[int, RunningJob] = {}
        self._parked: dict[int, tuple[ClaimedJob, float]] = {}
        self._empty = anyio.Event()

    def __iter__(self) -> Iterator[RunningJob]:
        return iter(list(self._running.values()))

    def __len__(self) -> int:
        return len(self._running)

    def get(self, job_id: int) -> RunningJob | None:
        """Return the job if it is in a slot."""
        return self._running.get(job_id)

    @property
    def waiting(self) -> int:
        """How many claimed jobs wait for a slot."""
        return len(self._waiting)

    @property
    def waiting_since(self) -> float:
        """When the line last moved, by ``time.monotonic``; infinity when nobody waits."""
        return self._waiting_since if self._waiting else math.inf

    @property
    def first_waiting_since(self) -> float:
        """When the first in line was claimed, by ``time.monotonic``; infinity when nobody waits."""
        return self._waiting[0][1] if self._waiting else math.inf

    @property
    def ids(self) -> Collection[int]:
        """The ids of all jobs held here."""
        return {lease.job_id for lease in self.leases}

    @property
    def leases(self) -> Collection[Lease]:
        """The leases of all attempts held here, those of earlier incarnations included."""
        return {
            *(running.claimed.lease for running in self._running.values()),
            *(claimed.lease for claimed, _ in self._waiting),
            *(claimed.lease for claimed, _ in self._parked.values()),
        }

    @property
    def free_slots(self) -> int:
        """How many jobs could start at once, beside those of the line that will."""
        idle = self.concurrency - len(self._running)
        return idle - min(len(self._waiting), max(idle - self.reserved, 0))

    def room(self, prefetch: int) -> int:
        """How many more jobs may be claimed when ``prefetch`` may wait."""
        return self.concurrency + prefetch - len(self._running) - len(self._waiting)

    def admit(self, claimed: Iterable[ClaimedJob]) -> None:
        """Put claimed jobs at the end of the line."""
        now = monotonic()
        if not self._waiting:
            self._waiting_since = now  # what comes behind others moves nothing
        self._waiting.extend((job, now) for job in claimed)

    def admit_first(self, claimed: Sequence[ClaimedJob], *, since: float) -> None:
        """Put jobs at the head of the line that were claimed for free slots.

        :param since: by ``time.monotonic``, when the claim began.
        """
        self._waiting.extendleft((job, since) for job in reversed(claimed))

    def start_next(self, *, now: float) -> RunningJob | None:
        """Move the first waiting job into a free slot; ``None``: no job or no slot.

        A job whose earlier attempt still runs is parked instead.
        """
        while self._waiting and len(self._running) < self.concurrency - self.reserved:
            claimed, since = self._waiting[0]
            if claimed.prefetch_no is not None and not self._may_start_prefetched():
                return None
            self._waiting.popleft()
            self._waiting_since = now
            job_id = claimed.lease.job_id
            if job_id in self._running:
                self._park(claimed._replace(prefetch_no=None), since)
                continue
            running = self._running[job_id] = RunningJob(claimed, since, now)
            return running
        return None

    def _may_start_prefetched(self) -> bool:
        """Use up one of the covered starts; ``False``: there is none yet."""
        if self.covered <= self._low_water:
            self.cover_wake.set()
        if not self.covered:
            return False
        self.covered -= 1
        self.prefetched_started += 1
        return True

    def to_cover(self, *, ahead: int) -> list[ClaimedJob]:
        """Return the prefetched jobs of which to write next that they may have started.

        As many as there are free slots, and ``ahead`` more; but none that is on its last attempt
        and does not start at once. If the worker died, that job would be discarded.
        """
        idle = self.concurrency - self.reserved - len(self._running)
        found: list[ClaimedJob] = []
        place = 0
        for claimed, _ in self._waiting:
            if claimed.prefetch_no is None:
                idle -= 1
                continue
            place += 1
            if place <= self.covered:
                continue
            is_last = claimed.attempt >= claimed.max_attempts
            if place > idle and (is_last or place > idle + ahead):
                break
            found.append(claimed)
        return found

    def cover(self, last: ClaimedJob, *, ahead: int) -> None:
        """Let the prefetched jobs start, up to ``last``: it is written that they may have."""
        self.covered = 0
        for claimed, _ in self._waiting:
            if claimed.prefetch_no is not None:
                if claimed.place > last.place:
                    break
                self.covered += 1
        self._low_water = self.covered // 3 if ahead else 0

    def finish(self, running: RunningJob) -> None:
        """Free the slot; a parked attempt of the same job is the next to start."""
        job_id = running.claimed.lease.job_id
        del self._running[job_id]
        self.finished += 1
        if self._parked and (parked := self._parked.pop(job_id, None)) is not None:
            self._waiting.appendleft(parked)
        if not self._running:
            self._empty.set()

    def _park(self, claimed: ClaimedJob, since: float) -> None:
        """Let the attempt wait until the earlier one has ended."""
        lease = claimed.lease
        earlier = self._running[lease.job_id].claimed.lease
        known = self._parked.get(lease.job_id)
        newest = earlier if known is None else known[0].lease
        if lease.lease_no <= newest.lease_no:
            return  # it was brought twice, or its lease has been taken since
        self._parked[lease.job_id] = claimed, since
        logger.warning(
            "job %(job_id)d (%(task)s) was claimed again while its earlier attempt still runs in "
            "this worker: attempt %(attempt)d starts when that one has ended",
            job_id=lease.job_id,
            task=claimed.task,
            attempt=claimed.attempt,
        )

    def give_up_parked(self, lease: Lease | None = None) -> list[ClaimedJob]:
        """Remove the attempt with this lease, or all that are parked, and return them."""
        given_up = [
            claimed for claimed, _ in self._parked.values() if lease in (None, claimed.lease)
        ]
        for claimed in given_up:
            del self._parked[claimed.lease.job_id]
        return given_up

    def give_up_waiting(self, queues: Collection[str] | None = None) -> list[ClaimedJob]:
        """Empty the line, or remove the jobs of these queues from it, and return them."""
        given_up: list[ClaimedJob] = []
        kept: list[tuple[ClaimedJob, float]] = []
        place = covered = 0
        for claimed, since in self._waiting:
            place += claimed.prefetch_no is not None
            if queues is None or claimed.queue in queues:
                given_up.append(claimed)
            else:
                kept.append((claimed, since))
                covered += claimed.prefetch_no is not None and place <= self.covered
        self._waiting = deque(kept)
        self.covered = covered
        return given_up

    async def wait_until_none_runs(self) -> None:
        """Return when every slot is free."""
        while self._running:
            self._empty = anyio.Event()
            await self._empty.wait()
