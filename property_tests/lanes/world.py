"""Workers, their jobs, what rules do to them, and what must hold.

Everything here runs inside the simulation's loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import attrs
from property_tests.lanes.clock import database_time
from property_tests.lanes.database import TimedConnection
from property_tests.lanes.diary import (
    CONCURRENCY,
    RATE,
    UNLIMITED,
    UNWINDING,
    Attempt,
    Diary,
)
from property_tests.lanes.faults import HEARTBEATS, Fault
from property_tests.lanes.inserting import insert
from property_tests.lanes.simulation import Simulation

from roost import HandlerRegistry, Hooks, JobInsert, TaskDefaults
from roost._drivers.base import run_sync
from roost._model.encoding import encode_batch, encode_jobs
from roost._model.job import Job
from roost._model.lifespan import State
from roost._model.settings import WorkerSettings
from roost._model.verdict import Lease
from roost._ops import control, enqueue
from roost._ops.query import Op, Query, Row
from roost._ops.rescue import expire_workers, rescue_jobs
from roost._sql import Statement
from roost._worker.session import Session, serving_lanes
from roost.exceptions import DatabaseUnavailableError, InvalidSettingError

OTHER = "other"
QUEUES = ("default", OTHER)
STALE_AFTER = 5.0
HEARTBEAT = 2.5
MAINTENANCE_INTERVAL = 10.0
"""Seconds. Rescues do not wait for it: see `World.rescue`."""
PROMPTLY = 2.5
"""Seconds after which a worker that nothing hinders must have started what it can start: it hands
prefetched jobs back after one, and looks for unaccepted ones after 0.15."""
AFTER_FAILURES = 20.0
"""The same after calls that have failed: a lane waits up to 15 s before it tries again."""


@attrs.frozen
class Settings:
    """What rules choose of a worker's settings.

    :param slots: the slots of each of `QUEUES`; ``None``: they share ``concurrency``.
    """

    concurrency: int
    prefetch: int | None
    grace: float
    slots: tuple[int, int] | None = None


@attrs.define(eq=False)
class SimulatedWorker:
    """One worker.

    :param fit_from: from when on nothing that was done to it may delay it.
    :param may_lose_leases: whether a rule has removed its row or hindered its heartbeats.
    """

    name: str
    session: Session
    fit_from: float
    may_lose_leases: bool = False
    ended: bool = False
    stop_requested_at: float = math.inf
    first_id: int = 0

    @property
    def state(self) -> Any:
        """The state that its lanes share."""
        return self.session.state


class World:
    """Up to two workers on two queues, of which only the first is paused.

    :param hook_seconds: how long the hook before each handler takes.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.faults = simulation.faults
        self.table = simulation.server.shared
        self.diary = Diary(simulation.clock)
        self.workers: list[SimulatedWorker] = []
        self.hook_seconds = 0.0
        self.pauses = 0
        self.wants_pause = False
        self.open_transaction: TimedConnection | None = None
        self.locker: TimedConnection | None = None
        self.jobs: list[int] = []
        self.cancelled: set[int] = set()
        self._started = 0
        self._dead: dict[int, str] = {}
        simulation.group.start_soon(self.rescue)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.simulation.now

    # The tables

    def rows(self, text: str, *params: object) -> Sequence[Row]:
        """Run one statement at once."""
        return self.table.fetch(Query(Statement("simulation", text), params))

    def run(self, operation: Op[Any]) -> Any:
        """Run one operation at once, in a transaction of its own."""
        self.table.command("begin")
        value = run_sync(self.table.real, operation)
        self.table.command("commit")
        self.faults.changed()
        return value

    # Workers

    def start_worker(self, drawn: Settings) -> None:
        """Start a worker, and do not wait until it is ready."""
        self._started += 1
        name = f"worker {self._started}"
        slots = drawn.slots
        settings = WorkerSettings(
            queues=QUEUES if slots is None else dict(zip(QUEUES, slots, strict=True)),
            concurrency=drawn.concurrency,
            prefetch=drawn.prefetch,
            poll_interval=1_000,
            heartbeat_interval=HEARTBEAT,
            orphan_stale_after=STALE_AFTER,
            orphan_reaper_interval=MAINTENANCE_INTERVAL,
            shutdown_timeout=drawn.grace,
            listen_reconnect_delay=0.3,
            archive_after_seconds=100_000,
            archive_interval=MAINTENANCE_INTERVAL,
            run_cron=False,
            startup_max_retries=1_000,
            startup_retry_delay=0.1,
            hooks=Hooks(before_job=self._before_job),
        )
        for queue, number in zip(QUEUES, slots or [drawn.concurrency] * 2, strict=True):
            self.diary.slots[name, queue] = number
        registry = HandlerRegistry()
        driver = self.simulation.network.driver(name)
        worker = SimulatedWorker(
            name,
            Session(driver, registry, settings, worker=None, handler_state=State()),
            self.now + PROMPTLY,
        )
        self._register(registry, worker)
        self.workers.append(worker)
        self.simulation.group.start_soon(self._run_worker, worker)

    async def _run_worker(self, worker: SimulatedWorker) -> None:
        try:
            await worker.session.run(serving_lanes, anyio.TASK_STATUS_IGNORED)
        except Exception as error:  # noqa: BLE001  (told to the rules)
            self.diary.wrong(f"{worker.name} crashed: {error!r}")
        worker.ended = True
        self._check_what_is_left_by(worker)

    def _register(self, registry: HandlerRegistry, worker: SimulatedWorker) -> None:
        diary, state, name = self.diary, worker.state, worker.name

        async def quick() -> None:
            with diary.attempt(name, "quick", state):
                await anyio.sleep(0.002)

        async def gated() -> None:
            with diary.attempt(name, "gated", state) as attempt:
                await attempt.gate.wait()

        async def slow_to_end() -> None:
            with diary.attempt(name, "slow to end", state) as attempt:
                try:
                    await attempt.gate.wait()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(UNWINDING)

        def thread() -> None:
            with diary.attempt(name, "thread", state) as attempt:
                attempt.thread_gate.wait()

        async def narrow() -> None:
            with diary.attempt(name, "narrow", state) as attempt:
                await attempt.gate.wait()

        async def rated() -> None:
            with diary.attempt(name, "rated", state):
                await anyio.sleep(0.002)

        for func in (quick, gated, thread):
            registry.register(func.__name__, func)
        registry.register("slow to end", slow_to_end)
        registry.register("narrow", narrow, defaults=TaskDefaults(max_concurrency=CONCURRENCY))
        registry.register("rated", rated, defaults=TaskDefaults(rate_per_minute=RATE))

    async def _before_job(self, job: Job, *, ctx: object) -> None:
        if self.hook_seconds:
            await anyio.sleep(self.hook_seconds)

    async def rescue(self) -> None:
        """Rescue each expired worker's jobs at once, as the lane of another worker may."""
        while True:
            [[left]] = self.rows(
                "select extract(epoch from min(expires_at) - statement_timestamp())"
                "::double precision from roost.workers"
            )
            wait = HEARTBEAT if left is None else max(left, 0.0) + 0.001
            await anyio.sleep(min(HEARTBEAT, wait))
            if self.locker is None:
                self.run(expire_workers(self._dead))
                self.run(rescue_jobs(limit=100, error_cap=20, names=self._dead))

    def living(self) -> list[SimulatedWorker]:
        """Return the workers that have not ended."""
        return [worker for worker in self.workers if not worker.ended]

    def stop(self, worker: SimulatedWorker) -> None:
        """Request the worker's stop; once more: hurry."""
        worker.stop_requested_at = min(worker.stop_requested_at, self.now)
        worker.state.stop.request()

    def is_fit(self, worker: SimulatedWorker) -> bool:
        """Say whether nothing hinders the worker now, or may still hinder it."""
        return (
            not worker.ended
            and worker.stop_requested_at == math.inf
            and worker.fit_from <= self.now
            and self.locker is None
            and all(fault.is_harmless for fault in self.faults.of(worker.name))
        )

    def hinder(self, worker: SimulatedWorker, *, until: float) -> None:
        """Expect nothing of the worker until then."""
        worker.fit_from = max(worker.fit_from, until)

    def fit(self) -> list[SimulatedWorker]:
        """Return the workers that nothing hinders."""
        return [worker for worker in self.workers if self.is_fit(worker)]

    # Queues of a running worker

    def stop_queue(self, worker: SimulatedWorker) -> None:
        """Stop "other" in the worker, whose row follows when it can be written."""
        if worker.session.is_running and worker.state.group_of(OTHER) is not None:
            self.simulation.group.start_soon(self._stop_queue, worker)

    async def _stop_queue(self, worker: SimulatedWorker) -> None:
        with suppress(InvalidSettingError):  # it was stopped meanwhile
            stop = worker.session.queues.stop(OTHER)
            self.diary.slots[worker.name, OTHER] = 0  # it is stopped in the same step
            await stop

    def start_queue(self, worker: SimulatedWorker, slots: int) -> None:
        """Serve "other" again, if the worker's row can be written."""
        if worker.session.is_running and OTHER not in worker.state.queues:
            own = None if worker.state.settings.queue_slots is None else slots
            self.simulation.group.start_soon(self._start_queue, worker, own)

    async def _start_queue(self, worker: SimulatedWorker, slots: int | None) -> None:
        self.diary.slots[worker.name, OTHER] = slots or worker.state.settings.concurrency
        with suppress(DatabaseUnavailableError, InvalidSettingError):
            await worker.session.queues.start(OTHER, slots)

    def resize_queue(self, worker: SimulatedWorker, slots: int) -> None:
        """Change the slots of "other", if it has slots of its own."""
        served = worker.state.group_of(OTHER) is not None
        if worker.session.is_running and served and worker.state.settings.queue_slots:
            self.simulation.group.start_soon(self._resize_queue, worker, slots)

    async def _resize_queue(self, worker: SimulatedWorker, slots: int) -> None:
        with suppress(InvalidSettingError):  # it was stopped meanwhile
            resize = worker.session.queues.resize(OTHER, slots)
            if worker.state.group_of(OTHER) is not None:
                self.diary.slots[worker.name, OTHER] = slots
            await resize

    # Faults

    def begin(self, fault: Fault) -> None:
        """Begin a fault."""
        [worker] = [worker for worker in self.workers if worker.name == fault.owner]
        if fault.hinders(HEARTBEATS):
            worker.may_lose_leases = True
        self.faults.begin(fault)

    def end(self, fault: Fault) -> None:
        """End it."""
        for worker in self.workers:
            if worker.name == fault.owner and not fault.is_harmless:
                delay = PROMPTLY if fault.kind in ("deaf", "answered late") else AFTER_FAILURES
                self.hinder(worker, until=self.now + delay)
        self.faults.end(fault)

    def lock_jobs(self) -> None:
        """Lock the table of jobs, as ``create index`` does."""
        self.locker = self.simulation.server.take()
        self.locker.command("begin; lock table roost.jobs in share mode")
        self.simulation.network.unlocked = anyio.Event()

    def unlock_jobs(self) -> None:
        """Give the lock up."""
        assert self.locker is not None
        self.locker.command("commit")
        self.simulation.server.give_back(self.locker)
        self.locker = None
        unlocked, self.simulation.network.unlocked = self.simulation.network.unlocked, None
        assert unlocked is not None
        unlocked.set()
        for worker in self.workers:
            self.hinder(worker, until=self.now + AFTER_FAILURES)

    def lose_row(self, worker: SimulatedWorker) -> None:
        """Remove the worker's row, as a rescue does that takes the worker for dead."""
        if not worker.state.worker_id:
            return
        worker.may_lose_leases = True
        self.hinder(worker, until=self.now + HEARTBEAT + PROMPTLY)
        self.diary.removed.add(worker.state.worker_id)
        self.rows("delete from roost.workers where id = $1::bigint", worker.state.worker_id)

    # Jobs

    def enqueue(self, task: str, *, count: int = 1, queue: str = "default") -> None:
        """Enqueue jobs of one task; a single one may be dispatched."""
        jobs = [JobInsert(task, queue=queue) for _ in range(count)]
        if count == 1:
            insert = enqueue.insert_job(encode_jobs(jobs), unique_key=None, dispatch=True)
            self.jobs.append(self.run(insert))
        else:
            self.jobs += self.run(enqueue.insert_batch(encode_batch(jobs)))

    def begin_transaction(self) -> None:
        """Begin a producer's transaction."""
        self.open_transaction = self.simulation.server.take()
        self.open_transaction.command(f"begin; set local clock.began = '{database_time(self.now)}'")

    def enqueue_in_transaction(self, task: str, way: str) -> None:
        """Enqueue a job in it. It must be stamped with this moment, not with the beginning."""
        producer = self.open_transaction
        assert producer is not None
        producer.clock.set()
        ids = run_sync(producer.real, insert(JobInsert(task), way))
        self.jobs += ids
        text = "select inserted_at, scheduled_at from roost.jobs where id = $1::bigint"
        [stamps] = producer.fetch(Query(Statement("simulation", text), (ids[0],)))
        if {*stamps} != {database_time(self.now)}:
            self.diary.wrong(f"job {ids[0]} ({way}) was inserted now and stamped {stamps}")

    def commit(self) -> None:
        """Commit it."""
        assert self.open_transaction is not None
        self.open_transaction.command("commit")
        self.simulation.server.give_back(self.open_transaction)
        self.open_transaction = None
        self.faults.changed()

    async def cancel(self, attempt: Attempt) -> None:
        """Cancel a running job. A worker that nothing hinders interrupts it at once."""
        self.cancelled.add(attempt.lease.job_id)
        self.run(control.cancel_job(attempt.lease.job_id))
        [worker] = [worker for worker in self.workers if worker.name == attempt.worker]
        fit = self.is_fit(worker)
        await anyio.sleep(1)  # sleeps: by the clock that is set
        can_end = attempt.task not in ("thread", "slow to end")
        if can_end and fit and self.is_fit(worker) and attempt in self.diary.running:
            self.diary.wrong(f"{attempt} was cancelled a second ago and still runs")

    def pause(self) -> None:
        """Begin to pause the queue, as ``pause_queue`` does."""
        self.wants_pause = True
        self.pauses += 1
        self.run(control.pause_queue("default"))
        self.simulation.group.start_soon(self._wait_until_paused, self.pauses)

    async def _wait_until_paused(self, number: int) -> None:
        while self.pauses == number and self.wants_pause:
            if not self.run(control.unconfirmed_workers("default")):
                self.diary.paused = True
                return
            await anyio.sleep(0.02)

    def resume(self) -> None:
        """Resume the queue."""
        self.wants_pause = self.diary.paused = False
        self.run(control.resume_queue("default"))

    def open_gates(self, attempts: Sequence[Attempt]) -> None:
        """Let handlers return."""
        for attempt in attempts:
            attempt.open()

    # What must hold

    def check(self) -> None:
        """Check what holds at every moment."""
        for worker in self.workers:
            state = worker.state
            worker.first_id = worker.first_id or state.worker_id
            if not worker.may_lose_leases and state.worker_id != worker.first_id:
                self.diary.wrong(f"{worker.name} lost its leases, and nothing hindered it")
        self._check_limited()

    def _check_limited(self) -> None:
        rows = self.rows(
            "select worker_id, count(*) from roost.jobs "
            "where state = 'executing' and task in ('narrow', 'rated') group by worker_id"
        )
        held: dict[int, int] = dict(rows)
        for worker in self.living():
            unwritten = len(worker.state.verdicts)
            jobs = held.get(worker.state.worker_id, 0) - unwritten
            if jobs > worker.state.settings.concurrency:
                self.diary.wrong(f"{worker.name} holds {jobs} jobs of limited tasks")

    async def check_nothing_waits(self) -> None:
        """Check that no job waits while a worker that nothing hinders has a free slot."""
        before = self._waits()
        if not before:
            return
        await anyio.sleep(0.5)  # sleeps: by the clock that is set
        for what in before & self._waits():
            self.diary.wrong(f"{what} waits, and a worker is idle")

    async def check_nothing_waits_soon(self) -> None:
        """Check it when what was done to the workers can't delay them any more."""
        fit_from = [worker.fit_from for worker in self.living()]
        await anyio.sleep(max([0.0, *(at - self.now for at in fit_from)]))
        await self.check_nothing_waits()

    def _waits(self) -> set[str]:
        free = [worker for worker in self.workers if self.is_fit(worker) and _has_slot(worker)]
        found = set()
        for worker in self.workers:
            if self.is_fit(worker) and not worker.state.listening:
                found.add(f"{worker.name} does not listen: a notification")
        if not free or self.wants_pause:
            return found
        waiting = {
            task
            for task, queue in self.rows(
                "select distinct task, queue from roost.jobs "
                "where state in ('available', 'retryable') and scheduled_at <= now()"
            )
            if any(_has_slot(worker, queue) for worker in free)
        }
        found |= {task for task in waiting if task in UNLIMITED}
        [[narrow, rated]] = self.rows(
            "select ("
            "select count(*) from roost.jobs where state = 'executing' and task = 'narrow'"
            "), ("
            "select count(*) from roost.starts where started_at > now() - interval '61.1 seconds'"
            ")"
        )
        if "narrow" in waiting and narrow < CONCURRENCY:
            found.add("narrow")
        if "rated" in waiting and rated < RATE:
            found.add("rated")
        found |= self._unaccepted(free)
        return found

    def _unaccepted(self, free: list[SimulatedWorker]) -> set[str]:
        """Return the jobs that were dispatched to a worker that should have accepted them, or to
        one that is cut off, from which another one should have taken them over.
        """
        receivers = [
            worker
            for worker in self.workers
            if self.is_fit(worker) or self.faults.happens("cut off", worker.name)
        ]
        since = min(worker.fit_from for worker in free)
        return {
            f"dispatched job {job_id}"
            for (job_id,) in self.rows(
                "select job.id from roost.workers as worker "
                "join roost.jobs as job on job.id = worker.dispatched_job_id "
                "and job.worker_id = worker.id and job.state = 'executing' and job.lease_no = 1 "
                "where worker.id = any ($1::bigint[]) and job.attempted_at > $2::timestamptz",
                [worker.state.worker_id for worker in receivers],
                database_time(since),
            )
        }

    def _check_what_is_left_by(self, worker: SimulatedWorker) -> None:
        state = worker.state
        if not state.holds_leases() or state.worker_id in self.diary.removed:
            return
        held = {
            attempt.lease
            for attempt in self.diary.of(worker.name)
            if attempt.lease.worker_id == state.worker_id
        }
        row = self.rows("select id from roost.workers where id = $1::bigint", state.worker_id)
        if held and not row:
            self.diary.wrong(f"{worker.name} has removed its row, and a handler still runs")
        if worker.fit_from > worker.stop_requested_at or self.faults.of(worker.name):
            return
        leases = {
            Lease(job_id, state.worker_id, lease_no)
            for job_id, lease_no in self.rows(
                "select id, lease_no from roost.jobs "
                "where state = 'executing' and worker_id = $1::bigint",
                state.worker_id,
            )
        }
        if leases - held and self.locker is None:
            self.diary.wrong(f"{worker.name} has ended with leases: {leases - held}")

    # The end

    async def recover(self) -> None:
        """End every fault and open every gate. Then every job must end."""
        if self.open_transaction is not None:
            self.commit()
        if self.locker is not None:
            self.unlock_jobs()
        for fault in list(self.faults.active):
            self.end(fault)
        self.hook_seconds = 0.0
        self.diary.open = True
        self.open_gates(list(self.diary.running))
        if self.wants_pause:
            self.resume()
        if not any(worker.stop_requested_at == math.inf for worker in self.living()):
            self.start_worker(Settings(concurrency=2, prefetch=None, grace=0.5))
        await self.check_nothing_waits_soon()
        for worker in self.living():
            self.start_queue(worker, 1)
        await self._until_all_have_ended()
        for worker in self.living():
            if worker.stop_requested_at == math.inf:
                self.stop(worker)
        with anyio.move_on_after(10):
            while self.living():  # noqa: ASYNC110  (by a clock that jumps)
                await anyio.sleep(0.05)
        for worker in self.living():
            self.diary.wrong(f"{worker.name} does not end")

    async def _until_all_have_ended(self) -> None:
        [[rated]] = self.rows("select count(*) from roost.jobs where task = 'rated'")
        # One minute more: a claim counts a start, and may be released after a resume.
        longest = 45 + (62 * (rated // RATE + 1) if rated else 0)
        began = self.now
        left: list[Row] = []
        while self.now < began + longest:
            left = list(
                self.rows(
                    "select id, task, state from roost.jobs "
                    "where state in ('available', 'executing', 'retryable')"
                )
            )
            late = self.now > began + 45 and any(task != "rated" for _, task, _ in left)
            if late or not left:
                break
            await anyio.sleep(1)  # sleeps: by the clock that is set
        if left:
            self.diary.wrong(f"these jobs do not end: {left}")
        ended = self.rows(
            "select id, task, state from roost.jobs "
            "where state <> 'completed' and not id = any ($1::bigint[])",
            list(self.cancelled),
        )
        if ended and not left:
            self.diary.wrong(f"these jobs did not end well: {ended}")


def _has_slot(worker: SimulatedWorker, queue: str | None = None) -> bool:
    """Say whether a job of the queue, or of any, could start in this worker."""
    slots = worker.state.slots
    groups = [group for group in worker.state.groups if queue is None or queue in group.queues]
    return len(slots) < slots.concurrency and any(
        group.slots.running < group.slots.slots for group in groups
    )
