"""The worker: starts its lanes in order, waits for a reason to stop, and stops them in order."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from roost._drivers.base import CLEANUP_TIMEOUT, AsyncDriver, cleanup_bound
from roost._drivers.factory import driver_for
from roost._model.backoff import BackoffStrategy
from roost._model.hooks import Hooks
from roost._model.logs import StructuredLogger
from roost._model.registry import HandlerRegistry, resolve_registry
from roost._model.settings import WorkerSettings
from roost._model.verdict import DEFAULT_MAX_RESULT_BYTES, error_record
from roost._ops import schema
from roost._worker.about import event_loop
from roost._worker.farewell import Unfinished
from roost._worker.lane import Lane, Lanes, StartedOnce
from roost._worker.lanes.archive import ArchiveLane
from roost._worker.lanes.control import ControlLane
from roost._worker.lanes.cron import CronLane
from roost._worker.lanes.execute import ExecuteLane
from roost._worker.lanes.fetch import DrainLane, FetchLane
from roost._worker.lanes.heartbeat import HeartbeatLane, unwinding_seconds
from roost._worker.lanes.limits import LimitsLane
from roost._worker.lanes.listen import ListenLane
from roost._worker.lanes.pauses import PausesLane
from roost._worker.lanes.rescue import RescueLane
from roost._worker.lanes.settle import SettleLane
from roost._worker.lanes.starts import StartsLane
from roost._worker.lanes.unknown_tasks import UnknownTasksLane
from roost._worker.loop_watch import LoopWatch
from roost._worker.running import Running
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError, SchemaError, WorkerCrashedError

logger = StructuredLogger("roost.worker")

POOL_SIZE = 3
"""Connections for claims, settles and upkeep. The heartbeat and the listening have one each."""
STOP_MARGIN = 5.0
"""Seconds after the grace in which everything else must have ended, or is cut off."""


class Worker:
    """A single-process Roost worker.

    Multiple workers can run against the same database: concurrency control is enforced by ``FOR
    UPDATE SKIP LOCKED`` at the SQL level, and every write after a claim is guarded by its lease.
    A worker uses at most five connections, whatever its concurrency.

    Times are in seconds.

    :param dsn: ``postgresql://…``; nothing is connected to before `run`.
    :param registry: the tasks that it can run; default: the shared one, which ``@job`` fills.
    :param driver: ``"psycopg"`` or ``"asyncpg"``; default: what the DSN says, else psycopg.
    :param queues: names of the queues that it serves; at least one.
    :param concurrency: jobs that run at once, ≥ 1.
    :param prefetch: claimed jobs that may wait for a slot, ≥ 0. ``None`` adapts: enough to hide a
        claim's round trip behind short jobs, none where jobs are long.
    :param poll_interval: longest time without a poll for due jobs, > 0. It doubles while
        notifications are known to arrive.
    :param retry_strategy: returns the seconds to wait after a failed attempt; ``None``:
        ``roost.exponential()``.
    :param run_cron: whether this worker fires cron entries.
    :param heartbeat_interval: time between two heartbeats, > 0; at most half of
        ``orphan_stale_after``.
    :param orphan_reaper_interval: time between two searches for the jobs of dead workers, > 0.
    :param orphan_stale_after: time without a heartbeat after which this worker is considered dead,
        > 0. It cancels its own jobs at 90 % of it; other workers rescue them after it.
    :param shutdown_timeout: time that running jobs, and the writing of their results, get after a
        stop was requested, ≥ 0. Jobs that still run then are interrupted. A stop takes up to 5 s
        more.
    :param listen_reconnect_delay: time before the listening connection is opened again, > 0.
    :param error_cap: error records that a job keeps, ≥ 1; the newest stay.
    :param max_result_bytes: longest JSON text of a result in bytes, 1,000 … 200 MiB. A longer
        result is replaced by a note, ``roost.unserializable``.
    :param archive_after_seconds: time after its end at which a job moves to
        ``roost.jobs_archive``, ≥ 0; ``None``: this worker archives nothing.
    :param archive_interval: time between two searches for jobs to archive and results to drop, > 0.
    :param result_ttl_seconds: time after its completion at which a job's result is dropped, ≥ 0;
        ``None``: results stay.
    :param startup_max_retries: further tries to reach the database at start, ≥ 0.
    :param startup_retry_delay: time between two such tries, ≥ 0.
    :param hooks: functions to call before and after every handler call.
    :raises InvalidSettingError: a parameter is out of its range; the message names it.
    """

    def __init__(
        self,
        dsn: str,
        *,
        registry: HandlerRegistry | None = None,
        driver: str | None = None,
        queues: Iterable[str] = ("default",),
        concurrency: int = 4,
        prefetch: int | None = None,
        poll_interval: float = 1.0,
        retry_strategy: BackoffStrategy | None = None,
        run_cron: bool = True,
        heartbeat_interval: float = 15.0,
        orphan_reaper_interval: float = 30.0,
        orphan_stale_after: float = 300.0,
        shutdown_timeout: float = 30.0,
        listen_reconnect_delay: float = 1.0,
        error_cap: int = 20,
        max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES,
        archive_after_seconds: float | None = None,
        archive_interval: float = 60.0,
        result_ttl_seconds: float | None = None,
        startup_max_retries: int = 30,
        startup_retry_delay: float = 1.0,
        hooks: Hooks | None = None,
    ) -> None:
        # By name: a second list of the settings could leave one out. First, before other locals.
        self._settings = WorkerSettings.pick(locals())
        self._driver = driver_for(dsn, driver)
        self._registry = resolve_registry(registry)
        self._session: _Session | None = None
        self._stop_requests = 0
        self._failed = 0
        self._unfinished: Unfinished | None = None

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Work until a stop is asked for; ``await task_group.start(worker.run)`` waits for ready.

        Every job is a child of one task group and nothing outlives this call. `request_stop`, a
        cancel of this call and a lane that crashes end it in the same way: nothing new is claimed,
        what hasn't started is handed back, what runs gets ``shutdown_timeout`` seconds and is then
        interrupted and handed back without using its attempt, and what was decided is written.
        A second cancel ends the grace, as a second `request_stop` does: a second ``task.cancel()``
        on asyncio, or one after an enclosing scope was cancelled. To cancel a scope twice can't be
        noticed; call `request_stop` for that.

        :raises DatabaseUnavailableError: the database could not be reached at start, after
            ``startup_max_retries`` further tries.
        :raises SchemaError: its schema is missing, too old or too new.
        :raises Exception: what a lane crashed with, after the ordered stop.
        """
        await self._run(_serving_lanes, task_status)

    async def run_once(self) -> int:
        """Drain every currently-available job and exit. Returns count processed.

        Skips the cron scheduler, the archive and the rescue. Heartbeats go on and jobs are claimed
        like a worker's, so it is safe beside others. Jobs that its jobs enqueue are run too; no job
        is run twice, also when it snoozes for no time. Ends as `run` does when it is cancelled or
        stopped.
        """
        drains: list[DrainLane] = []

        def lanes(runtime: Runtime) -> list[Lane]:
            drains.append(DrainLane(runtime, on_empty=self.request_stop))
            return [UnknownTasksLane(runtime), drains[0]]

        self._failed = 0
        try:
            await self._run(lanes, TASK_STATUS_IGNORED)
        finally:
            self._failed = drains[0].failed if drains else 0
        return drains[0].processed if drains else 0

    @property
    def failed(self) -> int:
        """How many of the jobs that the last `run_once` returned failed: they are retried later,
        or were discarded.
        """
        return self._failed

    def request_stop(self) -> None:
        """Ask for the ordered stop; a second call ends the grace of the running jobs now.

        Synchronous, to be called in the event loop's thread, also from a plain callback or signal
        handler. A request that comes while nothing runs is kept for the next `run` or `run_once`,
        which then ends at once without claiming a job; the run after that works as usual.
        """
        if self._session is None:
            self._stop_requests += 1
        else:
            self._session.request_stop()

    def unfinished(self) -> Unfinished | None:
        """Return what the end of the process would cut off; ``None``: nothing.

        That are the jobs of threads that outlived `run`, and of all handlers while it has not
        returned. May be called from any thread. Give it to `hand_back` right before the process is
        ended by force; otherwise their leases end when the worker's row expires.
        """
        return self._unfinished if self._session is None else self._session.unfinished()

    async def _run(
        self, fetching: Callable[[Runtime], list[Lane]], task_status: TaskStatus[None]
    ) -> None:
        if self._session is not None:
            raise RuntimeError("this worker is running already")
        if not len(self._registry):
            logger.warning("no task is registered: this worker will find nothing to do")
        session = self._session = _Session(self._driver, self._registry, self._settings)
        for _ in range(self._stop_requests):
            session.request_stop()
        self._stop_requests = 0
        # Jobs inherit it: a handler that is in a transaction ends before others may run its job.
        bound = cleanup_bound.set(unwinding_seconds(self._settings) / 2)
        try:
            async with anyio.create_task_group() as group:
                # The work is a child, and shielded: a cancel of a scope reaches only the watcher,
                # which turns it into the ordered stop.
                group.start_soon(session.stop_when_cancelled)
                group.start_soon(session.work, fetching, task_status, group.cancel_scope)
                await session.wait_until_ended()
        finally:
            cleanup_bound.reset(bound)
            self._unfinished = session.unfinished()
            self._session = None
        await anyio.lowlevel.checkpoint_if_cancelled()
        if session.crash is not None:
            raise session.crash


def _serving_lanes(runtime: Runtime) -> list[Lane]:
    lanes: list[Lane] = [
        RescueLane(runtime),
        LimitsLane(runtime),
        UnknownTasksLane(runtime),
        FetchLane(runtime),
    ]
    settings = runtime.settings
    if settings.run_cron:
        lanes.insert(0, CronLane(runtime))
    if settings.archive_after_seconds is not None or settings.result_ttl_seconds is not None:
        lanes.insert(0, ArchiveLane(runtime))
    return lanes


class _Session:
    """One call of `Worker.run`."""

    def __init__(
        self, driver: AsyncDriver, registry: HandlerRegistry, settings: WorkerSettings
    ) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        self._settings = settings
        self._runtime = Runtime(
            name=name,
            settings=settings,
            registry=registry,
            driver=driver,
            pool=driver.pool(max_size=POOL_SIZE, application_name=f"roost worker {name}"),
            heartbeat_pool=driver.pool(
                max_size=1,
                application_name=f"roost heartbeat {name}",
                # A new connection may be refused while the server has no more to give.
                max_lifetime=math.inf,
            ),
            running=Running(settings.concurrency),
        )
        self._runtime.crashed = self.crashed
        self._execute = ExecuteLane(self._runtime)
        self._settle = SettleLane(self._runtime)
        self._heartbeat = HeartbeatLane(self._runtime)
        self._stop = anyio.Event()
        self._hurry = anyio.Event()
        self._ended = anyio.Event()
        self._starting = anyio.CancelScope()
        self._shell = anyio.move_on_after(math.inf, shield=True)  # a stop sets the deadline
        self.crash: BaseException | None = None

    async def stop_when_cancelled(self) -> None:
        """Turn the end of the surroundings into the ordered stop."""
        try:
            await anyio.sleep_forever()
        finally:
            if not self._stop.is_set():
                self.request_stop()

    async def wait_until_ended(self) -> None:
        """Return when the work has ended; each interrupt until then asks for a stop.

        Interrupts are cancels of the calling task that know nothing of shields, which asyncio's
        ``task.cancel()`` makes, and a KeyboardInterrupt that trio raises in the main task. The
        first one is raised again at the end.
        """
        interrupt: BaseException | None = None
        # Bounded by the work, which bounds itself: see `_time_the_stop`.
        with anyio.move_on_after(math.inf, shield=True):
            while not self._ended.is_set():
                try:
                    await self._ended.wait()
                except (anyio.get_cancelled_exc_class(), KeyboardInterrupt) as error:
                    interrupt = interrupt or error
                    self.request_stop()
        if interrupt is not None:
            raise interrupt

    def unfinished(self) -> Unfinished | None:
        """Return the leases that are still held, and the verdicts that are not written."""
        runtime = self._runtime
        held = runtime.abandoned or runtime.running.leases or len(runtime.settling)
        if not (runtime.worker_id and held):
            return None
        error_cap = runtime.settings.error_cap
        return Unfinished(runtime.worker_id, list(runtime.settling), error_cap)

    def request_stop(self) -> None:
        """Begin the ordered stop; when it has begun, end the grace now.

        Asks nothing of the surroundings but the loop's thread: a signal handler is no task.
        """
        if self._stop.is_set():
            self._hurry.set()
        self._runtime.stopping = True
        self._starting.cancel()
        self._stop.set()

    async def work(
        self,
        fetching: Callable[[Runtime], list[Lane]],
        task_status: TaskStatus[None],
        surroundings: anyio.CancelScope,
    ) -> None:
        """Start, wait for the stop, stop; then end the watcher."""
        ready = StartedOnce(task_status)
        try:
            with self._shell:
                await self._reach_the_database()
                if not self._stop.is_set():
                    await self._run_lanes(fetching(self._runtime), ready)
        except Exception as error:  # noqa: BLE001  (kept, and raised again by `Worker.run`)
            self.crashed(error)
        finally:
            with anyio.move_on_after(CLEANUP_TIMEOUT, shield=True):
                await self._runtime.pool.aclose()
                await self._runtime.heartbeat_pool.aclose()
            if self._shell.cancelled_caught:
                logger.error("the stop took too long and was cut off")
            if self.crash is None:
                ready.started()
            self._ended.set()
            surroundings.cancel()

    def crashed(self, error: BaseException) -> None:
        """Keep the first cause, and begin the ordered stop."""
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
                # The message says what is wrong with a schema; where it was found says nothing.
                exc_info=None if isinstance(error, SchemaError) else error,
                error=error_record(error)["error"],
            )
        if not self._stop.is_set():
            self.request_stop()

    async def _reach_the_database(self) -> None:
        """Check the schema and register, trying again while the database is away."""
        with self._starting:
            for retries_left in range(self._settings.startup_max_retries, -1, -1):
                try:
                    # In a transaction, for a pooler may not let it have one.
                    await self._runtime.call_in_transaction(schema.check())
                    await LimitsLane(self._runtime).publish()
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
                    await anyio.sleep(self._settings.startup_retry_delay)
                else:
                    return

    async def _run_lanes(self, fetching: list[Lane], ready: StartedOnce) -> None:
        """Start the lanes from the outermost in; leaving stops them from the inside out."""
        runtime = self._runtime
        order: list[Lane] = [
            self._heartbeat,
            ListenLane(runtime),
            ControlLane(runtime),
            PausesLane(runtime),
            self._settle,
            StartsLane(runtime),
            self._execute,
            *fetching,
        ]
        async with anyio.create_task_group() as group:
            group.start_soon(self._time_the_stop)
            group.start_soon(LoopWatch(runtime.running).run)
            lanes = Lanes(group, on_crash=self.crashed)
            async with AsyncExitStack() as started:
                for lane in order:
                    await started.enter_async_context(lanes.running(lane))
                if not self._stop.is_set():
                    self._report_ready()
                    ready.started()
                await self._stop.wait()
                logger.info(
                    "worker is stopping: id %(worker_id)d, %(jobs)d jobs run and get "
                    "%(shutdown_timeout)g s",
                    worker_id=runtime.worker_id,
                    jobs=len(runtime.running),
                    shutdown_timeout=self._settings.shutdown_timeout,
                )
            group.cancel_scope.cancel()

    def _report_ready(self) -> None:
        runtime = self._runtime
        logger.info(
            "worker is ready: id %(worker_id)d, name %(worker)s, queues %(queues)s; tasks "
            "%(tasks)s; concurrency %(concurrency)d, driver %(driver)s, event loop %(event_loop)s",
            worker_id=runtime.worker_id,
            worker=runtime.name,
            queues=list(self._settings.queues),
            tasks=sorted(runtime.registry),
            concurrency=self._settings.concurrency,
            driver=runtime.driver.name,
            event_loop=event_loop(),
        )

    async def _time_the_stop(self) -> None:
        """Bound the stop from the moment that it is asked for."""
        await self._stop.wait()
        grace = self._settings.shutdown_timeout
        now = anyio.current_time()
        self._shell.deadline = now + grace + STOP_MARGIN
        self._settle.end_by(now + grace)
        await self._hurry.wait()
        now = anyio.current_time()
        self._settle.end_by(now)
        self._shell.deadline = min(self._shell.deadline, now + STOP_MARGIN)
        self._execute.end_by(now)
