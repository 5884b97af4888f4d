"""Claim jobs for a worker: limited ones, those behind the last claim, and those from the head."""

from __future__ import annotations

import math
from collections.abc import Iterable
from time import monotonic

import attrs

from roost._ops.claim import (
    Claimed,
    ClaimedJob,
    Position,
    as_datetime,
    claim_jobs,
    claim_limited_jobs,
)
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

MAX_HEAD_DELAY = 1.0
"""Seconds between two looks from the head at most."""
HEAD_SHARE = 0.1
LIMITED_SHARE = 0.03
"""Share of the time that looks from the head may take while there is a backlog."""

_NOTHING = Claimed([], None, alive=True)


@attrs.define
class Marks:
    """How far the claims have come, per queue and priority, since the last look from the head.

    Claimed jobs leave dead entries at the head of the index until a vacuum, which can't remove them
    while any transaction keeps an old snapshot; to walk over 100,000 costs 19 ms. So while there is
    a backlog, claims go on behind the last one. What arrives before that, with an earlier time or a
    better priority, is found by the next look from the head: after `MAX_HEAD_DELAY` at most, sooner
    where looking is cheap, and at once when a claim comes back short.
    """

    _positions: dict[tuple[str, int], Position] = attrs.field(factory=dict)
    _head_due_at: float = -math.inf

    def usable(self, *, now: float) -> list[Position]:
        """Return where to go on; empty: look from the head."""
        return list(self._positions.values()) if now < self._head_due_at else []

    def advance(self, jobs: Iterable[ClaimedJob]) -> None:
        """Note what was claimed, in running order: the last of each queue and priority.

        These go behind the others, so that queues of one priority have their turn.
        """
        last = {(job.queue, job.priority): job for job in jobs}
        for head, job in last.items():
            self._positions.pop(head, None)
            self._positions[head] = Position(*head, as_datetime(job.scheduled_at), job.lease.job_id)

    def from_the_head(
        self, jobs: Iterable[ClaimedJob], *, took: float, more: bool, now: float
    ) -> None:
        """Note a look from the head: its jobs, its seconds, and whether it left a backlog."""
        self._positions.clear()
        self.advance(jobs)
        self._head_due_at = now + min(MAX_HEAD_DELAY, took / HEAD_SHARE) if more else -math.inf


class Claims:
    """The claims of one worker, one at a time.

    Jobs of limited tasks are claimed for free slots only: one that waited in the line would take up
    room in its limit, while another worker has a slot for it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._marks = Marks()
        self._queues = list(runtime.settings.queues)  # those that were served last stand last
        self._limited_due_at = -math.inf
        self._limited_ready_at = math.inf
        self._slots_wanted = 1
        self._unlimited_slots = 0
        self._soon = False
        self._prefetch_no = 0

    @property
    def limited_at(self) -> float:
        """When to look for jobs of limited tasks, by ``time.monotonic``, if there is a free slot.

        In the past for now, infinity for never: what comes is heard of.
        """
        if not self._limited_tasks():
            return math.inf
        return -math.inf if self._runtime.limited_may_wait else self._limited_ready_at

    def slots_wanted(self, *, now: float) -> int:
        """Return how many slots to keep free of the line's jobs, for jobs of limited tasks.

        Those would never start beside a line that is always filled again. One at first, and twice
        as many after each look that filled them.
        """
        runtime = self._runtime
        if not self._limited_tasks():
            return 0
        due = runtime.limited_waiting != frozenset() and now >= self._limited_due_at
        return self._slots_wanted if due or now >= self.limited_at else 0

    async def claim(self, limit: int, *, slots: int, timeout: float, soon: bool = False) -> Claimed:
        """Claim up to ``limit`` jobs; without limited tasks that is one statement, seldom two.

        :param slots: how many jobs would start at once; no more are claimed of limited tasks.
        :param timeout: in seconds, for each statement.
        :param soon: whether what has to wait for a slot does so for moments.
        :raises DatabaseUnavailableError: nothing was claimed, or nobody knows.
        """
        claimed = _NOTHING
        self._prefetch_no += 1
        self._soon = soon
        for part in (self._limited, self._behind_the_last, self._from_the_head):
            room = limit - len(claimed.jobs)
            if part == self._limited:
                room = min(room, slots)
            elif not room:
                break
            # Behind others in the line no job starts at once.
            idle = 0 if self._runtime.running.waiting else slots - len(claimed.jobs)
            self._unlimited_slots = max(idle, 0)
            try:
                more = await part(room, timeout)
            except DatabaseUnavailableError:
                # The parts before are committed: run them. What this one may have taken is given
                # back.
                if not claimed.jobs:
                    raise
                return attrs.evolve(claimed, next_due=None, complete=False)
            claimed = _together(claimed, more)
        return claimed

    async def _limited(self, room: int, timeout: float) -> Claimed:
        """Look for jobs of limited tasks: when room was made for one, or the time has come.

        With a full limit there is nothing to find, and a look before every other claim took a third
        of a drain's speed.
        """
        runtime = self._runtime
        limited = self._limited_tasks()
        began = monotonic()
        if not limited or not room or began < min(self._limited_due_at, self.limited_at):
            return _NOTHING
        runtime.limited_may_wait = False
        runtime.limited_waiting = None  # what is heard until the answer may concern any of them
        claimed = await runtime.call_in_transaction(
            claim_limited_jobs(
                worker_id=runtime.worker_id,
                queues=runtime.settings.queues,
                limited=limited,
                tasks=list(runtime.registry),
                limit=room,
            ),
            timeout=timeout,
        )
        now = monotonic()
        self._limited_due_at = now + min(MAX_HEAD_DELAY, (now - began) / LIMITED_SHARE)
        # A little late rather than a little early: the two clocks tick apart.
        ready_in = math.inf if claimed.next_due is None else max(claimed.next_due, 0.0) + 0.001
        self._limited_ready_at = now + ready_in
        filled = len(claimed.jobs) == room
        self._slots_wanted = min(2 * room, runtime.settings.concurrency) if filled else 1
        runtime.limited_waiting = claimed.waiting
        runtime.limited_may_wait = runtime.limited_may_wait or filled
        runtime.limited_held.update(job.lease for job in claimed.jobs)
        return attrs.evolve(claimed, next_due=None)  # see `limited_at`

    def _limited_tasks(self) -> list[str]:
        runtime = self._runtime
        if not runtime.limited_tasks:
            return []
        return [task for task in runtime.registry if task in runtime.limited_tasks]

    async def _behind_the_last(self, room: int, timeout: float) -> Claimed:
        after = self._marks.usable(now=monotonic())
        if not after:
            return _NOTHING
        claimed = await self._unlimited(room, timeout, after=after)
        self._marks.advance(claimed.jobs)
        return claimed

    async def _from_the_head(self, room: int, timeout: float) -> Claimed:
        began = monotonic()
        claimed = await self._unlimited(room, timeout, after=())
        now = monotonic()
        more = len(claimed.jobs) == room
        self._marks.from_the_head(claimed.jobs, took=now - began, more=more, now=now)
        return claimed

    async def _unlimited(self, room: int, timeout: float, *, after: Iterable[Position]) -> Claimed:
        runtime = self._runtime
        claimed = await runtime.call(
            claim_jobs(
                worker_id=runtime.worker_id,
                queues=self._queues,
                # Jobs of limited tasks that are not marked yet wait until they are.
                tasks=[task for task in runtime.registry if task not in runtime.limited_tasks],
                limit=room,
                after=after,
                slots=self._unlimited_slots,
                soon=self._soon,
                prefetch_no=self._prefetch_no,
            ),
            timeout=timeout,
        )
        served = {job.queue for job in claimed.jobs}
        self._queues.sort(key=lambda queue: queue in served)
        return claimed


def _together(first: Claimed, then: Claimed) -> Claimed:
    waits = [wait for wait in (first.next_due, then.next_due) if wait is not None]
    return Claimed(
        first.jobs + then.jobs,
        min(waits, default=None),
        alive=first.alive and then.alive,
        credit=then.credit if first.credit is None else first.credit,
        for_slots=first.for_slots + then.for_slots,
        waiting=first.waiting | then.waiting,
    )
