"""The events of a worker's jobs that are not sent yet. It exists only while a client listens.

All of it is synchronous, so a cancel can't leave half of a change.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from time import monotonic
from typing import NamedTuple

import attrs

from roost._model.events import EventKind, encode_event, payloads
from roost._model.states import Event, JobState
from roost._model.verdict import Lease, Verdict
from roost._ops.claim import ClaimedJob
from roost._ops.rescue import Rescued
from roost._ops.settle import Settled
from roost._worker.lane import Wake
from roost._worker.running_job import Reason, RunningJob

MAX_UNSENT = 10_000
"""Events that wait for the database; more are dropped, the oldest first."""

_KINDS: Mapping[Event, EventKind] = {
    Event.COMPLETE: "finished",
    Event.RETRY: "failed",
    Event.DISCARD: "discarded",
    Event.SNOOZE: "snoozed",
    Event.RELEASE: "released",
    Event.CANCEL: "cancelled",
}


class _Attempt(NamedTuple):
    queue: str
    task: str
    attempt: int
    was_started: bool = True


class _Unsent(NamedTuple):
    kind: EventKind
    job_id: int
    queue: str
    task: str
    attempt: int
    worker_id: int
    state: str
    at: float


@attrs.define(eq=False)
class EventLog:
    """Events in the order in which they happened.

    :param wake: set when there is something to send.
    :param unknown: leases whose verdicts waited when the client came, so that their queue and task
        are not known. The client's greeting waits until they are written.
    :ivar greets: whether a greeting is to be sent: the client knows then that it misses nothing of
        this worker from now on.
    """

    wake: Wake
    unknown: set[Lease]
    greets: bool = True
    _unsent: deque[_Unsent] = attrs.field(factory=deque)
    _dropped: int = 0
    _started: set[Lease] = attrs.field(factory=set)
    _ended: dict[Lease, _Attempt] = attrs.field(factory=dict)
    _unsettled: Counter[int] = attrs.field(factory=Counter)
    """How many leases of each job are in ``_ended``."""
    _held: dict[int, dict[Lease, _Attempt]] = attrs.field(factory=dict)
    """Starts, by job, that wait for the event of the job's attempt before."""

    def has_payloads(self) -> bool:
        """Say whether there is something to send."""
        return bool(self._unsent) or (self.greets and not self.unknown)

    def started(self, claimed: ClaimedJob) -> None:
        """Record that the worker calls the handler.

        A claim may return a job before the answer to the write that ended its last attempt. Then
        the start is held until that answer.
        """
        lease = claimed.lease
        self._started.add(lease)
        job = _Attempt(claimed.queue, claimed.task, claimed.attempt)
        if lease.job_id in self._unsettled:
            self._held.setdefault(lease.job_id, {})[lease] = job
        else:
            self._add("started", lease, job, JobState.EXECUTING)

    def ended(self, running: RunningJob) -> None:
        """Remember a job whose verdict is about to be queued."""
        claimed = running.claimed
        was_started = claimed.lease in self._started
        self._started.discard(claimed.lease)
        if running.reason is not Reason.LEASE_LOST and not running.abandoned:
            self.expect(claimed, was_started=was_started)

    def expect(self, claimed: ClaimedJob, *, was_started: bool = False) -> None:
        """Remember a claimed job whose verdict is about to be queued."""
        if claimed.lease not in self._ended:
            self._unsettled[claimed.lease.job_id] += 1
        self._ended[claimed.lease] = _Attempt(
            claimed.queue, claimed.task, claimed.attempt, was_started
        )

    def settled(self, settled: Settled, ended: Iterable[Verdict]) -> None:
        """Record the verdicts that were written.

        :param ended: the verdicts that the answer concerns, those with a lost lease included.
        """
        lost = {verdict.lease for verdict in settled.lost}
        failed = set(settled.failed)
        for verdict in ended:
            known = self._ended.pop(verdict.lease, None)
            if known is not None:
                self._add_starts(verdict.lease.job_id, until=verdict.lease)
                self._add_verdict(verdict, known, lost=lost, failed=failed)
                self._forget_unsettled(verdict.lease.job_id)
        if self.unknown:
            self.unknown.difference_update(verdict.lease for verdict in ended)
            if not self.unknown and self.greets:
                self.wake.set()

    def _forget_unsettled(self, job_id: int) -> None:
        self._unsettled[job_id] -= 1
        if not self._unsettled[job_id]:
            del self._unsettled[job_id]
            self._add_starts(job_id)

    def _add_starts(self, job_id: int, *, until: Lease | None = None) -> None:
        """Record held starts of a job.

        :param until: only if its start is held, and the starts before it; ``None``: all.
        """
        held = self._held.get(job_id)
        if held is None or (until is not None and until not in held):
            return
        for lease in list(held):
            self._add("started", lease, held.pop(lease), JobState.EXECUTING)
            if lease == until:
                break
        if not held:
            del self._held[job_id]

    def _add_verdict(
        self,
        verdict: Verdict,
        known: _Attempt,
        *,
        lost: Collection[Lease],
        failed: Collection[int],
    ) -> None:
        lease = verdict.lease
        kind, state = _KINDS[verdict.event], verdict.state
        if lease in lost:
            if not verdict.completed:
                return
            # Its handler has completed it in a transaction of its own.
            kind, state = "finished", JobState.COMPLETED
        elif lease.job_id in failed and kind != "discarded":
            # A cancel was requested meanwhile: it is not retried.
            kind, state = "cancelled", JobState.CANCELLED
        if kind != "released" or known.was_started:
            self._add(kind, lease, known, state)

    def rescued(self, jobs: Iterable[Rescued]) -> None:
        """Record that this worker took jobs of dead workers back."""
        for job in jobs:
            lease = Lease(job.job_id, job.worker_id, 0)
            self._add("rescued", lease, _Attempt(job.queue, job.task, job.attempt), job.state)

    def take_payloads(self, worker_id: int) -> list[str]:
        """Return all that is to be sent, as payloads, and forget it."""
        now = monotonic()
        unsent, self._unsent = self._unsent, deque()
        dropped, self._dropped = self._dropped, 0
        greets = self.greets and not self.unknown
        self.greets = self.greets and not greets
        return payloads(
            worker_id,
            [
                encode_event(
                    one.kind,
                    job_id=one.job_id,
                    queue=one.queue,
                    task=one.task,
                    attempt=one.attempt,
                    worker_id=one.worker_id,
                    state=one.state,
                    age=now - one.at,
                )
                for one in unsent
            ],
            dropped=dropped,
            greets=greets,
        )

    def record_unsent(self, number: int) -> None:
        """Count events that could not be sent as dropped."""
        self._dropped += number

    def __len__(self) -> int:
        return len(self._unsent)

    def _add(self, kind: EventKind, lease: Lease, job: _Attempt, state: JobState) -> None:
        if len(self._unsent) == MAX_UNSENT:
            self._unsent.popleft()
            self._dropped += 1
        job_id, worker_id, _ = lease
        self._unsent.append(
            _Unsent(
                kind, job_id, job.queue, job.task, job.attempt, worker_id, state.value, monotonic()
            )
        )
        self.wake.set()
