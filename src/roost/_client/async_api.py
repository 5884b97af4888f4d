"""The entry point for asyncio and trio applications."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel

from roost._client import calls
from roost._client.admin import AsyncAdmin
from roost._client.doctor import examine
from roost._client.enqueued import enqueued
from roost._client.events import (
    AsyncEvents,
    EventCalls,
    error_lines_call,
    probe_call,
    watch_call,
)
from roost._client.loop_resources import ResourcesByLoop
from roost._client.reading import AsyncReading
from roost._client.steering import AsyncSteering
from roost._drivers.base import AsyncConnection, run
from roost._drivers.borrowed import borrow
from roost._drivers.factory import driver_for
from roost._drivers.shield import shielded
from roost._model.doctor.finding import Finding
from roost._model.events import EventKind, event_filter
from roost._model.info import JobOutcome
from roost._model.job import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    DEFAULT_UNIQUE_WHILE,
    JobInsert,
)
from roost._model.registry import HandlerRegistry, resolve_registry
from roost._model.settings import WorkerSettings
from roost._model.signatures import with_parameters_of
from roost._model.telemetry import sending
from roost._model.unique import BulkOnConflict, OnConflict, Seconds, UniqueBy, UniqueWhile
from roost._worker.worker import Worker

if TYPE_CHECKING:
    from roost._drivers.psycopg_anyio.connection import AnyioConnection

T = TypeVar("T")

POOL_SIZE = 10
"""Most connections that one client opens in each event loop."""


class AsyncRoost(AsyncReading, AsyncAdmin, AsyncSteering):
    """Entry point for async apps, on asyncio and on trio.

    For example:

        async with AsyncRoost("postgresql://localhost/app") as client:
            job_id = await client.enqueue("send_email", args={"user_id": 1})

    Pass ``conn=`` to `enqueue` to make the job a part of your own transaction: it exists if and
    only if that transaction commits.

    The client opens at most ten connections, each on first use. It closes them in `close`, at the
    end of ``async with``, or when the event loop ends. Each event loop that uses the client, and
    each forked process, has its own connections.

    :param dsn: ``postgresql://…``; the client connects on the first call.
    :param registry: where tasks are looked up; default: the shared one, which ``@job`` fills.
    :param driver: ``"psycopg"``, or ``"asyncpg"`` for asyncio; default: what the DSN says, else
        psycopg.
    :raises InvalidSettingError: the DSN can't be read, or the driver's package is missing. For
        asyncpg on trio, the first call raises it.
    """

    def __init__(
        self, dsn: str, *, registry: HandlerRegistry | None = None, driver: str | None = None
    ) -> None:
        self._dsn = dsn
        self._registry = resolve_registry(registry)
        self._driver = driver_for(dsn, driver)
        self._resources = ResourcesByLoop(self._driver, max_size=POOL_SIZE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; later calls raise `ClosedError`. Safe to call twice.

        So do loops over `events` that run in this event loop. Connections of other event loops that
        still run are closed when those loops end.
        """
        await self._resources.aclose()

    async def setup_schema(self, conn: Any | None = None) -> None:
        """Create or upgrade the schema ``roost``. Idempotent; safe from many processes at once.

        A cancel leaves the schema as it was.

        :param conn: a connection with an open transaction to do it in; the caller commits. Default:
            a transaction of its own.
        :raises SchemaError: the schema is newer than this version of Roost, or is not Roost's.
        """
        await self._run(calls.setup_schema(), conn)

    async def enqueue(
        self,
        task: calls.Task,
        *,
        args: dict[str, Any] | BaseModel | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = DEFAULT_PRIORITY,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        scheduled_at: datetime | None = None,
        unique_key: str | None = None,
        tags: list[str] | None = None,
        timeout_seconds: int | None = None,
        depends_on: list[int] | None = None,
        metadata: dict[str, Any] | None = None,
        schedule_in: Seconds | None = None,
        unique_by: UniqueBy | None = None,
        unique_while: UniqueWhile = DEFAULT_UNIQUE_WHILE,
        unique_for: Seconds | None = None,
        on_conflict: OnConflict = "raise",
        conn: Any | None = None,
        transactional: bool = True,
    ) -> int:
        """Insert a job and return its id. Pass ``conn=`` to enqueue inside the caller's txn.

        For example:

            await client.enqueue("send_email", args={"user_id": 1}, queue="mail")
            async with client.transaction() as conn:
                await conn.execute("insert into users values (2)")
                await client.enqueue("send_email", args={"user_id": 2}, conn=conn)

        A parameter that is not passed is taken from the task's ``@job(...)``. Without ``conn``, a
        waiting worker may be given the job at once; it is then ``executing`` from the start.

        If the call is cancelled, the job may have been inserted or not; with ``conn`` the caller's
        commit or rollback decides.

        :param task: a registered task name, or a function decorated with ``@job(...)``.
        :param args: the handler's keyword arguments: a dict, or a pydantic model, which is dumped.
        :param queue: the queue that the job waits in.
        :param priority: jobs with a smaller number run first.
        :param max_attempts: attempts after which a failed job is discarded, ≥ 1.
        :param scheduled_at: time before which the job does not run (aware); default: now, by the
            database's clock.
        :param unique_key: a key that only one active job can have.
        :param tags: words to find the job by.
        :param timeout_seconds: longest time of one attempt, whole seconds ≥ 1; default: no limit.
        :param depends_on: ids of jobs that must complete first. If one of them is discarded or
            cancelled, so is this job. The call waits for a parent that is not committed yet.
        :param metadata: JSON that is not handler input, such as trace ids and tenant ids.
        :param schedule_in: seconds, or a timedelta, from now by the database's clock before which
            the job does not run; instead of ``scheduled_at``.
        :param unique_by: makes the key of the task and of ``"args"``, ``"args.<field>"`` or
            ``"queue"``, one or several; instead of ``unique_key``. ``"task"`` alone: one job of the
            task.
        :param unique_while: until when a job keeps its key. ``"active"``: until it ends.
            ``"waiting"``: until it starts, so that one may wait while one runs.
        :param unique_for: seconds, or a timedelta, for which the job keeps the key from its enqueue
            on, also when it has ended. Calls without ``unique_for`` see active jobs only.
        :param on_conflict: what to do if another job has the key. ``"raise"``: raise
            `DuplicateUniqueJobError`. ``"return"``: return that job's id. ``"replace"``: give that
            job this one's args, schedule, priority, queue, max_attempts, tags, timeout and
            metadata, and return its id; a job that runs or has ended can't be replaced, which
            raises. Without a schedule, the job keeps its place if it is due, and else is due now.
        :param conn: a connection or session with an open transaction: psycopg's, asyncpg's,
            SQLAlchemy's async ones, or of a kind passed to `register_connection_adapter`.
        :param transactional: ``False`` also accepts a ``conn`` that commits by itself.
        :raises InvalidJobError: a value can't be stored; the database was not used.
        :raises DuplicateUniqueJobError: another job has the key, and ``on_conflict`` is ``"raise"``
            or it can't be replaced; the transaction stays usable.
        :raises UnknownTaskError: ``task`` is a function that is not registered.
        :raises UnknownParentError: ``depends_on`` names a job that doesn't exist.
        :raises NotInTransactionError: ``conn`` is in no transaction and commits by itself.
        :raises TypeError: ``conn`` is of a kind that is not accepted.
        :raises DatabaseUnavailableError: the database can't be reached, or did not answer.
        """
        job = JobInsert(
            calls.name_of(self._registry, task),
            args,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            scheduled_at=scheduled_at,
            unique_key=unique_key,
            tags=tags,
            timeout_seconds=timeout_seconds,
            depends_on=depends_on,
            metadata=metadata,
            schedule_in=schedule_in,
            unique_by=unique_by,
            unique_while=unique_while,
            unique_for=unique_for,
        )
        insert = calls.job_insert(self._registry, task, job)
        with sending([insert], self._registry, is_bulk=False) as send:
            call = calls.enqueue(
                self._registry,
                insert,
                on_conflict=on_conflict,
                in_own_transaction=conn is None,
                carrier=send.carrier,
            )
            job_id = await self._run(call, conn, transactional=transactional)
            send.ids = (job_id,)
            return job_id

    async def enqueue_many(
        self,
        jobs: Iterable[JobInsert | calls.Task],
        *,
        on_conflict: BulkOnConflict = "skip",
        conn: Any | None = None,
        transactional: bool = True,
    ) -> int:
        """Bulk-insert in a single round-trip. Returns the submitted count.

        For example:

            jobs = [JobInsert("send_email", {"user_id": user_id}) for user_id in range(1_000)]
            await client.enqueue_many(jobs)

        All jobs are inserted or none. By default a job whose ``unique_key`` another job has is left
        out; it raises no error and counts as submitted. A cancel is as for `enqueue`.

        :param jobs: `JobInsert` objects, task names, task functions, and calls of them.
        :param on_conflict: what to do with a job whose key another job has, also an earlier one of
            ``jobs``. ``"skip"``: leave it out. The others are as for `enqueue`.
        :param conn: as for `enqueue`.
        :param transactional: as for `enqueue`.
        :raises InvalidJobError: a value can't be stored; the message names the job. Nothing was
            inserted.
        :raises DuplicateUniqueJobError: as for `enqueue`. Nothing was inserted.
        """
        inserts = calls.job_inserts(self._registry, jobs)
        with sending(inserts, self._registry, is_bulk=True) as send:
            call = calls.enqueue_many(
                self._registry, inserts, on_conflict=on_conflict, carrier=send.carrier
            )
            if call is not None:
                await self._run(call, conn, transactional=transactional)
            return len(inserts)

    async def enqueue_all(
        self,
        jobs: Iterable[JobInsert | calls.Task],
        *,
        on_conflict: BulkOnConflict = "skip",
        conn: Any | None = None,
        transactional: bool = True,
    ) -> list[int | None]:
        """Bulk-insert like `enqueue_many`, and return the ids in the order of ``jobs``.

        The id of a job that was left out, since another job has its ``unique_key``, is ``None``.
        With ``on_conflict="return"`` or ``"replace"`` it is that job's id.

        :param jobs: as for `enqueue_many`.
        :param on_conflict: as for `enqueue_many`.
        :param conn: as for `enqueue`.
        :param transactional: as for `enqueue`.
        :raises InvalidJobError: as for `enqueue_many`.
        :raises DuplicateUniqueJobError: as for `enqueue`. Nothing was inserted.
        """
        inserts = calls.job_inserts(self._registry, jobs)
        with sending(inserts, self._registry, is_bulk=True) as send:
            call = calls.enqueue_all(
                self._registry, inserts, on_conflict=on_conflict, carrier=send.carrier
            )
            return [] if call is None else await self._run(call, conn, transactional=transactional)

    async def complete_current_job(self, conn: Any, *, result: object = None) -> None:
        """Complete the running job in the handler's transaction, together with its effects.

        Call it in a handler, last before the commit. The handler's writes and the job's completion
        are committed together or not at all, so the effect on this database happens exactly once.
        The value that the handler returns afterwards is not stored.

        :param conn: the connection of the handler's transaction, as for `enqueue`.
        :param result: the job's result, stored as JSON.
        :raises NoCurrentJobError: the caller is not part of a job.
        :raises LeaseLostError: the worker no longer holds the job; roll back.
        """
        await self._run(calls.complete_current(result), conn)

    async def wait_for(
        self,
        job_id: int,
        *,
        timeout: float | None = 30.0,
        poll_interval: float = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome:
        """Block until ``job_id`` reaches a terminal state, and return how it ended.

        For example:

            outcome = await client.wait_for(job_id, timeout=60)
            print(outcome.result)

        All waiters of one event loop share one listening connection and get the result within
        milliseconds. The call goes on waiting while the database is unavailable. A cancel leaves
        nothing behind.

        :param job_id: the job's id; it may be archived.
        :param timeout: seconds to wait; ``None``: no limit. The first query may take a second even
            if this is shorter, so 0 asks once whether the job has ended.
        :param poll_interval: seconds between two queries in case a notification is lost, > 0.
        :param raise_on_failure: whether to raise if the job ended in ``discarded`` or
            ``cancelled``.
        :returns: the job's final state, result and errors.
        :raises JobNotFoundError: no job has that id, neither live nor archived.
        :raises JobFailed: the job ended in ``discarded`` or ``cancelled``.
        :raises JobTimeoutError: the job did not end within ``timeout``; it goes on.
        :raises DatabaseUnavailableError: the database answered no query within ``timeout``.
        """
        calls.check_wait(timeout, poll_interval)
        here = await self._resources.current()
        outcome = await here.waiting.wait(
            job_id,
            lambda: self._run(calls.await_outcome(job_id)),
            timeout=math.inf if timeout is None else timeout,
            poll_interval=poll_interval,
        )
        return calls.check_outcome(job_id, outcome, timeout, raise_on_failure=raise_on_failure)

    def events(
        self,
        *,
        queues: Collection[str] | None = None,
        tasks: Collection[str] | None = None,
        job_ids: Collection[int] | None = None,
        kinds: Collection[EventKind] | None = None,
        buffer: int = 1_000,
    ) -> AsyncEvents:
        """Return what happens to jobs from now on: started, finished, failed and so on.

        For example:

            async with client.events(queues=["mail"], kinds=["finished", "failed"]) as events:
                await client.enqueue("send_email", args={"user_id": 1})
                event = await events.receive(timeout=1.0)

        ``async for event in events:`` yields them one by one. It raises
        `ClosedError` when the client is closed.

        All events that happen after the block was entered are seen. ``async for event in
        client.events():`` works without a block, too. Events are for showing, not for deciding:
        each is delivered at most once, and a role that may connect can forge some. Workers send
        them only while a client listens.

        Each call has a connection of its own, which must be a direct one: a pooler in transaction
        mode delivers no notifications. It is opened again when it is lost. What was lost is told by
        `JobEvent.missed` of the next event. A cancel leaves nothing behind.

        :param queues: only events of jobs in these queues; default: all.
        :param tasks: only events of these tasks; default: all.
        :param job_ids: only events of these jobs; default: all.
        :param kinds: only events of these kinds; default: all. `JobEvent` lists them.
        :param buffer: events that wait for the consumer, ≥ 1. When it is full the oldest is lost.
        :raises InvalidSettingError: a parameter is out of its range.
        """
        event_calls = EventCalls(
            self._resources.register,
            lambda token: self._run(probe_call(token)),
            lambda: self._run(watch_call()),
            lambda attempts: self._run(error_lines_call(attempts)),
        )
        wants = event_filter(queues=queues, tasks=tasks, job_ids=job_ids, kinds=kinds)
        return AsyncEvents(self._driver, event_calls, wants, buffer=buffer)

    async def doctor(self) -> list[Finding]:
        """Examine the database: the server, the schema, rights, workers, queues, vacuum.

        For example:

            for finding in await client.doctor():
                if finding.level == "trouble":
                    print(finding.check, finding.seen, finding.advice)

        Reads catalogs, statistics and short tables, never all jobs, and changes nothing. Each part
        is read by itself within 5 seconds: a part that this role may not see, or that is locked,
        becomes a finding that says so. Sends one notification, to itself, on a connection of its
        own, which is closed afterwards. A cancel leaves nothing behind.

        :returns: a finding or more for each check, of the level ``ok``, ``note`` or ``trouble``,
            in a fixed order of checks.
        :raises DatabaseUnavailableError: the database can't be reached.
        """
        here = await self._resources.current()
        return await examine(self._driver, here.pool)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AnyioConnection[tuple[Any, ...]]]:
        """Open a transaction for your own SQL and for `enqueue`, on a connection of this client.

        For example:

            async with client.transaction() as conn:
                await conn.execute("insert into users values (3)")
                await client.enqueue("send_email", args={"user_id": 3}, conn=conn)

        Commits at the end of the block; an error or a cancel rolls back.

        Yields a ``psycopg.AsyncConnection`` that works on asyncio and trio. With the asyncpg driver
        it is an ``asyncpg.Connection``; tell a type checker so with ``typing.cast``.
        """
        here = await self._resources.current()
        async with here.pool.acquire() as connection, connection.transaction():
            yield connection.raw

    @with_parameters_of(WorkerSettings.__init__)
    def worker(self, **settings: Any) -> Worker:
        """Return a `Worker` with this client's DSN, registry and driver.

        :param settings: the settings that `Worker` documents.
        :raises InvalidSettingError: a parameter is out of its range; the message names it.
        """
        return Worker(self._dsn, registry=self._registry, driver=self._driver.name, **settings)

    async def _run(
        self, call: calls.DatabaseCall[T], conn: Any | None = None, *, transactional: bool = True
    ) -> T:
        if conn is not None:
            value = await _perform(call, borrow(conn, transactional=transactional))
        else:
            here = await self._resources.current()
            async with here.pool.acquire() as connection:
                value = await _perform(call, connection)
        if call.enqueues is not None:
            enqueued.add(call.enqueues)
        return value


async def _perform(call: calls.DatabaseCall[T], connection: AsyncConnection) -> T:
    if not call.in_transaction:
        return await run(connection, call.operation, timeout=call.timeout)
    async with connection.transaction():
        try:
            return await run(connection, call.operation, timeout=call.timeout)
        except BaseException:
            if call.undo is not None:
                # The caller may catch the cancel and commit.
                with shielded(calls.UNDO_TIMEOUT), suppress(Exception):
                    await run(connection, call.undo(), timeout=calls.UNDO_TIMEOUT)
            raise
