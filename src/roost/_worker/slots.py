"""The jobs that a worker holds: prefetched, running in a slot, or parked. Keyed by lease.

All of it is synchronous, so a cancel can't leave half of a change.

A worker can claim a job again while an earlier attempt of it still runs here: the lease was lost
and a thread goes on, or the handler completed the job itself and a user retried it. The new attempt
is parked until the earlier one has ended: one job never runs twice at once.
"""

from __future__ import annotations

from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from time import monotonic

import anyio

from roost._model.logs import StructuredLogger
from roost._model.validate import MAX_INT
from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._worker.lane import Wake
from roost._worker.running_job import RunningJob
from roost._worker.slot_group import SlotGroup

logger = StructuredLogger("roost.worker.execute")


class Slots:
    """Slots for ``concurrency`` jobs, prefetched jobs for them, and parked attempts.

    :param concurrency: how many jobs may run at once, of all queues together; ``None``: as many as
        the queues have slots.
    :param queues: the slots of each queue; ``None``: all queues share ``concurrency``.
    :ivar concurrency: how many jobs may run at once now.
    :ivar finished: jobs that have left a slot.
    :ivar failed: those of them whose attempt failed.
    :ivar mark_wake: asks `PrefetchMarkLane` to mark prefetched jobs, so that they may start.
    :ivar prefetched_started: prefetched jobs that have got a slot.
    """

    def __init__(self, concurrency: int | None, queues: Mapping[str, int] | None = None) -> None:
        self._most = concurrency
        self.concurrency = concurrency or 0
        self.finished = 0
        self.failed = 0
        self.prefetched_started = 0
        self.mark_wake = Wake()
        self._by_queue: dict[str, SlotGroup] = {}
        self._shared = SlotGroup(self.concurrency) if queues is None else None
        # The group that started a job last comes last.
        self._groups = [] if self._shared is None else [self._shared]
        self._several = False
        for queue, slots in (queues or {}).items():
            self.resize(queue, slots)
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
        if lease in self._running or not (self._parked or self.prefetched):
            return lease in self._running
        return lease in self.leases

    def get(self, lease: Lease) -> RunningJob | None:
        """Return the attempt with this lease if it is in a slot."""
        return self._running.get(lease)

    def group_of(self, queue: str) -> SlotGroup:
        """Return the slots of the jobs of ``queue``."""
        return self._shared or self._by_queue[queue]

    def resize(self, queue: str, slots: int) -> SlotGroup:
        """Set the slots of a queue that has slots of its own, also of a new one.

        With fewer than before, running jobs go on.

        :param slots: 0: start no job.
        """
        group = self._by_queue.get(queue)
        if group is None:
            group = self._by_queue[queue] = SlotGroup(0)
            self._groups.append(group)
            self._several = len(self._groups) > 1
        group.slots = slots if self._most is None else min(slots, self._most)
        if self._most is None:
            self.concurrency = min(sum(each.slots for each in self._groups), MAX_INT)
        return group

    @property
    def prefetched(self) -> int:
        """How many claimed jobs wait for a slot."""
        return sum(len(group.prefetched) for group in self._groups)

    @property
    def job_ids(self) -> Collection[int]:
        """The ids of all jobs held here."""
        return {lease.job_id for lease in self.leases}

    @property
    def leases(self) -> Collection[Lease]:
        """The leases of all attempts held here, including those of earlier incarnations."""
        return {
            *self._running,
            *(claimed.lease for group in self._groups for claimed, _ in group.prefetched),
            *(claimed.lease for claimed, _ in self._parked.values()),
        }

    @property
    def by_queue(self) -> dict[str, int] | None:
        """The slots of each queue that has slots of its own; ``None``: the queues share slots."""
        if self._shared is not None:
            return None
        return {queue: group.slots for queue, group in self._by_queue.items() if group.slots}

    def turn(self, group: SlotGroup) -> int:
        """Return the place of ``group`` when groups take turns: which started a job last is last.

        A job that was claimed and has not started does not count.
        """
        return self._groups.index(group)

    def free_slots(self, group: SlotGroup) -> int:
        """Return how many more jobs of ``group`` could start at once.

        The prefetched jobs that will start count as started, those of all groups.
        """
        free = group.slots - group.running - self._about_to_start(group)
        if self._several:
            about = sum(self._about_to_start(each) for each in self._groups)
            free = min(free, self.concurrency - len(self._running) - about)
        return free

    def room(self, group: SlotGroup, prefetch: int) -> int:
        """Return how many more jobs may be claimed for ``group``.

        :param prefetch: how many of its jobs may wait for a slot.
        """
        if not self._several:
            return group.slots + prefetch - group.running - len(group.prefetched)
        waiting = len(group.prefetched) - self._about_to_start(group)
        return self.free_slots(group) + prefetch - waiting

    def _about_to_start(self, group: SlotGroup) -> int:
        return min(len(group.prefetched), max(self._idle(group), 0))

    def _idle(self, group: SlotGroup) -> int:
        """Return for how many slots prefetched jobs of the group may start now."""
        idle = min(group.slots - group.running, self.concurrency - len(self._running))
        return idle - self.reserved(group)

    def reserved(self, group: SlotGroup) -> int:
        """Return how many slots prefetched jobs of ``group`` leave free for limited tasks.

        When all slots are fewer than those of the groups, they leave free what others need.
        """
        if self.is_capped:
            return max(each.reserved for each in self._groups)
        return group.reserved

    @property
    def is_capped(self) -> bool:
        """Whether the groups have more slots than may be used at once."""
        return self._several and sum(group.slots for group in self._groups) > self.concurrency

    def put(self, claimed: Iterable[ClaimedJob]) -> None:
        """Add claimed jobs behind the prefetched ones."""
        now = monotonic()
        for job in claimed:
            self.group_of(job.queue).add(job, now)

    def put_first(self, claimed: Sequence[ClaimedJob], *, since: float) -> None:
        """Add jobs before the prefetched ones: they were claimed for free slots.

        :param since: by ``time.monotonic``, when the claim began.
        """
        for job in reversed(claimed):
            self.group_of(job.queue).add_first(job, since)

    def start_next(self, *, now: float) -> RunningJob | None:
        """Move the next prefetched job into a free slot; ``None``: no job or no slot.

        Groups take turns. A job whose earlier attempt still runs is parked instead.
        """
        if not self._several:
            return self._start_of(self._groups[0], now)
        for group in self._groups:
            running = self._start_of(group, now)
            if running is not None:
                self._groups.remove(group)
                self._groups.append(group)
                return running
        return None

    def _start_of(self, group: SlotGroup, now: float) -> RunningJob | None:
        while group.prefetched and group.running < group.slots - group.reserved:
            if self._several and self._idle(group) <= 0:
                return None
            claimed, since = group.prefetched[0]
            if claimed.prefetch_no is not None and not self._may_start_prefetched(group):
                return None
            group.take(now=now)
            lease = claimed.lease
            if lease.job_id in self._lease_of:
                self._park(claimed._replace(prefetch_no=None), since)
                continue
            self._lease_of[lease.job_id] = lease
            running = self._running[lease] = RunningJob(claimed, group, since, now)
            group.running += 1
            return running
        return None

    def _may_start_prefetched(self, group: SlotGroup) -> bool:
        """Use one of the group's marked starts; ``False``: none is left."""
        if group.marked <= group.low_water:
            self.mark_wake.set()
        if not group.use_mark():
            return False
        self.prefetched_started += 1
        return True

    def to_mark(self, *, ahead: int) -> list[ClaimedJob]:
        """Return the prefetched jobs to mark next: those for the free slots, and ``ahead`` more.

        A job on its last attempt is marked only for a free slot.
        """
        waiting = [group for group in self._groups if group.prefetched]
        return [
            job
            for group in waiting
            for job in group.to_mark(idle=self._idle(group), ahead=ahead // len(waiting))
        ]

    def marks(self, jobs: Iterable[ClaimedJob]) -> list[int]:
        """Return what the worker's row is to say before ``jobs`` may start; see ``is_unstarted``.

        Four numbers for each mark: that of the claim, and how far its jobs may have started.
        """
        last = {self.group_of(job.queue): job.place for job in jobs}
        places = [last.get(group, group.mark) for group in self._groups]
        newest = max(place for place in places if place is not None)
        found = {newest[0]: newest[1:]}
        if self._several:
            for group, place in zip(self._groups, places, strict=True):
                found.update(group.marks(place))
        return [number for claim in sorted(found) for number in (claim, *found[claim])]

    def mark(self, jobs: Iterable[ClaimedJob], *, ahead: int) -> None:
        """Let these prefetched jobs start: the row says that they may have."""
        last = {self.group_of(job.queue): job for job in jobs}
        for group, job in last.items():
            group.set_mark(job, ahead=ahead > 0)

    def finish(self, running: RunningJob) -> None:
        """Free the slot. A parked attempt of the same job is the next to start."""
        lease, group = running.claimed.lease, running.group
        del self._running[lease]
        del self._lease_of[lease.job_id]
        group.running -= 1
        group.finished += 1
        self.finished += 1
        if self._parked and (parked := self._parked.pop(lease.job_id, None)) is not None:
            self.group_of(parked[0].queue).add_first(*parked)
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
            **claimed.log_fields(),
        )

    def drain_parked(self, lease: Lease | None = None) -> list[ClaimedJob]:
        """Remove and return the parked attempt with this lease, or all of them."""
        drained = [
            claimed for claimed, _ in self._parked.values() if lease in (None, claimed.lease)
        ]
        for claimed in drained:
            del self._parked[claimed.lease.job_id]
        return drained

    def drain_parked_of(self, queue: str) -> list[ClaimedJob]:
        """Remove and return the parked attempts of this queue."""
        parked = [claimed for claimed, _ in self._parked.values() if claimed.queue == queue]
        return [job for claimed in parked for job in self.drain_parked(claimed.lease)]

    def drain_prefetched(self, queues: Collection[str] | None = None) -> list[ClaimedJob]:
        """Remove and return the prefetched jobs of these queues, or all of them."""
        return [job for group in self._groups for job in group.drain(queues)]

    async def wait_until_none_runs(self) -> None:
        """Return when every slot is free."""
        while self._running:
            self._empty = anyio.Event()
            await self._empty.wait()
