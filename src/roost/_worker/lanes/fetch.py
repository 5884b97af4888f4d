"""Fetch: claim jobs when there is room and a reason.

Reasons: a notification or a reconnect, the poll, the time at which the next known job is due, and
room again after a claim that was full. A worker that gets too many notifications polls every few
milliseconds instead; see `NotifyMode`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.claim import Claimed
from roost._worker.claimer import Claimer, combined, release_at_stop, release_unknown
from roost._worker.database import ClaimCalls, Database
from roost._worker.dispatch import Dispatch
from roost._worker.lane import backoff
from roost._worker.notify_mode import change_mode, check_older_transactions
from roost._worker.queue_group import QueueGroup
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.fetch")

MAX_CLAIM = 300
"""Jobs in one claim at most. Measured in November 2026: larger ones save the server a microsecond a
job and cost the worker more, on trio a sixth of a drain's rate: its jobs leave the caches."""
MAX_POLL = 30.0
"""Seconds between two polls at most, however long ``poll_interval``. An enqueue announces only jobs
that are due within a minute, and it may commit late: a poll must find the others before that."""


class FetchLane:
    """Claims jobs and puts them into the slots."""

    name = "fetch"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._calls = ClaimCalls()
        self._claimers: dict[QueueGroup, Claimer] = {}
        self._dispatch = Dispatch(state, database, self._calls)
        self._max_claim = MAX_CLAIM

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Claim until cancelled; a claim in flight is finished first, and its jobs are kept.

        At the end the credit is revoked, and leases that this worker does not know are released.
        """
        task_status.started()
        try:
            await self._serve()
        finally:
            await release_at_stop(self._state, self._database, self._calls)

    async def stop(self) -> None:
        """Give a claim in flight a moment to be answered."""
        self._calls.stop()

    async def _serve(self) -> None:
        failures = 0
        while True:
            await self._wait_for_a_reason()
            try:
                if not await self._dispatch.once():
                    await self._change_mode_or_claim()
            except DatabaseUnavailableError as error:
                failures += 1
                await self.claim_failed(error, failures)
            else:
                if failures:
                    logger.info("claiming again after %(failures)d failures", failures=failures)
                failures = 0

    async def claim_failed(self, error: DatabaseUnavailableError, failures: int) -> None:
        """Log it and wait, longer after each of the ``failures`` in a row."""
        state = self._state
        state.vitals.claim_has_failed()
        logger.warning(
            "claim failed, %(failures)d times in a row: %(error)s",
            failures=failures,
            error=str(error),
        )
        for group in state.groups:
            group.slots.reserved = 0
        state.start_wake.set()
        await anyio.sleep(backoff(failures))
        state.look_again()

    async def _change_mode_or_claim(self) -> None:
        state, mode = self._state, self._state.notify_mode
        if mode.should_change and await change_mode(mode, state.worker_id, self._database):
            state.look_again()
        last, horizon = False, None
        if mode.awaiting_older_transactions:
            horizon, last = await check_older_transactions(mode, self._database)
            # Those transactions notify of no job in any queue.
            state.look_again()
        began, outstanding = monotonic(), state.credit.number
        claimed = await self.once(self._due_groups(now=began))
        if claimed is not None:
            state.credit.compare(claimed.credit, outstanding=outstanding)
            last = last and mode.xid_horizon == horizon  # a new row of this worker has its own
            more = any(group.jobs_may_wait for group in state.groups)
            mode.record_poll(len(claimed.jobs), more=more, last=last, now=monotonic())
            for group in state.groups:
                group.poll_at = min(group.poll_at, began + mode.poll_interval)

    def _due_groups(self, *, now: float) -> list[QueueGroup]:
        """Return the groups to claim for; the only one in any case."""
        groups = self._state.groups
        if len(groups) == 1:
            return list(groups)
        return [group for group in groups if self._claim_at(group, now=now) <= now]

    async def once(self, groups: Sequence[QueueGroup]) -> Claimed | None:
        """Claim as many jobs as there is room for; ``None``: there was no room.

        :param groups: the queues to claim from, by the slots that they share.
        :raises DatabaseUnavailableError: nothing was claimed, or it is not known. What may have
            been claimed is released before the next claim.
        """
        state = self._state
        if self._calls.unanswered and state.holds_leases():
            await release_unknown(state, self._database, self._calls)
        answers: list[Claimed] = []
        for group in sorted(groups, key=lambda group: state.slots.turn(group.slots)):
            claimed = await self._claim(group)
            if claimed is not None:
                answers.append(claimed)
        return functools.reduce(combined, answers) if answers else None

    async def _claim(self, group: QueueGroup) -> Claimed | None:
        state = self._state
        # With fewer slots than before, more jobs may run than there are slots.
        room, free = state.room(group), max(state.slots.free_slots(group.slots), 0)
        limit = min(max(room, free), self._max_claim)
        if limit <= 0 or not state.may_claim() or group not in state.groups:
            return None
        began = monotonic()
        group.jobs_may_wait = False
        group.due_at = math.inf  # the answer says it
        poll_interval = state.settings.poll_interval * (2 if state.listening else 1)
        group.poll_at = began + min(poll_interval, MAX_POLL)
        # An answer may be too large to come in time: then the next claim takes half.
        largest, self._max_claim = self._max_claim, max(1, limit // 2)
        state.cancel_announced = False  # of a job that this claim may bring
        state.vitals.claim_begins(now=began)
        with self._calls.in_flight():
            claimed = await self._claimer(group).claim(
                limit, slots=min(free, limit), timeout=self._calls.timeout
            )
            state.vitals.claim_answered(now=monotonic())
            self._max_claim = min(2 * largest, MAX_CLAIM)
            # No await from the answer until the jobs are in the slots.
            self._calls.unanswered = not claimed.complete
            if len(claimed.jobs) == limit:
                group.jobs_may_wait = True
            state.put_claimed(self.choose(claimed), group, began=began)
        return claimed

    def _claimer(self, group: QueueGroup) -> Claimer:
        claimer = self._claimers.get(group)
        if claimer is None:
            groups = self._state.groups  # without those of stopped queues
            self._claimers = {
                each: self._claimers[each] for each in groups if each in self._claimers
            }
            claimer = self._claimers[group] = Claimer(self._state, self._database, group)
        return claimer

    def choose(self, claimed: Claimed) -> Claimed:
        """Return what to run of the claimed jobs: all of them."""
        return claimed

    async def _wait_for_a_reason(self) -> None:
        """Return when there is something to ask the database.

        Meanwhile, release prefetched jobs that have waited for too long.
        """
        state = self._state
        while True:
            if state.start_wake.is_set:
                await self.until_started()
            now = monotonic()
            if self._reserve(now=now):
                state.start_wake.set()
                continue
            act_at = self._act_at(now=now)
            if now >= act_at:
                return
            wait_until = self._release_expired(now=now)
            with anyio.move_on_after(min(act_at, wait_until) - now):
                await state.fetch_wake.wait()

    def _reserve(self, *, now: float) -> bool:
        """Set how many slots prefetched jobs leave free; ``True``: fewer than before."""
        fewer = False
        for group in self._state.groups:
            if group.slots.prefetched or group.slots.reserved:
                fewer |= self._claimer(group).reserve(now=now)
        return fewer

    def _release_expired(self, *, now: float) -> float:
        """Release prefetched jobs that have waited for too long; return when the next ones will."""
        state = self._state
        next_at = math.inf
        for group in state.groups:
            if group.slots.prefetched:
                expires_at = group.prefetch.expires_at(group.slots)
                if now >= expires_at:
                    # Long jobs fill the slots: other workers may have the prefetched ones.
                    group.prefetch.stall()
                    state.release(group.slots.drain())
                    expires_at = now
                next_at = min(next_at, expires_at)
        return next_at

    async def until_started(self) -> None:
        """Return when the execute lane has started all jobs that it can.

        Before that, jobs that are about to start count as prefetched.
        """
        while self._state.start_wake.is_set:
            await self._state.fetch_wake.wait()

    def _act_at(self, *, now: float) -> float:
        """Return when to call the database, by ``time.monotonic``; infinity: when woken."""
        state = self._state
        if state.notify_mode.should_change and state.holds_leases():
            return -math.inf
        act_at = self._dispatch.act_at()
        if state.may_claim():
            for group in state.groups:
                act_at = min(act_at, self._claim_at(group, now=now))
        return act_at

    def _claim_at(self, group: QueueGroup, *, now: float) -> float:
        """Return when to claim for ``group``, by ``time.monotonic``; infinity: when woken."""
        state = self._state
        claim_at = -math.inf if group.jobs_may_wait else min(group.poll_at, group.due_at)
        # While jobs are prefetched, claim when half of them have started, not for each one.
        if claim_at <= now and state.room(group) <= group.prefetch.size // 2:
            claim_at = math.inf
        if state.limited.names and state.slots.free_slots(group.slots) > 0:
            limited_at = -math.inf if group.slots.reserved else self._claimer(group).limited_at
            claim_at = min(claim_at, limited_at)
        return claim_at
