"""Direct dispatch: an enqueue gives its job to a worker with a free slot, without a claim.

The worker grants credit for one job: a number in its row. An enqueue in a transaction of its own
may consume the credit (``roost.insert_or_dispatch``): it inserts its job as executing, under a
lease of this worker, names the job in the worker's row, and notifies the worker. The worker accepts
the job by reading its row. A notification is only a reason to read it: any role may send one. See
decision 7.

A job that its worker does not accept within `UNACCEPTED_AFTER` is taken over by another worker,
which the enqueue has notified as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic

from roost._model.logs import StructuredLogger
from roost._ops.claim import ClaimedJob
from roost._ops.dispatch import accept_dispatched, grant_credit, take_unaccepted
from roost._worker.claimer import release_unknown
from roost._worker.database import ClaimCalls, Database
from roost._worker.queue_group import QueueGroup
from roost._worker.state import WorkerState

logger = StructuredLogger("roost.worker.fetch")

CREDIT_INTERVAL = 0.02
"""Seconds between two grants of a worker that polls: each costs the server a commit, and the
producer that consumes it a notification."""
READ_INTERVAL = 0.02
"""Seconds until the worker's row is read again after no job was found there."""
MAX_TAKEN_OVER = 300
"""Jobs that are taken over at once, at most."""
UNACCEPTED_AFTER = 0.1
"""Seconds after which another worker may take over a job that was not accepted."""

_Terms = tuple[str | None, frozenset[str], frozenset[str]]
"""What a credit is for: a channel, all tasks but these limited ones, jobs of these queues."""


class Dispatch:
    """Grants credit, accepts dispatched jobs, and takes over those that others don't accept."""

    def __init__(self, state: WorkerState, database: Database, calls: ClaimCalls) -> None:
        self._state = state
        self._database = database
        self._calls = calls
        self._grant_due_at = -math.inf
        self._read_due_at = -math.inf
        self._granted_for: _Terms = (None, frozenset(), frozenset())

    def act_at(self) -> float:
        """Return when to call `once`, by ``time.monotonic``: in the past for now."""
        credit = self._state.credit
        if self._may_grant():
            return -math.inf
        act_at = math.inf
        if credit.needs_reconcile and self._state.holds_leases():
            act_at = self._read_due_at
        if credit.watch_at < act_at and self._groups_with_room():
            act_at = credit.watch_at
        return act_at

    async def once(self) -> bool:
        """Accept, take over or grant, whichever is due; ``False``: nothing is due.

        :raises DatabaseUnavailableError: not done, or that is not known.
        """
        now = monotonic()
        credit = self._state.credit
        if credit.needs_reconcile and now >= self._read_due_at and self._state.holds_leases():
            await self._accept()
        elif now >= credit.watch_at and (groups := self._groups_with_room()):
            await self._take_unaccepted(groups)
        elif self._may_grant():
            await self._grant()
        else:
            return False
        return True

    def _may_grant(self) -> bool:
        """Say whether a dispatched job would start at once, and none waits in the table."""
        state = self._state
        return (
            state.credit.number is None
            and state.credit.channel is not None
            and state.listening
            and (state.notify_mode.wants_notify or monotonic() >= self._grant_due_at)
            and state.may_claim()
            and bool(self._open_groups())
        )

    def _open_groups(self, *, free: int = 1) -> list[QueueGroup]:
        """Return the groups of which ``free`` jobs would start at once, and none waits."""
        slots = self._state.slots
        return [
            group
            for group in self._state.groups
            if not group.jobs_may_wait and slots.room(group.slots, 0) >= free
        ]

    def _terms(self, groups: Sequence[QueueGroup]) -> _Terms:
        """Return the terms of a credit for these groups."""
        state = self._state
        queues = frozenset(queue for group in groups for queue in group.queues)
        return state.credit.channel, state.limited.names, queues

    def _groups_with_room(self) -> list[QueueGroup]:
        return [group for group in self._state.groups if self._state.room(group) > 0]

    async def _grant(self) -> None:
        state, channel = self._state, self._state.credit.channel
        assert channel is not None, "see _may_grant"  # noqa: S101
        groups = self._open_groups()
        self._granted_for = terms = self._terms(groups)
        number = state.credit.grant()
        self._grant_due_at = monotonic() + CREDIT_INTERVAL
        granted = await self._database.call(
            grant_credit(
                state.worker_id,
                number,
                channel=channel,
                tasks=state.unlimited_tasks(),
                queues=None if len(groups) == len(state.groups) else sorted(terms[2]),
            )
        )
        if not granted:
            state.credit.needs_reconcile = True

    async def _accept(self) -> None:
        """Accept the dispatched job, and in the same statement grant the next credit."""
        state, credit = self._state, self._state.credit
        if self._calls.unanswered:
            await release_unknown(state, self._database, self._calls)
            return
        credit.needs_reconcile = False  # a notification from here on needs another read
        before, credit.number = credit.number, None
        # It is for the channel, the tasks and the queues of the last one.
        terms = self._terms(self._open_groups(free=2))
        grants = self._may_grant() and terms[2] and self._granted_for == terms
        next_number = credit.grant() if grants else None
        # Until the answer is here, a notification may be of the next credit.
        credit.number = before if next_number is None else next_number
        state.cancel_announced = False  # of a job that the call may bring
        with self._calls.in_flight():
            accepted = await self._database.call(
                accept_dispatched(state.worker_id, next_credit=next_number),
                timeout=self._calls.timeout,
            )
            self._calls.unanswered = False
            credit.number = accepted.credit
            now = monotonic()
            if not accepted.found:
                self._read_due_at = now + READ_INTERVAL
            elif next_number is not None:
                self._grant_due_at = now + CREDIT_INTERVAL
            # After a crash of the server it may be running already.
            if accepted.job is not None and not state.knows(accepted.job.lease):
                self._put([accepted.job])

    async def _take_unaccepted(self, groups: Sequence[QueueGroup]) -> None:
        """Take over jobs that were dispatched to workers whose event loops stand still."""
        state = self._state
        if self._calls.unanswered:
            await release_unknown(state, self._database, self._calls)
            return
        state.credit.watch_at = math.inf
        for group in groups:
            limit = min(state.room(group), MAX_TAKEN_OVER)
            if limit > 0 and group in state.groups:
                await self._take_unaccepted_of(group, limit)

    async def _take_unaccepted_of(self, group: QueueGroup, limit: int) -> None:
        state = self._state
        state.cancel_announced = False  # of a job that the call may bring
        with self._calls.in_flight():
            jobs = await self._database.call(
                take_unaccepted(
                    state.worker_id,
                    queues=group.queues,
                    tasks=state.unlimited_tasks(),
                    limit=limit,
                    after=UNACCEPTED_AFTER,
                ),
                timeout=self._calls.timeout,
            )
            self._calls.unanswered = False
            for job in jobs:
                logger.warning(
                    "took over job %(job_id)d: the worker it was dispatched to did not accept it",
                    **job.log_fields(),
                )
            self._put(jobs)

    def _put(self, jobs: list[ClaimedJob]) -> None:
        """Put the jobs into the slots, or release those that would wait for long."""
        state = self._state
        for job in jobs:
            # A limit that was declared meanwhile counts its task's claims.
            if job.task in state.limited.names or not self._has_room(job.queue):
                state.release([job])
            else:
                state.slots.put([job])
        if jobs:
            state.claim_ended()
            state.start_wake.set()

    def _has_room(self, queue: str) -> bool:
        """Say whether a job of ``queue`` may start, now or soon."""
        state = self._state
        group = state.group_of(queue)
        if group is None or not state.may_claim():
            return False
        return state.slots.room(group.slots, 0) > 0 or state.room(group) > 0
