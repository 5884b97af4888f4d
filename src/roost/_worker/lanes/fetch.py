"""Fetch: claim jobs when there is room and a reason to look.

Reasons: a wake (a notification, a reconnect), the poll, the time at which the next known job is
due, and room again after a claim that was full. A worker that would be notified too often is not,
and looks every few milliseconds instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.claim import Claimed, ClaimedJob
from roost._ops.dispatch import accept_dispatched, grant_credit, take_unaccepted
from roost._ops.workers import (
    next_transaction,
    oldest_transaction,
    release_unheld,
    set_wants_notify,
)
from roost._worker.claiming import Claims
from roost._worker.lane import backoff
from roost._worker.pace import Pace
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.fetch")

CLAIM_TIMEOUT = 30.0
"""Seconds that one claim may take before its outcome counts as unknown."""
STOP_TIMEOUT = 1.0
"""Seconds that a claim in flight is still waited for when the worker stops, and that it has to
withdraw its offer."""
MAX_CLAIM = 300
"""Jobs in one claim at most. Measured in November 2026: larger ones save the server a microsecond a
job and cost the worker more, on trio a sixth of a drain's rate: what it holds leaves the caches."""
OFFER_GAP = 0.02
"""Seconds between two offers of a worker that is awake: each costs the server a commit, and who
takes it a notification."""
READ_GAP = 0.02
"""Seconds until the worker's row is read again after nothing was found there: anybody may send the
notification that asks for it."""
UNACCEPTED_AFTER = 0.1
"""Seconds in which a worker must accept what was handed to it; then others may take it over."""
MAX_UNSETTLED = 10_000
"""Verdicts that may wait for the database; beyond it nothing new is started."""
MAX_SLEEP = 30.0
"""Seconds between two looks at most, however long the poll. An enqueue announces only jobs that are
due within a minute, and it may commit late: those further away must be found before that minute."""
MAX_LINE_WAIT = 1.0
"""Seconds in the line after which it is handed back to other workers. Where the prefetch was set by
hand: seconds in which the line did not move."""


class FetchLane:
    """Claims jobs and puts them in the line of `Runtime.running`."""

    name = "fetch"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._claims = Claims(runtime)
        self._timeout = CLAIM_TIMEOUT
        self._in_flight: anyio.CancelScope | None = None
        self._most = MAX_CLAIM
        self._stop_by = math.inf
        self._offer_due_at = -math.inf
        self._read_due_at = -math.inf
        self._offered: tuple[str | None, list[str]] = (None, [])
        self._unsure = False
        self._next_look = -math.inf
        self._pace = Pace(
            fixed=runtime.settings.prefetch, most=max(64, 16 * runtime.settings.concurrency)
        )

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Claim until cancelled; a claim in flight is finished first, and its jobs put in line.

        At the end the offer to be given a job is withdrawn, and given back what nobody here knows
        of: what a claim took whose answer was lost.
        """
        task_status.started()
        try:
            await self._serve()
        finally:
            await self._withdraw(within=min(self._stop_by - anyio.current_time(), STOP_TIMEOUT))

    async def _serve(self) -> None:
        failures = 0
        while True:
            await self._wait_for_room_and_a_reason()
            try:
                if self._may_accept:
                    await self._accept_handed()
                elif self._may_watch:
                    await self._take_unaccepted()
                elif self._may_offer:
                    await self._make_offer()
                else:
                    await self._turn_or_look()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning(
                    "claim failed, %(failures)d times in a row: %(error)s",
                    failures=failures,
                    error=str(error),
                )
                self._runtime.running.reserved = 0
                self._runtime.start_waiting()
                await anyio.sleep(backoff(failures))
                # What it was to look for is still there.
                self._runtime.jobs_may_wait = self._runtime.limited_may_wait = True
            else:
                if failures:
                    logger.info("claiming again after %(failures)d failures", failures=failures)
                failures = 0

    async def _turn_or_look(self) -> None:
        """Claim; first, where it is time for that, fall asleep or wake up."""
        runtime, alertness = self._runtime, self._runtime.alertness
        if alertness.should_turn and alertness.asleep:
            alertness.wake(now=monotonic())
            await runtime.call(set_wants_notify(runtime.worker_id, wants_notify=False))
        elif alertness.should_turn:
            await runtime.call(set_wants_notify(runtime.worker_id, wants_notify=True))
            alertness.sleep(now=monotonic())
            runtime.jobs_may_wait = True
        last, horizon = False, alertness.horizon
        if alertness.settling_down:
            if horizon is None:
                horizon = alertness.horizon = await runtime.call(next_transaction())
            last = await runtime.call(oldest_transaction()) >= horizon
            runtime.limited_may_wait = True  # nobody tells of those either
        began, offered = monotonic(), runtime.offer.number
        claimed = await self.once()
        if claimed is not None:
            runtime.offer.was_seen(claimed.credit, offered=offered)
            last = last and alertness.horizon == horizon  # a new row has its own
            found, more = len(claimed.jobs), runtime.jobs_may_wait
            alertness.looked(found, more=more, last=last, now=monotonic())
            self._next_look = min(self._next_look, began + alertness.gap)

    async def once(self) -> Claimed | None:
        """Claim as many jobs as there is room for; ``None``: there was no room.

        :raises DatabaseUnavailableError: nothing was claimed, or nobody knows; what may have been
            is given back before the next claim.
        """
        runtime = self._runtime
        if self._unsure and runtime.holds_leases():
            await self._give_back_the_unknown()
        room, slots = self._room(), runtime.running.free_slots
        limit = min(max(room, slots), self._most)
        if limit <= 0 or not self._may_claim:
            return None
        began = monotonic()
        runtime.jobs_may_wait = False
        runtime.due_at = math.inf  # the answer says it
        poll_interval = runtime.settings.poll_interval * (2 if runtime.listening else 1)
        self._next_look = began + min(poll_interval, MAX_SLEEP)
        self._unsure = True
        runtime.claim_begins()
        # An answer may be too large to come in time: then the next claim takes half.
        most, self._most = self._most, max(1, limit // 2)
        # A claim whose answer is lost leaves jobs executing that nobody holds; so a cancel waits.
        with anyio.move_on_after(self._timeout, shield=True) as self._in_flight:
            claimed = await self._claims.claim(
                limit,
                slots=min(slots, limit),
                timeout=self._timeout,
                soon=self._pace.starts_soon,
            )
            self._most = min(2 * most, MAX_CLAIM)
            self._take(claimed, limit=limit, began=began)
            return claimed
        raise DatabaseUnavailableError("the claim was not answered")

    async def stop(self) -> None:
        """Let a claim in flight come home, within `STOP_TIMEOUT`."""
        self._timeout = STOP_TIMEOUT
        self._stop_by = anyio.current_time() + STOP_TIMEOUT
        if self._in_flight is not None:
            self._in_flight.deadline = min(self._in_flight.deadline, self._stop_by)

    def _take(self, claimed: Claimed, *, limit: int, began: float) -> None:
        """Put the jobs in line: without an await from the claim's answer to the jobs' start."""
        runtime = self._runtime
        self._unsure = not claimed.complete
        now = monotonic()
        if claimed.jobs:
            self._pace.claimed(began=began, ended=now)
        if not claimed.alive:
            runtime.heartbeat_wake.set()
        if len(claimed.jobs) == limit:
            runtime.jobs_may_wait = True
        elif claimed.next_due is not None:
            runtime.due_in(claimed.next_due)
        runtime.running.reserved = 0
        for_slots = self.choose(claimed.jobs[: claimed.for_slots])
        runtime.running.admit_first(for_slots, since=began)
        runtime.running.admit(self.choose(claimed.jobs[claimed.for_slots :]))
        if runtime.hand_back_paused():
            runtime.pauses_wake.set()  # claimed all the same: resumed, maybe, and unheard
        if claimed.jobs:
            runtime.claim_ended()
        runtime.start_waiting()

    def choose(self, jobs: list[ClaimedJob]) -> list[ClaimedJob]:
        """Return which of the claimed jobs to run: all of them."""
        return jobs

    @property
    def _may_claim(self) -> bool:
        runtime = self._runtime
        unsettled = len(runtime.settling)
        return not runtime.stopping and runtime.holds_leases() and unsettled < MAX_UNSETTLED

    def _room(self) -> int:
        runtime = self._runtime
        if not self._may_claim:
            return 0
        self._pace.finished(runtime.running.finished, now=monotonic())
        return runtime.running.room(self._pace.prefetch)

    async def _wait_for_room_and_a_reason(self) -> None:
        """Return when there is something to ask the database; hand the line back when it is due.

        What ends the wait is what ends the loop: the deadline is the time that is compared.
        """
        while True:
            now = monotonic()
            self._reserve(now=now)
            act_at, hand_back_at = self._act_at(), self._hand_back_at()
            if now >= act_at:
                return
            if now >= hand_back_at:
                self._hand_back_the_line()
                continue
            with anyio.move_on_after(min(act_at, hand_back_at) - now):
                await self._runtime.look.wait()

    def _act_at(self) -> float:
        """Return when to act, as things stand: in the past for now, infinity for never."""
        runtime = self._runtime
        turns = runtime.alertness.should_turn and runtime.holds_leases()
        if turns or self._may_accept or self._may_offer:
            return -math.inf
        reads = runtime.offer.in_doubt and runtime.holds_leases()
        return min(
            self._read_due_at if reads else math.inf,
            runtime.offer.watch_at if self._room() > 0 else math.inf,
            self._claim_at() if self._may_claim else math.inf,
        )

    def _claim_at(self) -> float:
        runtime, running = self._runtime, self._runtime.running
        limited_at = math.inf
        if running.free_slots:
            limited_at = -math.inf if running.reserved else self._claims.limited_at
        # With a line in front of the slots, claim when half of it is gone, not for each job.
        if self._room() <= self._pace.prefetch // 2:
            return limited_at
        return (
            -math.inf if runtime.jobs_may_wait else min(self._next_look, runtime.due_at, limited_at)
        )

    def _reserve(self, *, now: float) -> None:
        """Keep slots free of the line's jobs while it is time for those of limited tasks."""
        running = self._runtime.running
        line = running.waiting and self._may_claim
        reserved = self._claims.slots_wanted(now=now) if line else 0
        fewer = reserved < running.reserved
        running.reserved = reserved
        if fewer:
            self._runtime.start_waiting()

    def _hand_back_at(self) -> float:
        """Return when what stands in line has waited for too long; infinity: nothing waits."""
        running = self._runtime.running
        by_hand = self._pace.fixed is not None
        since = running.waiting_since if by_hand else running.first_waiting_since
        return since + MAX_LINE_WAIT

    def _hand_back_the_line(self) -> None:
        """The slots are full of long jobs: let other workers have what waits here."""
        self._pace.stalled()
        self._runtime.release(self._runtime.running.give_up_waiting())

    @property
    def _may_accept(self) -> bool:
        """Whether to read in the worker's row what was handed over to it."""
        return (
            self._runtime.offer.in_doubt
            and monotonic() >= self._read_due_at
            and self._runtime.holds_leases()
        )

    @property
    def _may_watch(self) -> bool:
        """Whether to look for jobs that other workers were handed and don't accept."""
        return monotonic() >= self._runtime.offer.watch_at and self._room() > 0

    @property
    def _may_offer(self) -> bool:
        """Whether a job that is handed over would start at once, and none waits in the table."""
        runtime = self._runtime
        return (
            runtime.offer.number is None
            and runtime.offer.channel is not None
            and runtime.listening
            and (runtime.alertness.asleep or monotonic() >= self._offer_due_at)
            and not runtime.jobs_may_wait
            and not runtime.stopping
            and runtime.holds_leases()
            and runtime.running.room(0) > 0
            and len(runtime.settling) < MAX_UNSETTLED
        )

    def _what_to_offer(self) -> tuple[str | None, list[str]]:
        """Return the channel and the tasks of an offer."""
        runtime = self._runtime
        tasks = [task for task in runtime.registry if task not in runtime.limited_tasks]
        return runtime.offer.channel, tasks

    async def _make_offer(self) -> None:
        runtime = self._runtime
        channel, tasks = self._offered = self._what_to_offer()
        assert channel is not None, "asked before"  # noqa: S101
        number = runtime.offer.number = runtime.offer.next_number()
        self._offer_due_at = monotonic() + OFFER_GAP
        made = await runtime.call(
            grant_credit(runtime.worker_id, number, channel=channel, tasks=tasks)
        )
        if not made:
            runtime.offer.in_doubt = True

    async def _accept_handed(self) -> None:
        """Run what was handed over, and offer to be given another one where that is the same write.

        As a claim: the answer is waited for, and what an answer that is lost took is given back.
        """
        runtime, offer = self._runtime, self._runtime.offer
        if self._unsure:
            await self._give_back_the_unknown()
            return
        offer.in_doubt = False  # what is heard from now on is read again
        before, offer.number = offer.number, None
        may_offer = self._may_offer and self._offered == self._what_to_offer()
        next_credit = None
        if may_offer and runtime.running.room(0) > 1:
            next_credit = offer.next_number()
        # What is heard meanwhile may be of the next one.
        offer.number = before if next_credit is None else next_credit
        self._unsure = True
        runtime.claim_begins()
        with anyio.move_on_after(self._timeout, shield=True) as self._in_flight:
            accepted = await runtime.call(
                accept_dispatched(runtime.worker_id, next_credit=next_credit), timeout=self._timeout
            )
            self._unsure = False
            offer.number = accepted.credit
            if not accepted.found:
                self._read_due_at = monotonic() + READ_GAP
            if next_credit is not None and accepted.found:
                self._offer_due_at = monotonic() + OFFER_GAP
            # After a crash of the server it may be running already.
            if accepted.job is not None and accepted.job.lease not in runtime.held():
                self._take_handed([accepted.job])
            return
        raise DatabaseUnavailableError("the hand-over was not answered")

    async def _take_unaccepted(self) -> None:
        """Take over what other workers were handed and don't accept: they stand still."""
        runtime = self._runtime
        if self._unsure:
            await self._give_back_the_unknown()
            return
        runtime.offer.watch_at = math.inf
        self._unsure = True
        runtime.claim_begins()
        with anyio.move_on_after(self._timeout, shield=True) as self._in_flight:
            jobs = await runtime.call(
                take_unaccepted(
                    runtime.worker_id,
                    queues=runtime.settings.queues,
                    tasks=self._what_to_offer()[1],
                    limit=min(self._room(), MAX_CLAIM),
                    after=UNACCEPTED_AFTER,
                ),
                timeout=self._timeout,
            )
            self._unsure = False
            for job in jobs:
                logger.warning(
                    "took over job %(job_id)d, which a worker was handed and did not accept",
                    job_id=job.lease.job_id,
                )
            self._take_handed(jobs)
            return
        raise DatabaseUnavailableError("taking over jobs was not answered")

    def _take_handed(self, jobs: list[ClaimedJob]) -> None:
        """Put the jobs in line, or hand them back where they would wait for long."""
        runtime = self._runtime
        for job in jobs:
            # Limited by now: then its claims are counted.
            if runtime.stopping or job.task in runtime.limited_tasks or self._room() <= 0:
                runtime.release([job])
            else:
                runtime.running.admit([job])
        if jobs:
            runtime.claim_ended()
            runtime.start_waiting()

    async def _withdraw(self, *, within: float) -> None:
        """Before the worker ends: nothing is handed to it any more, and what was is given back."""
        runtime = self._runtime
        if not (self._unsure or runtime.offer.in_doubt or runtime.offer.number is not None):
            return
        with anyio.move_on_after(within, shield=True):
            while runtime.holds_leases():
                try:
                    await self._give_back_the_unknown()
                except DatabaseUnavailableError as error:
                    logger.warning("nothing given back yet: %(error)s", error=str(error))
                    await anyio.sleep(backoff(1))
                else:
                    return
        logger.warning("could not give back what may have been claimed; it will be rescued")

    async def _give_back_the_unknown(self) -> None:
        """After a claim without an answer: it may have committed, and then nobody runs its jobs.

        Only for a worker that holds its leases. One that has lost them has stopped jobs which it
        ran: it does not know of them any more, and their attempts were made.
        """
        runtime = self._runtime
        # From here on no job is accepted that this gives back.
        runtime.offer.number = None
        runtime.offer.in_doubt = False
        try:
            given_back = await runtime.call_in_transaction(
                release_unheld(runtime.worker_id, held=runtime.held())
            )
        except BaseException:
            runtime.offer.in_doubt = True
            raise
        self._unsure = False
        if given_back:
            logger.warning("gave back jobs of a lost claim: %(jobs)s", jobs=given_back)
            runtime.jobs_may_wait = runtime.limited_may_wait = True  # they wait again


class DrainLane(FetchLane):
    """Claims until nothing that it has not run before is available, then says so.

    :param on_empty: called once, when all jobs have run and their verdicts are written.
    """

    def __init__(self, runtime: Runtime, *, on_empty: Callable[[], None]) -> None:
        super().__init__(runtime)
        if runtime.limited_tasks:
            # What waited too long in the line would be handed back, and not be run in this drain.
            self._pace.fixed = 0
        self._on_empty = on_empty
        self._seen: set[int] = set()
        self._set_aside: list[ClaimedJob] = []

    @property
    def processed(self) -> int:
        """How many jobs were run."""
        return self._runtime.running.finished

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return self._runtime.running.failed

    async def _serve(self) -> None:
        failures = 0
        while True:
            # A job that ends while the claim is under way may enqueue what the claim does not see.
            was_busy = self._runtime.busy()
            self._runtime.limited_may_wait = True
            try:
                claimed = await self.once()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning(
                    "claim failed, %(failures)d times in a row: %(error)s",
                    failures=failures,
                    error=str(error),
                )
                await anyio.sleep(backoff(failures))
                continue
            failures = 0
            if claimed is not None and claimed.jobs:
                continue
            if claimed is not None and claimed.alive and not was_busy and not self._runtime.busy():
                break
            await self._runtime.look.wait()
        self._on_empty()
        await anyio.sleep_forever()

    def choose(self, jobs: list[ClaimedJob]) -> list[ClaimedJob]:
        """Return the jobs that have not run yet; keep the others back until the end."""
        fresh = [job for job in jobs if job.lease.job_id not in self._seen]
        self._set_aside += [job for job in jobs if job.lease.job_id in self._seen]
        self._seen.update(job.lease.job_id for job in fresh)
        return fresh

    async def stop(self) -> None:
        """Give back what was kept back."""
        await super().stop()
        self._runtime.release(self._set_aside)
