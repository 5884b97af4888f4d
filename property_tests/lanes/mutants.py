"""Faults that were in the worker once, or that no test noticed, each put back for one test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from roost._client.waiting import Waiting
from roost._model.verdict import CancelRequested, Ending, Interrupted
from roost._ops.claim import Claimed
from roost._ops.control import cancel_requests
from roost._worker.claimer import Claimer
from roost._worker.credit import Credit
from roost._worker.database import Database
from roost._worker.lanes import heartbeat
from roost._worker.lanes.control import CancelLane, PauseLane
from roost._worker.lanes.execute import ExecuteLane
from roost._worker.lanes.listen import ListenLane
from roost._worker.running_job import Reason, RunningJob
from roost._worker.slot_group import SlotGroup
from roost._worker.slots import Slots
from roost._worker.state import WorkerState

Mutant = Callable[[pytest.MonkeyPatch], None]


def start_under_an_earlier_incarnation(patch: pytest.MonkeyPatch) -> None:
    """`_refuse` looks at the leases' time only, not at the incarnation."""

    def refuse(lane: ExecuteLane, running: RunningJob) -> Ending | None:
        claimed, state = running.claimed, lane._state
        if not state.holds_leases():
            running.cancel(Reason.LEASE_LOST)
            return Interrupted()
        if claimed.cancel_requested or state.was_cancelled(claimed.lease):
            return CancelRequested()
        return Interrupted() if state.is_refused(claimed) else None

    patch.setattr(ExecuteLane, "_refuse", refuse)


def no_wake_after_a_reconnect(patch: pytest.MonkeyPatch) -> None:
    """Jobs that were enqueued while the worker did not listen wait for the next poll."""
    patch.setattr(ListenLane, "_wake_all", lambda lane: None)


def no_unwinding_margin(patch: pytest.MonkeyPatch) -> None:
    """Jobs are interrupted when other workers may take them, not before."""
    patch.setattr(heartbeat, "UNWINDING", 0.0)


def row_removed_though_threads_run(patch: pytest.MonkeyPatch) -> None:
    """The end of the worker removes its row also while an abandoned thread runs."""
    patch.setattr(WorkerState, "needs_its_row", lambda state: False)


def no_start_delay(patch: pytest.MonkeyPatch) -> None:
    """A start is counted at the claim, however long after it the handler is called."""

    async def is_counted(lane: ExecuteLane, running: RunningJob) -> bool:
        return True

    patch.setattr(ExecuteLane, "_is_counted", is_counted)


def slots_by_job_id(patch: pytest.MonkeyPatch) -> None:
    """A second lease of a job starts beside the first (A4)."""

    def start_next(slots: Slots, *, now: float) -> RunningJob | None:
        [group] = slots._groups
        if not group.prefetched or group.running >= group.slots - group.reserved:
            return None
        claimed, since = group.prefetched[0]
        if claimed.prefetch_no is not None and not slots._may_start_prefetched(group):
            return None
        group.take(now=now)
        slots._lease_of[claimed.lease.job_id] = claimed.lease
        running = slots._running[claimed.lease] = RunningJob(claimed, group, since, now)
        group.running += 1
        return running

    patch.setattr(Slots, "start_next", start_next)


def heartbeat_on_the_shared_pool(patch: pytest.MonkeyPatch) -> None:
    """The heartbeat waits for a connection with claims, settles and maintenance (A7)."""
    patch.setattr(Database, "call_for_heartbeat", Database.call)


def maintenance_without_a_bound(patch: pytest.MonkeyPatch) -> None:
    """Maintenance may take every connection of the pool (A8)."""

    async def call(
        database: Database, operation: Any, *, in_transaction: bool = False, timeout: float = 30.0
    ) -> Any:
        run = database.call_in_transaction if in_transaction else database.call
        return await run(operation, timeout=timeout)

    patch.setattr(Database, "call_for_maintenance", call)


def cancels_are_read_as_maintenance(patch: pytest.MonkeyPatch) -> None:
    """A cancel waits until a slow maintenance call has ended (A8)."""

    async def once(lane: CancelLane) -> None:
        state = lane._state
        if state.slots.leases:
            requests = cancel_requests(state.worker_id)
            state.cancel(await lane._database.call_for_maintenance(requests))

    patch.setattr(CancelLane, "once", once)


def unaccepted_jobs_are_not_taken_over(patch: pytest.MonkeyPatch) -> None:
    """A job that was dispatched to a worker which can't start it waits for that one (A11)."""
    patch.setattr(Credit, "watch", lambda credit: None)


def pauses_do_not_stop_starts(patch: pytest.MonkeyPatch) -> None:
    """What was claimed before a pause starts after it (A11)."""

    async def release(lane: PauseLane) -> None:
        return None

    patch.setattr(WorkerState, "is_refused", lambda state, claimed: False)
    patch.setattr(WorkerState, "release_refused", lambda state: [])
    patch.setattr(PauseLane, "_release", release)


def paused_during_a_hook(patch: pytest.MonkeyPatch) -> None:
    """A pause that comes while the hook runs does not stop the handler (A11)."""
    is_refused = WorkerState.is_refused
    checked: set[int] = set()

    def first_check(state: WorkerState, claimed: Any) -> bool:
        return is_refused(state, claimed)

    original = ExecuteLane._call_with_hooks

    async def call_with_hooks(lane: ExecuteLane, running: RunningJob, hooks: Any) -> Ending:
        checked.add(id(running.claimed))
        return await original(lane, running, hooks)

    patch.setattr(ExecuteLane, "_call_with_hooks", call_with_hooks)
    patch.setattr(
        WorkerState,
        "is_refused",
        lambda state, claimed: id(claimed) not in checked and first_check(state, claimed),
    )


def limited_jobs_are_prefetched(patch: pytest.MonkeyPatch) -> None:
    """Jobs of limited tasks are claimed for more than the free slots (A11)."""
    claim = Claimer.claim

    def claim_more(
        claimer: Claimer, limit: int, *, slots: int, timeout: float
    ) -> Awaitable[Claimed]:
        return claim(claimer, 10, slots=10, timeout=timeout)

    patch.setattr(Claimer, "claim", claim_more)


def queues_use_slots_of_others(patch: pytest.MonkeyPatch) -> None:
    """A queue with slots of its own starts jobs in the free slots of another one."""
    resize = Slots.resize

    def resize_all(slots: Slots, queue: str, number: int) -> SlotGroup:
        group = resize(slots, queue, number)
        for each in slots._groups:
            each.slots = slots.concurrency
        return group

    patch.setattr(Slots, "resize", resize_all)


def room_wakes_no_worker(patch: pytest.MonkeyPatch) -> None:
    """A worker that waits for room in a limit is not woken when there is room (A11)."""
    patch.setattr(WorkerState, "concerns", lambda state, limited: False)


def a_called_waiter_calls_no_other(patch: pytest.MonkeyPatch) -> None:
    """A waiter that was called to listen and leaves instead calls no other."""
    call_another = Waiting._wake_another

    def call(waiting: Waiting, leaving: Any) -> None:
        if leaving in waiting._waiters:
            call_another(waiting, leaving)

    patch.setattr(Waiting, "_wake_another", call)


STAMPED = """
select pg_get_functiondef(oid)
from pg_proc
where pronamespace = 'roost'::regnamespace
    and prosrc like '%statement_timestamp()%'
    and (proname like 'insert%' or proname = 'enqueue')
"""


def inserts_stamped_with_the_transaction(connection: psycopg.Connection[Any]) -> None:
    """Jobs get the time at which their transaction began, in each function that inserts them.

    In the caller's transaction, which is rolled back.
    """
    for (text,) in connection.execute(STAMPED).fetchall():
        connection.execute(text.replace("statement_timestamp()", "now()"))
