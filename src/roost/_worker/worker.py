"""The worker's public class: settings, run, stop. What a run does is in `Session`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from roost._drivers.factory import driver_for
from roost._model.backoff import BackoffStrategy
from roost._model.health import HealthFacts, assess
from roost._model.hooks import Hooks
from roost._model.info import WorkerHealth, WorkerPhase
from roost._model.lifespan import Lifespan, State
from roost._model.logs import StructuredLogger
from roost._model.registry import HandlerRegistry, resolve_registry
from roost._model.settings import DEFAULT_CONCURRENCY, WorkerSettings
from roost._model.states import JobState
from roost._model.verdict import DEFAULT_MAX_RESULT_BYTES
from roost._worker.forced_exit import AbandonedWork
from roost._worker.session import LanesFor, Session, draining_lanes, serving_lanes
from roost.exceptions import WorkerNotRunningError

logger = StructuredLogger("roost.worker")


class Worker:
    """A single-process Roost worker.

    For example:

        worker = Worker("postgresql://localhost/app", queues=["mail"], concurrency=20)
        await worker.run_once()  # all available jobs; run() goes on until it is stopped

    Multiple workers can run against the same database: concurrency control is enforced by ``FOR
    UPDATE SKIP LOCKED`` at the SQL level, and every write after a claim is guarded by its lease.
    A worker uses at most five connections, whatever its concurrency.

    Times are in seconds.

    :param dsn: ``postgresql://…``; nothing is connected to before `run`.
    :param registry: the tasks that it can run; default: the shared one, which ``@job`` fills.
    :param driver: ``"psycopg"`` or ``"asyncpg"``; default: what the DSN says, else psycopg.
    :param queues: names of the queues that it serves; at least one. A mapping, such as
        ``{"web": 8, "bulk": 2}``, gives each queue slots of its own: a limit for its jobs that run
        at once. A queue lends no slot to another one.
    :param concurrency: jobs that run at once, ≥ 1. If queues have slots of their own: in all of
        them together; default: the sum of their slots.
    :param prefetch: claimed jobs that may wait for a slot, ≥ 0. ``None`` adapts: enough to hide a
        claim's round trip behind short jobs, none where jobs are long. If several queues share the
        slots, a number is a bound: no more than 0.1 s of work is prefetched.
    :param poll_interval: longest time without a poll for due jobs, > 0. It doubles while
        notifications are known to arrive.
    :param retry_strategy: returns the seconds to wait after a failed attempt; ``None``:
        ``roost.exponential()``. A task's own strategy comes first.
    :param retry_invalid_args: whether jobs whose args don't fit their handler are retried, as other
        failed jobs are. Otherwise they are discarded at their first attempt.
    :param timeout_seconds: longest time of one attempt of a job that has no ``timeout_seconds`` of
        its own, whole seconds ≥ 1; ``None``: no limit.
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
        ``roost.jobs_archive``, ≥ 0; or a dict of such times by state, such as ``{"completed":
        3600}``. States that it leaves out, and ``None``: this worker archives nothing.
    :param delete_after_seconds: time after its end at which a job is deleted for good, also from
        the archive, ≥ 0; or a dict by state, such as ``{"completed": 0, "discarded": 604800}``.
        States that it leaves out, and ``None``: this worker deletes nothing.
    :param archive_interval: time between two searches for jobs to archive or delete and results to
        drop, > 0.
    :param result_ttl_seconds: time after its completion at which a job's result is dropped, ≥ 0;
        ``None``: results stay.
    :param startup_max_retries: further tries to reach the database at start, ≥ 0.
    :param startup_retry_delay: time between two such tries, ≥ 0.
    :param hooks: functions to call before and after every handler call.
    :param lifespan: a function that returns an async context manager, such as one that
        ``contextlib.asynccontextmanager`` has decorated. It is entered before the first job starts
        and left after the last has ended; a dict or `State` that it yields is what handlers share.
        It may take the worker as its argument.
    :param on_startup: a function to call before the first job, after the lifespan is entered. It
        may take the worker as its argument and set attributes of its ``state``.
    :param on_shutdown: a function to call after the last job, before the lifespan is left.
    :raises InvalidSettingError: a parameter is out of its range; the message names it.
    """

    def __init__(
        self,
        dsn: str,
        *,
        registry: HandlerRegistry | None = None,
        driver: str | None = None,
        queues: Iterable[str] | Mapping[str, int] = ("default",),
        concurrency: int = DEFAULT_CONCURRENCY,
        prefetch: int | None = None,
        poll_interval: float = 1.0,
        retry_strategy: BackoffStrategy | None = None,
        retry_invalid_args: bool = False,
        timeout_seconds: int | None = None,
        run_cron: bool = True,
        heartbeat_interval: float = 15.0,
        orphan_reaper_interval: float = 30.0,
        orphan_stale_after: float = 300.0,
        shutdown_timeout: float = 30.0,
        listen_reconnect_delay: float = 1.0,
        error_cap: int = 20,
        max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES,
        archive_after_seconds: float | Mapping[str, float] | Mapping[JobState, float] | None = None,
        delete_after_seconds: float | Mapping[str, float] | Mapping[JobState, float] | None = None,
        archive_interval: float = 60.0,
        result_ttl_seconds: float | None = None,
        startup_max_retries: int = 30,
        startup_retry_delay: float = 1.0,
        hooks: Hooks | None = None,
        lifespan: Lifespan | None = None,
        on_startup: Callable[..., Any] | None = None,
        on_shutdown: Callable[..., Any] | None = None,
    ) -> None:
        # By name: a second list of the settings could leave one out. First, before other locals.
        self._settings = WorkerSettings.pick(locals())
        self._dsn = dsn
        self._driver = driver_for(dsn, driver)
        self._registry = resolve_registry(registry)
        self._session: Session | None = None
        self._stop_requests = 0
        self._failed = 0
        self._abandoned: AbandonedWork | None = None
        self._phase: WorkerPhase = "not started"
        self._state = State()

    @property
    def settings(self) -> WorkerSettings:
        """The settings that this worker was created with."""
        return self._settings

    @property
    def dsn(self) -> str:
        """The database that this worker connects to. It may hold a password."""
        return self._dsn

    @property
    def registry(self) -> HandlerRegistry:
        """The tasks that this worker can run."""
        return self._registry

    @property
    def state(self) -> State:
        """What this worker's handlers share.

        Attributes that are set before `run` are there in each run. While the worker runs, this is
        what its lifespan has made.
        """
        return self._state if self._session is None else self._session.state.handler_state

    def replace(
        self,
        *,
        dsn: str | None = None,
        registry: HandlerRegistry | None = None,
        driver: str | None = None,
        **settings: Any,
    ) -> Worker:
        """Return a new worker like this one, with other settings.

        Attributes that are set on its `state` are kept, and changes of a running worker's queues
        are not.

        :param dsn: the database; ``None``: this worker's.
        :param registry: the tasks; ``None``: this worker's.
        :param driver: the driver; ``None``: this worker's, or with ``dsn`` what that says.
        :param settings: the settings to change, by their names.
        :raises InvalidSettingError: a value is out of its range; the message names it.
        """
        kept = attrs.asdict(self._settings, recurse=False)
        worker = Worker(
            dsn or self._dsn,
            registry=self._registry if registry is None else registry,
            driver=driver or (self._driver.name if dsn is None else None),
            **(kept | settings),
        )
        worker._state = self._new_state()
        return worker

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Work until a stop is asked for; ``await task_group.start(worker.run)`` waits for ready.

        Every job is a child of one task group and nothing outlives this call. `request_stop`, a
        cancel of this call and a lane that crashes end it in the same way: nothing new is claimed,
        jobs that have not started are released, running jobs get ``shutdown_timeout`` seconds, are
        then interrupted and released without using their attempt, and all verdicts are written.
        A second cancel ends the grace, as a second `request_stop` does: a second ``task.cancel()``
        on asyncio, or one after an enclosing scope was cancelled. To cancel a scope twice can't be
        noticed; call `request_stop` for that.

        :raises DatabaseUnavailableError: the database could not be reached at start, after
            ``startup_max_retries`` further tries.
        :raises SchemaError: its schema is missing, too old or too new.
        :raises Exception: what a lane crashed with, after the ordered stop.
        """
        await self._run(self._new_session(), serving_lanes, task_status)

    async def run_once(self) -> int:
        """Drain every currently-available job and exit. Returns count processed.

        Skips the cron scheduler, the archive and the rescue. Heartbeats go on and jobs are claimed
        like a worker's, so other workers may run at the same time. Jobs that its jobs enqueue are
        run too; no job is run twice, also when it snoozes for no time. Ends as `run` does when it
        is cancelled or stopped.
        """
        self._failed = 0
        session = self._new_session()
        try:
            await self._run(session, draining_lanes, TASK_STATUS_IGNORED)
        finally:
            self._failed = session.state.slots.failed
        return session.state.slots.finished

    @property
    def failed(self) -> int:
        """How many of the jobs that the last `run_once` returned failed: they are retried later,
        or were discarded.
        """
        return self._failed

    @property
    def id(self) -> int | None:
        """The id in ``roost.workers`` of the present incarnation; ``None``: it does not run.

        A worker whose leases were lost goes on as a new incarnation, with another id.
        """
        return None if self._session is None else self._session.state.worker_id or None

    def health(self) -> WorkerHealth:
        """Say whether this worker is alive and whether it is ready for jobs.

        For example:

            worker = Worker("postgresql://localhost/app")
            health = worker.health()
            if not health.ready:
                print("not ready:", *health.reasons)

        It is what ``/livez`` and ``/readyz`` of ``roost run --http`` answer. The database is not
        used: the answer comes from when a heartbeat, a claim of jobs and the listening connection
        last worked. May be called from any thread, and also while the worker does not run.
        """
        session = self._session
        facts = HealthFacts(phase=self._phase) if session is None else session.health_facts()
        return assess(facts)

    def request_stop(self) -> None:
        """Ask for the ordered stop; a second call ends the grace of the running jobs now.

        Synchronous, to be called in the event loop's thread, also from a plain callback or signal
        handler. A request that comes while nothing runs is kept for the next `run` or `run_once`,
        which then ends at once without claiming a job; the run after that works as usual.
        """
        if self._session is None:
            self._stop_requests += 1
        else:
            self._session.state.stop.request()

    async def start_queue(self, name: str, slots: int | None = None) -> None:
        """Serve one more queue, from now on.

        Only while `run` or `run_once` runs, and in its event loop. The next `run` begins with the
        worker's settings again.

            await worker.start_queue("reports", 2)

        If the call fails or is cancelled, the queue is not served.

        :param slots: how many of its jobs may run at once, ≥ 1. Only for a worker whose queues have
            slots of their own, and needed there. Elsewhere the queues share ``concurrency``.
        :raises InvalidSettingError: the name or the slots are not valid, or the queue is served
            already.
        :raises WorkerNotRunningError: the worker does not run.
        :raises DatabaseUnavailableError: the worker's row could not be written.
        """
        await self._running_session().queues.start(name, slots)

    async def stop_queue(self, name: str) -> None:
        """Serve a queue no more: claim none of its jobs, and start none.

        Jobs that were claimed and have not started are released; running jobs go on. A worker may
        stop its last queue; it then waits for `start_queue`. Only while `run` or `run_once` runs,
        and in its event loop. The next `run` begins with the worker's settings again.

        The queue is stopped at once, also if the call is cancelled.

        :raises InvalidSettingError: this worker does not serve the queue.
        :raises WorkerNotRunningError: the worker does not run.
        """
        await self._running_session().queues.stop(name)

    async def resize_queue(self, name: str, slots: int) -> None:
        """Change how many jobs of a queue may run at once.

        More slots start jobs at once. With fewer, running jobs go on, and none starts until fewer
        than ``slots`` run. Only while `run` or `run_once` runs, and in its event loop. The next
        `run` begins with the worker's settings again.

        The change holds at once, also if the call is cancelled.

        :param slots: ≥ 1.
        :raises InvalidSettingError: the slots are not valid, this worker does not serve the queue,
            or its queues share ``concurrency``.
        :raises WorkerNotRunningError: the worker does not run.
        """
        await self._running_session().queues.resize(name, slots)

    def abandoned_work(self) -> AbandonedWork | None:
        """Return what the end of the process would cut off; ``None``: nothing.

        These are the jobs of threads that outlived `run`. While `run` has not returned, they are
        the jobs of all handlers, and the worker's row. May be called from any thread. Give it to
        `hand_back` immediately before the process is ended by force; otherwise the leases end when
        the worker's row expires.
        """
        return self._abandoned if self._session is None else self._session.abandoned_work()

    def _running_session(self) -> Session:
        if self._session is None or not self._session.is_running:
            raise WorkerNotRunningError("this worker does not run")
        return self._session

    def _new_session(self) -> Session:
        if self._session is not None:
            raise RuntimeError("this worker is running already")
        return Session(
            self._driver,
            self._registry,
            self._settings,
            worker=self,
            handler_state=self._new_state(),
        )

    def _new_state(self) -> State:
        return State(**vars(self._state))

    async def _run(
        self, session: Session, lanes_for: LanesFor, task_status: TaskStatus[None]
    ) -> None:
        if not len(self._registry):
            logger.warning("no task is registered: this worker will find nothing to do")
        self._session = session
        for _ in range(self._stop_requests):
            session.state.stop.request()
        self._stop_requests = 0
        try:
            await session.run(lanes_for, task_status)
        finally:
            self._abandoned = session.abandoned_work() if session.state.held_leases() else None
            self._phase = "ended" if session.state.stop.crash is None else "crashed"
            self._session = None


def session_of(worker: Worker) -> Session | None:
    """Return the present run of a worker, for metrics; ``None``: it does not run."""
    return worker._session  # noqa: SLF001  (a function of this class's own module)


def override(worker: Worker, **changes: Any) -> None:
    """Change a worker that does not run yet, as `Worker.replace` does in a new one.

    For ``roost run``: the functions of an application's module hold this object, and read its
    `Worker.id`, set its `Worker.state` or call `Worker.request_stop`.

    :param changes: the parameters of `Worker.replace`.
    :raises InvalidSettingError: a value is out of its range; the message names it.
    """
    changed = worker.replace(**changes)
    for name in ("_settings", "_dsn", "_driver", "_registry"):
        setattr(worker, name, getattr(changed, name))
