"""What the lanes of one worker share: data only.

Each method is synchronous, so a cancel can't leave half of a change. Lanes read and change the
state between awaits. What they want from another lane they put here and set that lane's wake.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from time import monotonic

import anyio
import attrs

from roost._model.database_view import DatabaseView
from roost._model.lifespan import State
from roost._model.logs import StructuredLogger
from roost._model.registry import HandlerRegistry
from roost._model.settings import WorkerSettings
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict, error_record
from roost._ops.claim import Claimed, ClaimedJob
from roost._ops.settle import Settled
from roost._worker.credit import Credit
from roost._worker.event_log import EventLog
from roost._worker.lane import Wake
from roost._worker.loop_lag import LoopLag
from roost._worker.metadata import MetadataQueue
from roost._worker.notify_mode import NotifyMode
from roost._worker.queue_group import QueueGroup
from roost._worker.running_job import Reason
from roost._worker.slots import Slots
from roost._worker.statistics import Statistics
from roost._worker.verdicts import VerdictQueue
from roost._worker.vitals import Vitals
from roost.exceptions import SchemaError, WorkerCrashedError

logger = StructuredLogger("roost.worker")

MAX_UNSETTLED = 10_000
"""Verdicts that may wait for the database; beyond it nothing new is claimed or started."""


@attrs.define(eq=False)
class Stop:
    """Whether and how the worker is to stop.

    :param requested: nothing is claimed or started any more.
    :param hurried: the grace of the running jobs ends now.
    :param starting: the scope of the first calls to the database; a stop cancels it.
    :param crash: the first error that no lane can go on after; `Worker.run` raises it.
    """

    requested: anyio.Event = attrs.field(factory=anyio.Event)
    hurried: anyio.Event = attrs.field(factory=anyio.Event)
    starting: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    crash: BaseException | None = None

    def request(self) -> None:
        """Begin the ordered stop; if it has begun, end the grace now.

        Must be called in the loop's thread. A signal handler may call it: it needs no task.
        """
        if self.requested.is_set():
            self.hurried.set()
        self.starting.cancel()
        self.requested.set()

    def fail(self, error: BaseException) -> None:
        """Keep the first cause, log it, and begin the ordered stop."""
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if self.crash is None:
            self.crash = error
            if not isinstance(error, (Exception, KeyboardInterrupt, BaseExceptionGroup)):
                # A SystemExit would end the process as if all were well.
                self.crash = WorkerCrashedError(f"a lane raised {type(error).__name__}")
                self.crash.__cause__ = error
            logger.critical(
                "worker crashed: %(error)s",
                # A schema's message says what is wrong; a traceback adds nothing.
                exc_info=None if isinstance(error, SchemaError) else error,
                error=error_record(error)["error"],
            )
        if not self.requested.is_set():
            self.request()


@attrs.define(eq=False)
class LimitedTasks:
    """The tasks that have a rate or concurrency limit in the database.

    :param names: these tasks, also those that another worker has declared.
    :param held: leases of their jobs that were claimed here and are not settled yet.
    """

    names: frozenset[str] = frozenset()
    held: set[Lease] = attrs.field(factory=set)


@attrs.define(eq=False, kw_only=True)
class WorkerState:
    """The state of a running worker.

    Times are by ``time.monotonic``: asking for the loop's clock takes ten times as long, and each
    job asks twice.

    :param name: host and process id.
    :param slots: the claimed jobs: prefetched, running and parked.
    :param groups: the queues that are served, by the slots that they share.
    :param verdicts: the verdicts that are not written yet.
    :param metadata: what handlers have changed in their jobs' metadata and is not written yet.
    :param statistics: what was counted since the worker's start.
    :param loop_lag: how late the event loop runs what is due.
    :param worker_id: the current incarnation; a new one after its row was lost.
    :param lease_until: when this worker must stop its jobs: 90 % of ``orphan_stale_after`` after
        the last renewal. Other workers may take them after the whole time.
    :param listening: whether notifications arrive.
    :param notify_mode: whether producers notify this worker, or it polls.
    :param credit: of one job that a producer may dispatch to this worker without a claim.
    :param claims: how many claims were begun; see ``prefetch_no`` of `claim_jobs`.
    :param paused: queues of which no job is started; see `PauseLane`. Change it by `set_paused`.
    :param stopped: queues that were served and are not any more.
    :param refused: queues of which no job is started: paused or stopped ones.
    :param starting: queues that will be served when the worker's row names them.
    :param row_is_stale: whether the worker's row may name other queues than it serves.
    :param cancel_requests: (id, lease number) of this worker's jobs whose rows ask for a cancel, as
        last read.
    :param cancel_announced: whether, since the last claim began, a cancel was announced of a job
        that this worker doesn't hold: the claim's answer may bring it.
    :param events: what happened and is not sent yet; ``None``: no client listens.
    :param watch_announced: whether a client has said that it listens.
    :param abandoned: leases of jobs whose threads were left behind; this worker keeps them.
    :param handler_state: what the lifespan made for handlers.
    :param database_view: the numbers of the database that are exported as metrics.
    :param vitals: when the lanes last did what the worker's health depends on.
    """

    name: str
    settings: WorkerSettings
    registry: HandlerRegistry
    slots: Slots
    groups: list[QueueGroup]
    verdicts: VerdictQueue = attrs.field(factory=VerdictQueue)
    metadata: MetadataQueue = attrs.field(factory=MetadataQueue)
    statistics: Statistics = attrs.field(factory=Statistics)
    loop_lag: LoopLag = attrs.field(factory=LoopLag)
    stop: Stop = attrs.field(factory=Stop)
    worker_id: int = 0
    lease_until: float = math.inf
    listening: bool = False
    notify_mode: NotifyMode = attrs.field(factory=NotifyMode)
    credit: Credit = attrs.field(factory=Credit)
    limited: LimitedTasks = attrs.field(factory=LimitedTasks)
    claims: int = 0
    paused: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    starting: list[str] = attrs.field(factory=list)
    row_is_stale: bool = False
    cancel_requests: frozenset[tuple[int, int]] = frozenset()
    cancel_announced: bool = False
    events: EventLog | None = None
    watch_announced: bool = False
    abandoned: set[Lease] = attrs.field(factory=set)
    handler_state: State = attrs.field(factory=State)
    vitals: Vitals = attrs.field(factory=Vitals)
    database_view: DatabaseView = attrs.field(factory=DatabaseView)
    fetch_wake: Wake = attrs.field(factory=Wake)
    start_wake: Wake = attrs.field(factory=Wake)
    settle_wake: Wake = attrs.field(factory=Wake)
    slow_settle_wake: Wake = attrs.field(factory=Wake)
    metadata_wake: Wake = attrs.field(factory=Wake)
    heartbeat_wake: Wake = attrs.field(factory=Wake)
    cron_wake: Wake = attrs.field(factory=Wake)
    limits_wake: Wake = attrs.field(factory=Wake)
    cancel_wake: Wake = attrs.field(factory=Wake)
    pause_wake: Wake = attrs.field(factory=Wake)
    events_wake: Wake = attrs.field(factory=Wake)

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested: nothing is claimed or started any more."""
        return self.stop.requested.is_set()

    @property
    def queues(self) -> list[str]:
        """The names of the queues that this worker serves, or is about to serve."""
        return [*(queue for group in self.groups for queue in group.queues), *self.starting]

    def wake_fetch(self, queue: str | None = None) -> None:
        """Wake the fetch lane, because there may be jobs.

        :param queue: in this queue; ``None``: in any.
        """
        self.look_again(queue)
        self.fetch_wake.set()

    def look_again(self, queue: str | None = None) -> None:
        """Record that there may be due jobs in ``queue``, or in any. Wakes no lane."""
        for group in self.groups:
            if queue is None or queue in group.queues:
                group.look_again()

    def look_for_limited(self) -> None:
        """Record that there may be due jobs of limited tasks. Wakes no lane."""
        for group in self.groups:
            group.limited_may_wait = True

    def concerns(self, limited: str) -> bool:
        """Say whether room in the limit of this task may let one of its jobs be claimed here."""
        for group in self.groups:
            waiting = group.limited_waiting
            if limited in (self.limited.names if waiting is None else waiting):
                return True
        return False

    def may_claim(self) -> bool:
        """Say whether this worker may take jobs at all."""
        return not self.stopping and self.holds_leases() and len(self.verdicts) < MAX_UNSETTLED

    def group_of(self, queue: str) -> QueueGroup | None:
        """Return the group that claims from ``queue``; ``None``: it is not served (any more)."""
        return next((group for group in self.groups if queue in group.queues), None)

    def room(self, group: QueueGroup) -> int:
        """Return how many jobs of ``group`` this worker may claim now."""
        if not self.may_claim():
            return 0
        slots, prefetch = self.slots, group.prefetch
        if not slots.is_capped:
            prefetch.record_finished(group.slots.finished, now=monotonic())
            return slots.room(group.slots, prefetch.size)
        prefetch.record_finished(group.slots.finished, now=monotonic(), of_all=slots.finished)
        # One waits at least: where others have prefetched, it would else never get a free slot.
        least = 1 if prefetch.fixed is None and not prefetch.stalled else 0
        return slots.room(group.slots, max(prefetch.size, least))

    def put_claimed(self, claimed: Claimed, group: QueueGroup, *, began: float) -> None:
        """Put claimed jobs into the slots, and record the rest of the claim's answer.

        :param group: the queues of the claim.
        :param began: by ``time.monotonic``, when the claim began.
        """
        if not claimed.alive:
            self.heartbeat_wake.set()
        if claimed.next_due is not None:
            group.due_at = min(group.due_at, _due_in(claimed.next_due))
        group.slots.reserved = 0
        if claimed.jobs:
            group.prefetch.record_claim(began=began, ended=monotonic())
            self.slots.put_first(claimed.jobs[: claimed.for_slots], since=began)
            self.slots.put(claimed.jobs[claimed.for_slots :])
            if self.release_refused():
                self.pause_wake.set()  # claimed all the same: the queue may have been resumed
            self.claim_ended()
        self.start_wake.set()

    def unlimited_tasks(self) -> list[str]:
        """Return the tasks that this worker knows and that have no limit.

        A job that was inserted before its task got a limit waits until it is marked as limited.
        """
        if not self.limited.names:
            return list(self.registry)
        return [task for task in self.registry if task not in self.limited.names]

    def due_in(self, seconds: float) -> None:
        """Record that a job is due in ``seconds``. Wakes no lane."""
        for group in self.groups:
            group.due_at = min(group.due_at, _due_in(seconds))

    # Leases

    def holds_leases(self) -> bool:
        """Say whether this worker's jobs can't have been taken by another worker."""
        return monotonic() < self.lease_until

    def held_leases(self) -> set[Lease]:
        """Return all leases that this worker knows of, including those of earlier incarnations."""
        unsettled = (verdict.lease for verdict in self.verdicts)
        return {*self.slots.leases, *unsettled, *self.abandoned}

    def knows(self, lease: Lease) -> bool:
        """Say whether ``lease`` is one of `held_leases`."""
        return lease in self.slots or lease in self.abandoned or lease in self.verdicts

    def needs_its_row(self) -> bool:
        """Say whether a lease of the current incarnation is still needed.

        A handler may still run under it, or its verdict is not written yet.
        """
        return any(lease.worker_id == self.worker_id for lease in self.held_leases())

    def lose_leases(self) -> None:
        """Stop every job, for other workers may run them now (self-fencing)."""
        self.slots.drain_prefetched()
        self.slots.drain_parked()
        self.limited.held.clear()
        self.look_for_limited()
        for running in self.slots:
            running.cancel(Reason.LEASE_LOST)

    # Verdicts

    def settle(self, verdict: Verdict) -> None:
        """Have a verdict written."""
        self.verdicts.fresh.append(verdict)
        self.settle_wake.set()

    def record_written(
        self, settled: Settled, sent: Collection[Verdict], *, unsure: Collection[Lease] = ()
    ) -> None:
        """Record which of the sent verdicts were written, and wake the fetch lane.

        :param settled: the answer; its ``busy`` and ``parents`` are not written yet.
        :param sent: the verdicts of that batch.
        :param unsure: leases whose verdicts an unanswered try may have written before.
        """
        ended = sent
        if settled.parents or settled.busy:
            kept = {verdict.lease for verdict in (*settled.parents, *settled.busy)}
            ended = [verdict for verdict in sent if verdict.lease not in kept]
        self.statistics.settled(settled, ended, unsure=unsure)
        for verdict in ended:
            if verdict.delay is not None:
                self.due_in(verdict.delay)
        if self.events is not None:
            self.events.settled(settled, ended)
        if self.limited.held:
            leases = {verdict.lease for verdict in ended}
            if not leases.isdisjoint(self.limited.held):
                self.look_for_limited()
            self.limited.held -= leases
        self.fetch_wake.set()

    def release(self, claimed: Iterable[ClaimedJob]) -> None:
        """Release jobs that were never started."""
        for job in claimed:
            self.settle(Verdict(job.lease, Event.RELEASE))

    def is_busy(self) -> bool:
        """Say whether a job is held or a verdict is not written yet."""
        return bool(len(self.slots) or self.slots.prefetched or self.verdicts)

    # Paused and stopped queues

    def set_paused(self, queues: Iterable[str]) -> None:
        """Start no job of these queues."""
        self.paused = frozenset(queues)
        self.refused = self.paused | self.stopped

    def set_stopped(self, queues: Iterable[str]) -> None:
        """Start no job of these queues, which this worker has served before."""
        self.stopped = frozenset(queues)
        self.refused = self.paused | self.stopped

    def is_refused(self, claimed: ClaimedJob) -> bool:
        """Say whether the job must not be started because its queue is paused or was stopped."""
        if claimed.queue not in self.refused:
            return False
        # It was claimed all the same: the queue may have been resumed without a notification.
        self.pause_wake.set()
        return True

    def release_refused(self) -> list[ClaimedJob]:
        """Release the prefetched jobs of paused and stopped queues, and return them."""
        jobs = self.slots.drain_prefetched(self.refused) if self.refused else []
        self.release(jobs)
        return jobs

    # Cancels

    def cancel(self, requests: Iterable[tuple[int, int]]) -> None:
        """Interrupt the running jobs whose rows ask for it; remember the request for the others.

        :param requests: (job id, lease number) of all jobs of this worker whose rows ask now.
        """
        self.cancel_requests = frozenset(requests)
        for job_id, lease_no in self.cancel_requests:
            lease = Lease(job_id, self.worker_id, lease_no)
            running = self.slots.get(lease)
            if running is not None:
                running.cancel(Reason.USER)
            for parked in self.slots.drain_parked(lease):
                if self.events is not None:
                    self.events.expect(parked)
                self.settle(Verdict(parked.lease, Event.CANCEL))

    def claim_ended(self) -> None:
        """Have the cancel requests read again if one may concern a job that the claim brought."""
        if self.cancel_announced:
            self.cancel_wake.set()

    def was_cancelled(self, lease: Lease) -> bool:
        """Say whether the row asked for a cancel of this attempt before it started."""
        return (lease.job_id, lease.lease_no) in self.cancel_requests


def _due_in(seconds: float) -> float:
    """Return when a job is due, by ``time.monotonic``."""
    # A little late rather than a little early: the database's clock and this one differ.
    return monotonic() + max(seconds, 0.0) + 0.001
