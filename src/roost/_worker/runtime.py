"""What the lanes of one worker share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TypeVar

import anyio
import attrs

from roost._drivers.base import (
    CALL_TIMEOUT,
    CLEANUP_TIMEOUT,
    AsyncConnection,
    AsyncDriver,
    AsyncPool,
    run,
)
from roost._model.registry import HandlerRegistry
from roost._model.settings import WorkerSettings
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict
from roost._ops.claim import ClaimedJob
from roost._ops.query import Op
from roost._ops.workers import discard_plans
from roost._worker.alertness import Alertness
from roost._worker.offer import Offer
from roost._worker.plans import Plans
from roost._worker.running import Reason, Running
from roost._worker.unwritten import Unwritten
from roost._worker.wake import Wake
from roost.exceptions import DatabaseError

T = TypeVar("T")


def _nobody_stops(error: BaseException) -> None:
    """Stands in until the session is there."""
    raise error


def _nobody_starts() -> None:
    """Stands in until the execute lane is there."""


@attrs.define(eq=False, kw_only=True)
class Runtime:
    """The state of a running worker. Lanes read and change it between awaits, and wake each other.

    Times are by ``time.monotonic``: to ask for the loop's clock, by which scopes end,
    takes ten times as long, and each job asks twice.

    :param heartbeat_pool: one connection for the worker's own row. Claims, settles and upkeep may
        all wait for a lock on ``roost.jobs``; the heartbeat must not wait with them.
    :param worker_id: the current incarnation; a new one after its row was lost.
    :param lease_until: by ``time.monotonic``, when others may take this worker's jobs.
    :param cancel_requests: (id, lease number) of this worker's jobs whose rows ask for a cancel, as
        of the last look at them.
    :param cancel_heard: whether a cancel was announced, since the last claim began, of a job that
        this worker doesn't hold: the claim's answer may bring it.
    :param listening: whether notifications arrive.
    :param limited_tasks: the tasks that have limits in the database, whoever declared them.
    :param limited_held: leases of jobs of limited tasks that were claimed and are not settled yet.
    :param limited_may_wait: whether jobs of limited tasks may be claimable since the last look.
    :param limited_waiting: the limited tasks of which jobs waited at the last look; ``None``: no
        look has been answered.
    :param paused: queues of which no job is started; see `PausesLane`.
    :param alertness: whether it is notified of jobs, or looks by itself.
    :param offer: to be given a job without a claim.
    :param jobs_may_wait: whether the table may hold due jobs that the last claim did not take.
    :param stopping: whether a stop was asked for: nothing is claimed or started any more.
    :param abandoned: leases of jobs whose threads were left behind; this worker keeps them.
    :param due_at: by ``time.monotonic``, when a job is due that was put off since the last claim.
    :param plans: which connections' cached plans to doubt.
    :param background: how many connections upkeep may use at once. Two, so that one lane of it that
        waits delays no other, and a claim or a settle always finds the third.
    :param start_waiting: starts jobs of the line in free slots; the execute lane sets it.
    :param crashed: keeps an error for `Worker.run` to raise, and begins the ordered stop.
    """

    name: str
    settings: WorkerSettings
    registry: HandlerRegistry
    driver: AsyncDriver
    pool: AsyncPool
    heartbeat_pool: AsyncPool
    running: Running
    worker_id: int = 0
    lease_until: float = math.inf
    look: Wake = attrs.field(factory=Wake)
    settling: Unwritten = attrs.field(factory=Unwritten)
    settle_wake: Wake = attrs.field(factory=Wake)
    apart_wake: Wake = attrs.field(factory=Wake)
    heartbeat_wake: Wake = attrs.field(factory=Wake)
    cron_wake: Wake = attrs.field(factory=Wake)
    control_wake: Wake = attrs.field(factory=Wake)
    pauses_wake: Wake = attrs.field(factory=Wake)
    cancel_requests: frozenset[tuple[int, int]] = frozenset()
    cancel_heard: bool = False
    listening: bool = False
    limited_tasks: frozenset[str] = frozenset()
    limited_held: set[Lease] = attrs.field(factory=set)
    limited_may_wait: bool = True
    limited_waiting: frozenset[str] | None = None
    paused: frozenset[str] = frozenset()
    alertness: Alertness = attrs.field(factory=Alertness)
    offer: Offer = attrs.field(factory=Offer)
    jobs_may_wait: bool = True
    stopping: bool = False
    abandoned: set[Lease] = attrs.field(factory=set)
    due_at: float = math.inf
    plans: Plans = attrs.field(factory=Plans)
    background: anyio.Semaphore = attrs.field(factory=lambda: anyio.Semaphore(2))
    start_waiting: Callable[[], None] = _nobody_starts
    crashed: Callable[[BaseException], None] = _nobody_stops

    async def call(self, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
        """Run one operation on a connection of the pool; ``timeout`` bounds both together."""
        async with self.pool.acquire(timeout=timeout) as connection:
            began = monotonic()
            value = await run(connection, operation, timeout=timeout)
            await self._plan_anew_if_slow(connection, began)
            return value

    async def call_for_heartbeat(self, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
        """Run one operation on the heartbeat's own connection; ``timeout`` bounds both together."""
        async with self.heartbeat_pool.acquire(timeout=timeout) as connection:
            return await run(connection, operation, timeout=timeout)

    async def call_in_background(
        self, operation: Op[T], *, in_transaction: bool = False, timeout: float = CALL_TIMEOUT
    ) -> T:
        """Do the same as upkeep, which never uses all connections."""
        async with self.background:
            if in_transaction:
                return await self.call_in_transaction(operation, timeout=timeout)
            return await self.call(operation, timeout=timeout)

    async def call_in_transaction(self, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
        """Do the same with all statements of the operation in one transaction."""
        async with self.pool.acquire(timeout=timeout) as connection:
            began = monotonic()
            async with connection.transaction():
                value = await run(connection, operation, timeout=timeout)
            await self._plan_anew_if_slow(connection, began)
            return value

    async def _plan_anew_if_slow(self, connection: AsyncConnection, began: float) -> None:
        if self.plans.doubtful(connection, began=began, now=monotonic()):
            # Maybe by a plan from when the table was empty. The answer counts in any case.
            with contextlib.suppress(DatabaseError):
                await run(connection, discard_plans(), timeout=CLEANUP_TIMEOUT)

    def look_again(self) -> None:
        """Tell the fetch lane that there may be jobs."""
        self.jobs_may_wait = self.limited_may_wait = True
        self.look.set()

    def is_paused(self, claimed: ClaimedJob) -> bool:
        """Say whether the job must not be started, for its queue is paused."""
        if claimed.queue not in self.paused:
            return False
        # It was claimed all the same: maybe the queue has been resumed, unheard.
        self.pauses_wake.set()
        return True

    def hand_back_paused(self) -> list[ClaimedJob]:
        """Hand back the jobs of paused queues that wait for a slot, and return them."""
        jobs = self.running.give_up_waiting(self.paused) if self.paused else []
        self.release(jobs)
        return jobs

    def waits_for_room(self, task: str) -> bool:
        """Say whether a job of a limited task may wait here for another one of it to end."""
        if self.limited_waiting is None:
            return task in self.limited_tasks
        return task in self.limited_waiting

    def due_in(self, seconds: float) -> None:
        """Note that a job is due in ``seconds``; wakes nobody."""
        # A little late rather than a little early: the two clocks tick apart.
        self.due_at = min(self.due_at, monotonic() + max(seconds, 0.0) + 0.001)

    def settle(self, verdict: Verdict) -> None:
        """Hand a verdict to the settle lane."""
        self.settling.append(verdict)
        self.settle_wake.set()

    def release(self, claimed: Iterable[ClaimedJob]) -> None:
        """Hand back jobs that were never started."""
        for job in claimed:
            self.settle(Verdict(job.lease, Event.RELEASE))

    def held(self) -> set[Lease]:
        """Return all leases that this worker knows of, those of earlier incarnations included."""
        unsettled = (verdict.lease for verdict in self.settling)
        return {*self.running.leases, *unsettled, *self.abandoned}

    def runs_under_its_row(self) -> bool:
        """Say whether a lease of the current incarnation is still needed.

        A handler may still run under it, or its verdict is not written yet.
        """
        unwritten = (verdict.lease for verdict in self.settling)
        leases = (*self.running.leases, *self.abandoned, *unwritten)
        return any(lease.worker_id == self.worker_id for lease in leases)

    def busy(self) -> bool:
        """Say whether a job is held or a verdict not written yet."""
        return bool(len(self.running) or self.running.waiting or self.settling)

    def cancel(self, requests: Iterable[tuple[int, int]]) -> None:
        """Interrupt the jobs whose rows ask for it, as (id, lease number); keep it for the others.

        Others wait for a slot. :param requests: what all rows of this worker's jobs say now.
        """
        self.cancel_requests = frozenset(requests)
        for job_id, lease_no in self.cancel_requests:
            running = self.running.get(job_id)
            if running is None:
                continue
            if running.claimed.lease.lease_no == lease_no:
                running.cancel(Reason.USER)
                continue
            for parked in self.running.give_up_parked(Lease(job_id, self.worker_id, lease_no)):
                self.settle(Verdict(parked.lease, Event.CANCEL))

    def claim_begins(self) -> None:
        """Note that jobs may be on their way here of which a cancel can be announced before."""
        self.cancel_heard = False

    def claim_ended(self) -> None:
        """Look for cancels again if one was announced that may concern what the claim brought."""
        if self.cancel_heard:
            self.control_wake.set()

    def was_cancelled(self, lease: Lease) -> bool:
        """Say whether the row asked for a cancel of this attempt before it started."""
        return (lease.job_id, lease.lease_no) in self.cancel_requests

    def holds_leases(self) -> bool:
        """Say whether nobody else can have taken this worker's jobs."""
        return monotonic() < self.lease_until

    def lose_leases(self) -> None:
        """Stop every job, for others may run them now (self-fencing)."""
        self.running.give_up_waiting()
        self.running.give_up_parked()
        self.limited_held.clear()
        self.limited_may_wait = True
        for running in self.running:
            running.cancel(Reason.LEASE_LOST)
