"""One call of `Worker.run`: starts the lanes in order, waits for a stop, stops them in order."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from time import monotonic

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from roost._drivers.base import CLEANUP_TIMEOUT, AsyncDriver, cleanup_bound
from roost._drivers.shield import shielded
from roost._model.database_view import DatabaseNumbers
from roost._model.health import HealthFacts
from roost._model.info import WorkerPhase
from roost._model.lifespan import State
from roost._model.logs import StructuredLogger
from roost._model.registry import HandlerRegistry
from roost._model.settings import Queues, WorkerSettings
from roost._model.version import roost_version
from roost._ops import schema
from roost._worker.database import Connections, Database
from roost._worker.forced_exit import AbandonedWork
from roost._worker.lane import Lane, Lanes, StartedOnce
from roost._worker.lanes.control import CancelLane, PauseLane
from roost._worker.lanes.cron import CronLane
from roost._worker.lanes.drain import DrainLane
from roost._worker.lanes.events import EventsLane
from roost._worker.lanes.execute import ExecuteLane
from roost._worker.lanes.fetch import FetchLane
from roost._worker.lanes.heartbeat import HeartbeatLane, event_loop, unwinding_seconds
from roost._worker.lanes.lifespan import LifespanLane
from roost._worker.lanes.listen import ListenLane
from roost._worker.lanes.maintenance import (
    ArchiveLane,
    LimitsLane,
    RescueLane,
    UnknownTasksLane,
)
from roost._worker.lanes.metadata import MetadataLane
from roost._worker.lanes.metrics import MetricsLane
from roost._worker.lanes.prefetch_mark import PrefetchMarkLane
from roost._worker.lanes.rollups import RollupsLane
from roost._worker.lanes.settle import SettleLane
from roost._worker.lanes.task_options import TaskOptionsLane
from roost._worker.loop_watch import INTERVAL, LoopWatch
from roost._worker.queue_changes import QueueChanges, groups_for
from roost._worker.state import MAX_UNSETTLED, WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker")

STOP_MARGIN = 5.0
"""Seconds after the grace in which the lanes must end. Then they are cancelled."""
SHIELD = 7 * 86_400.0
"""Seconds of the shield around the work, extended while the event loop runs. A process that was
suspended for less than this goes on."""
EXTEND_INTERVAL = 3600.0
"""Seconds between two extensions of the shield."""

LanesFor = Callable[[WorkerState, Database], Sequence[Lane]]
"""Returns the lanes that get a worker its jobs. They start last and stop first."""


def serving_lanes(state: WorkerState, database: Database) -> list[Lane]:
    """Return the lanes of a worker that serves until it is stopped."""
    settings = state.settings
    lanes: list[Lane] = []
    if settings.run_cron:
        lanes.append(CronLane(state, database))
    return [
        *lanes,
        ArchiveLane(state, database),
        RescueLane(state, database),
        LimitsLane(state, database),
        MetricsLane(state, database),
        TaskOptionsLane(state, database),
        UnknownTasksLane(state, database),
        FetchLane(state, database),
    ]


def draining_lanes(state: WorkerState, database: Database) -> list[Lane]:
    """Return the lanes of a worker that ends when no due job is left."""
    return [
        TaskOptionsLane(state, database),
        UnknownTasksLane(state, database),
        DrainLane(state, database),
    ]


class Session:
    """Runs one worker from its start to the end of its stop.

    :param worker: what the lifespan is called with.
    :param handler_state: what handlers share; the lifespan adds to it, or replaces it.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        registry: HandlerRegistry,
        settings: WorkerSettings,
        *,
        worker: object,
        handler_state: State,
    ) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        groups, slots = groups_for(settings)
        self.state = WorkerState(
            name=name,
            settings=settings,
            registry=registry,
            slots=slots,
            groups=groups,
            handler_state=handler_state,
        )
        self._database = Database(driver, worker_name=name)
        self._execute = ExecuteLane(self.state, self._database)
        self._settle = SettleLane(self.state, self._database)
        self._lifespan = LifespanLane(self.state, worker)
        self._heartbeat = HeartbeatLane(self.state, self._database)
        self.queues = QueueChanges(self.state, self._database, self._execute)
        self._loop_watch = LoopWatch(self.state.slots, self.state.loop_lag)
        self._event_loop = ""
        self._ended = anyio.Event()
        self._shield = shielded(SHIELD)
        self._stop_timed = False

    async def run(self, lanes_for: LanesFor, task_status: TaskStatus[None]) -> None:
        """Work until a stop is requested, then stop in order.

        The work is a shielded child. A cancel of a scope around this call reaches only
        `_stop_when_cancelled`, which requests the stop.

        :param lanes_for: returns the lanes that get the worker its jobs.
        :param task_status: started when all lanes have started.
        :raises Exception: the error that a lane crashed with, after the ordered stop.
        """
        self._event_loop = event_loop()
        # Jobs inherit it, so a handler's transaction ends before other workers may run its job.
        bound = cleanup_bound.set(unwinding_seconds(self.state.settings) / 2)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._stop_when_cancelled)
                group.start_soon(self._work, lanes_for, task_status, group.cancel_scope)
                await self._wait_until_ended()
        finally:
            cleanup_bound.reset(bound)
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self.state.stop.crash is not None:
            raise self.state.stop.crash

    @property
    def is_running(self) -> bool:
        """Whether the worker has registered and no stop was requested."""
        return bool(self.state.worker_id) and not self.state.stopping

    def health_facts(self) -> HealthFacts:
        """Return what the lanes have recorded; see `assess`. May be called from any thread."""
        state, now = self.state, monotonic()
        vitals = state.vitals
        free = [state.slots.free_slots(group.slots) for group in list(state.groups)]
        return HealthFacts(
            phase=self._phase,
            worker_id=state.worker_id or None,
            # Before the lanes run, no timer says it.
            loop_age=now - self._loop_watch.turned_at if vitals.started else 0.0,
            registered=vitals.started,
            holds_leases=state.holds_leases(),
            heartbeat_interval=state.settings.heartbeat_interval,
            heartbeat_age=now - vitals.heartbeat_at,
            heartbeat_try_age=now - vitals.heartbeat_tried_at,
            claim_age=now - vitals.claimed_at,
            claim_wait=max(now - vitals.claim_began_at, 0.0),
            claim_failed=vitals.claim_failed,
            listening=state.listening,
            polls_only=vitals.polls_only,
            listen_age=now - vitals.listened_at,
            running=len(state.slots),
            slots=state.slots.concurrency,
            free_slots=max(free, default=0),
            prefetched=state.slots.prefetched,
            unwritten=len(state.verdicts),
            max_unwritten=MAX_UNSETTLED,
        )

    @property
    def software(self) -> tuple[str, str, str]:
        """The version of Roost, the driver, and the event loop, which is empty before the start."""
        return roost_version(), self._database.driver_name, self._event_loop

    @property
    def loop_lag(self) -> float:
        """By how many seconds the event loop was late at most, in the last minute or two."""
        blocked = monotonic() - self._loop_watch.turned_at - INTERVAL
        return max(self.state.loop_lag.recent, blocked if self.state.vitals.started else 0.0)

    def read_database_view(self) -> DatabaseNumbers | None:
        """Return the database's numbers, and have them read while this is called again and again.

        May be called from any thread. ``None``: another worker reads them, or none has yet.
        """
        view = self.state.database_view
        view.wanted_at = monotonic()
        return view.numbers

    @property
    def connections(self) -> Connections:
        """The connections of the worker's pool."""
        return self._database.connections()

    @property
    def _phase(self) -> WorkerPhase:
        if self.state.stopping:
            return "stopping"
        return "running" if self.state.vitals.started else "starting"

    def abandoned_work(self) -> AbandonedWork | None:
        """Return the unwritten verdicts, and whose leases and row are left; ``None``: no row."""
        state = self.state
        if not state.worker_id:
            return None
        return AbandonedWork(state.worker_id, list(state.verdicts), state.settings.error_cap)

    async def _stop_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if not self.state.stopping:
                self.state.stop.request()

    async def _wait_until_ended(self) -> None:
        """Return when the work has ended. Each interrupt until then requests a stop.

        An interrupt is a cancel that no shield holds off, as asyncio's ``task.cancel()`` causes, or
        a KeyboardInterrupt that trio raises in the main task. The first one is raised again at the
        end.
        """
        interrupt: BaseException | None = None
        while not self._ended.is_set():
            try:
                with shielded(SHIELD):
                    await self._ended.wait()
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt) as error:
                interrupt = interrupt or error
                self.state.stop.request()
        if interrupt is not None:
            raise interrupt

    async def _work(
        self,
        lanes_for: LanesFor,
        task_status: TaskStatus[None],
        outer_scope: anyio.CancelScope,
    ) -> None:
        """Connect, run the lanes until they have stopped, and end `_stop_when_cancelled`."""
        state = self.state
        ready = StartedOnce(task_status)
        try:
            with self._shield:
                await self._connect()
                if not state.stopping:
                    await self._run_lanes(lanes_for(state, self._database), ready)
        except Exception as error:  # noqa: BLE001  (kept; `run` raises it)
            state.stop.fail(error)
        finally:
            with shielded(CLEANUP_TIMEOUT):
                await self._database.aclose()
            if self._shield.cancelled_caught:
                logger.error("the stop took too long and was cut off")
            if state.stop.crash is None:
                ready.started()
            self._ended.set()
            outer_scope.cancel()

    async def _connect(self) -> None:
        """Check the schema and register the worker. Retry while the database is unavailable."""
        settings = self.state.settings
        with self.state.stop.starting:
            for retries_left in range(settings.startup_max_retries, -1, -1):
                try:
                    # In a transaction: a pooler may use another connection for each statement.
                    await self._database.call_in_transaction(schema.check())
                    await LimitsLane(self.state, self._database).publish()
                    await self._heartbeat.register()
                except DatabaseUnavailableError as error:
                    if not retries_left:
                        raise
                    logger.warning(
                        "database unavailable at start, trying %(retries_left)d times more: "
                        "%(error)s",
                        retries_left=retries_left,
                        error=str(error),
                    )
                    await anyio.sleep(settings.startup_retry_delay)
                else:
                    return

    async def _run_lanes(self, working: Sequence[Lane], ready: StartedOnce) -> None:
        """Start the lanes from the outermost in; leaving stops them from the inside out."""
        state, database = self.state, self._database
        order: list[Lane] = [
            self._heartbeat,
            RollupsLane(state, database),
            ListenLane(state, database),
            CancelLane(state, database),
            PauseLane(state, database),
            EventsLane(state, database),
            self._settle,
            MetadataLane(state, database),
            PrefetchMarkLane(state, database),
            self._lifespan,
            self._execute,
            *working,
        ]
        async with anyio.create_task_group() as group:
            group.start_soon(self._extend_the_shield)
            group.start_soon(self._time_the_stop)
            group.start_soon(self._loop_watch.run)
            lanes = Lanes(group, on_crash=state.stop.fail)
            async with AsyncExitStack() as started:
                for lane in order:
                    await started.enter_async_context(lanes.running(lane))
                if not state.stopping:
                    state.vitals.started = True
                    self._report_ready()
                    ready.started()
                await state.stop.requested.wait()
                state.heartbeat_wake.set()  # the row says that it stops
                logger.info(
                    "worker is stopping: id %(worker_id)d, %(jobs)d jobs run and get "
                    "%(shutdown_timeout)g s",
                    worker_id=state.worker_id,
                    jobs=len(state.slots),
                    shutdown_timeout=state.settings.shutdown_timeout,
                )
            group.cancel_scope.cancel()

    def _report_ready(self) -> None:
        state = self.state
        logger.info(
            "worker is ready: id %(worker_id)d, name %(worker)s, queues %(queues)s; tasks "
            "%(tasks)s; concurrency %(concurrency)d, driver %(driver)s, event loop %(event_loop)s",
            worker_id=state.worker_id,
            worker=state.name,
            queues=_described(state.settings.queues),
            tasks=sorted(state.registry),
            concurrency=state.slots.concurrency,
            driver=self._database.driver_name,
            event_loop=self._event_loop,
        )

    async def _extend_the_shield(self) -> None:
        """Extend the shield's deadline regularly, until the stop has set an earlier one."""
        while True:
            if not self._stop_timed:
                self._shield.deadline = anyio.current_time() + SHIELD
            await anyio.sleep(EXTEND_INTERVAL)

    async def _time_the_stop(self) -> None:
        """Set the stop's deadlines when it is requested, and earlier ones when it is hurried."""
        stop, grace = self.state.stop, self.state.settings.shutdown_timeout
        await stop.requested.wait()
        now = anyio.current_time()
        if math.isfinite(grace):
            self._bound_the_stop(now + grace + STOP_MARGIN)
        self._settle.end_by(now + grace)
        self._lifespan.end_by(now + grace)
        await stop.hurried.wait()
        now = anyio.current_time()
        self._settle.end_by(now)
        self._lifespan.end_by(now)
        self._bound_the_stop(now + STOP_MARGIN)
        self._execute.end_by(now)

    def _bound_the_stop(self, deadline: float) -> None:
        self._stop_timed = True
        self._shield.deadline = min(self._shield.deadline, deadline)


def _described(queues: Queues) -> list[str]:
    if isinstance(queues, Mapping):
        return [f"{name}={slots}" for name, slots in queues.items()]
    return list(queues)
