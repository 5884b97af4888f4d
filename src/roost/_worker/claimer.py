"""Claims jobs: those of limited tasks, those behind the last claim, and those from the head.

After a claim without an answer, this worker releases every lease that it doesn't know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from time import monotonic

import anyio
import attrs

from roost._drivers.shield import shielded
from roost._model.logs import StructuredLogger
from roost._ops.claim import (
    Claimed,
    ClaimedJob,
    Position,
    as_datetime,
    claim_jobs,
    claim_limited_jobs,
)
from roost._ops.workers import release_unheld
from roost._worker.database import ClaimCalls, Database
from roost._worker.lane import backoff
from roost._worker.queue_group import QueueGroup
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.fetch")

MAX_HEAD_DELAY = 1.0
"""Seconds between two claims from the head at most."""
HEAD_SHARE = 0.1
LIMITED_SHARE = 0.03
"""Shares of the time that claims from the head, and claims of limited tasks, may take at most while
there is a backlog."""

_NOTHING = Claimed([], None, alive=True)


@attrs.define
class Watermarks:
    """The last claimed position of each queue and priority, since the last claim from the head.

    Claimed jobs leave dead entries at the head of the index until a vacuum, which can't remove them
    while any transaction keeps an old snapshot; to walk over 100,000 costs 19 ms. So while there is
    a backlog, claims go on behind the last one. A job that arrives before that place, with an
    earlier time or a better priority, is found by the next claim from the head: after
    `MAX_HEAD_DELAY` at most, sooner where such a claim is cheap, and at once when a claim returns
    fewer jobs than it asked for.
    """

    _positions: dict[tuple[str, int], Position] = attrs.field(factory=dict)
    _head_due_at: float = -math.inf

    def usable(self, *, now: float) -> list[Position]:
        """Return the positions to claim behind; empty: claim from the head."""
        return list(self._positions.values()) if now < self._head_due_at else []

    def advance(self, jobs: Iterable[ClaimedJob]) -> None:
        """Record what was claimed, in running order: the last job of each queue and priority.

        These go behind the others, so that queues of one priority take turns.
        """
        last = {(job.queue, job.priority): job for job in jobs}
        for head, job in last.items():
            self._positions.pop(head, None)
            self._positions[head] = Position(*head, as_datetime(job.scheduled_at), job.lease.job_id)

    def restart(self, jobs: Iterable[ClaimedJob], *, took: float, more: bool, now: float) -> None:
        """Record a claim from the head.

        :param took: seconds.
        :param more: whether the claim was full, so that a backlog is left.
        """
        self._positions.clear()
        self.advance(jobs)
        self._head_due_at = now + min(MAX_HEAD_DELAY, took / HEAD_SHARE) if more else -math.inf


class Claimer:
    """Makes the claims of one worker for queues that share slots, one at a time.

    Jobs of limited tasks are claimed for free slots only. Prefetched, such a job would take up room
    in its limit while another worker has a slot for it.
    """

    def __init__(self, state: WorkerState, database: Database, group: QueueGroup) -> None:
        self._state = state
        self._database = database
        self._group = group
        self._watermarks = Watermarks()
        self._limited_due_at = -math.inf
        self._limited_ready_at = math.inf
        self._slots_wanted = 1

    @property
    def limited_at(self) -> float:
        """When to claim jobs of limited tasks if there is a free slot, by ``time.monotonic``.

        In the past for now; infinity: at the next notification.
        """
        if not self._limited_tasks():
            return math.inf
        return -math.inf if self._group.limited_may_wait else self._limited_ready_at

    def reserve(self, *, now: float) -> bool:
        """Set how many slots prefetched jobs leave free; ``True``: fewer than before.

        A job of a limited task never starts behind prefetched jobs.
        """
        slots = self._group.slots
        before = slots.reserved
        claims = bool(slots.prefetched) and self._state.may_claim()
        slots.reserved = self._slots_for_limited(now=now) if claims else 0
        return slots.reserved < before

    async def claim(self, limit: int, *, slots: int, timeout: float) -> Claimed:
        """Claim up to ``limit`` jobs: one statement without limited tasks, rarely two.

        :param slots: how many jobs would start at once; no more are claimed of limited tasks.
        :param timeout: in seconds, for each statement.
        :raises DatabaseUnavailableError: nothing was claimed, or it is not known.
        """
        claimed = _NOTHING
        self._state.claims += 1
        for part in (self._limited, self._behind_the_last, self._from_the_head):
            room = limit - len(claimed.jobs)
            free = slots - len(claimed.jobs)
            if part == self._limited:
                room = min(room, slots)
            elif not room:
                break
            try:
                more = await part(room, free, timeout)
            except DatabaseUnavailableError:
                # The parts before are committed: run them. What this one may have claimed is
                # released.
                if not claimed.jobs:
                    raise
                return attrs.evolve(claimed, next_due=None, complete=False)
            claimed = combined(claimed, more)
        return claimed

    async def _limited(self, room: int, free: int, timeout: float) -> Claimed:  # noqa: ARG002
        """Claim jobs of limited tasks, if one of them may have room or their time has come.

        Under a full limit there is nothing to find: a claim of them before every other claim took a
        third of a drain's speed (November 2026).
        """
        state, group = self._state, self._group
        limited = self._limited_tasks()
        began = monotonic()
        if not limited or not room or began < min(self._limited_due_at, self.limited_at):
            return _NOTHING
        group.limited_may_wait = False
        # A job of a queue that this worker takes for paused would be released again, and its rate
        # would have counted the start. `PauseLane` has limited jobs claimed again after a resume.
        queues = [queue for queue in group.queues if queue not in state.refused]
        if not queues:
            self._limited_ready_at = math.inf
            return _NOTHING
        group.limited_waiting = None  # until the answer, a notification may concern any of them
        claimed = await self._database.call_in_transaction(
            claim_limited_jobs(
                worker_id=state.worker_id,
                queues=queues,
                limited=limited,
                tasks=list(state.registry),
                limit=room,
            ),
            timeout=timeout,
        )
        now = monotonic()
        self._limited_due_at = now + min(MAX_HEAD_DELAY, (now - began) / LIMITED_SHARE)
        if claimed.next_due is None:
            self._limited_ready_at = math.inf
        elif claimed.next_due <= 0:
            # There is room for jobs that come behind others, which are claimed now.
            self._limited_ready_at = self._limited_due_at
        else:
            # A little late rather than a little early: the database's clock and this one differ.
            self._limited_ready_at = now + claimed.next_due + 0.001
        filled = len(claimed.jobs) == room
        self._slots_wanted = min(2 * room, group.slots.slots) if filled else 1
        group.limited_waiting = claimed.waiting
        group.limited_may_wait = group.limited_may_wait or filled or claimed.more
        state.limited.held.update(job.lease for job in claimed.jobs)
        return attrs.evolve(claimed, next_due=None)  # see `limited_at`

    def _slots_for_limited(self, *, now: float) -> int:
        """Return for how many slots to claim jobs of limited tasks.

        It is one at first, and twice as many after each claim that filled them.
        """
        if not self._limited_tasks():
            return 0
        due = self._group.limited_waiting != frozenset() and now >= self._limited_due_at
        return self._slots_wanted if due or now >= self.limited_at else 0

    def _limited_tasks(self) -> list[str]:
        state = self._state
        if not state.limited.names:
            return []
        return [task for task in state.registry if task in state.limited.names]

    async def _behind_the_last(self, room: int, free: int, timeout: float) -> Claimed:
        after = self._watermarks.usable(now=monotonic())
        if self._state.stopped:
            after = [position for position in after if position.queue not in self._state.stopped]
        if not after:
            return _NOTHING
        claimed = await self._unlimited(room, free, timeout, after=after)
        self._watermarks.advance(claimed.jobs)
        return claimed

    async def _from_the_head(self, room: int, free: int, timeout: float) -> Claimed:
        began = monotonic()
        claimed = await self._unlimited(room, free, timeout, after=())
        now = monotonic()
        more = len(claimed.jobs) == room
        self._watermarks.restart(claimed.jobs, took=now - began, more=more, now=now)
        return claimed

    async def _unlimited(
        self, room: int, free: int, timeout: float, *, after: Iterable[Position]
    ) -> Claimed:
        state, group = self._state, self._group
        claimed = await self._database.call(
            claim_jobs(
                worker_id=state.worker_id,
                queues=group.queues,
                tasks=state.unlimited_tasks(),
                limit=room,
                after=after,
                # Behind prefetched jobs none starts at once.
                slots=0 if group.slots.prefetched else max(free, 0),
                soon=group.prefetch.starts_soon,
                prefetch_no=state.claims,
            ),
            timeout=timeout,
        )
        served = {job.queue for job in claimed.jobs}
        group.queues.sort(key=lambda queue: queue in served)
        return claimed


def combined(first: Claimed, then: Claimed) -> Claimed:
    """Return two answers as one."""
    waits = [wait for wait in (first.next_due, then.next_due) if wait is not None]
    return Claimed(
        first.jobs + then.jobs,
        min(waits, default=None),
        alive=first.alive and then.alive,
        credit=then.credit if first.credit is None else first.credit,
        for_slots=first.for_slots + then.for_slots,
        waiting=first.waiting | then.waiting,
    )


async def release_unknown(state: WorkerState, database: Database, calls: ClaimCalls) -> None:
    """Release the leases that this worker doesn't know of, and revoke its credit.

    Only for a worker that holds its leases. One that has lost them has stopped jobs that it ran: it
    does not know of them any more, and their attempts were made.

    :raises DatabaseUnavailableError: not released, or that is not known; to be tried again.
    """
    # Before the call: no job that it releases may be accepted any more.
    state.credit.revoke()
    try:
        released = await database.call_in_transaction(
            release_unheld(state.worker_id, held=state.held_leases())
        )
    except BaseException:
        state.credit.needs_reconcile = True
        raise
    calls.unanswered = False
    if released:
        logger.warning("released jobs of an unanswered claim: %(jobs)s", jobs=released)
        state.look_again()


async def release_at_stop(state: WorkerState, database: Database, calls: ClaimCalls) -> None:
    """Do what `release_unknown` does, if needed, before the worker ends."""
    credit = state.credit
    if not (calls.unanswered or credit.needs_reconcile or credit.number is not None):
        return
    with shielded(calls.seconds_to_stop()):
        while state.holds_leases():
            try:
                await release_unknown(state, database, calls)
            except DatabaseUnavailableError as error:
                logger.warning(
                    "jobs of an unanswered claim are not released yet: %(error)s", error=str(error)
                )
                await anyio.sleep(backoff(1))
            else:
                return
    logger.warning("jobs of an unanswered claim could not be released; they will be rescued")
