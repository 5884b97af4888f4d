"""The entry point for asyncio and trio applications."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel

from roost._client import calls
from roost._client.admin import AsyncAdmin
from roost._client.loop_resources import ResourcesByLoop
from roost._drivers.base import AsyncConnection, run
from roost._drivers.borrowed import borrow
from roost._drivers.factory import driver_for
from roost._model.info import JobOutcome
from roost._model.job import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    JobInsert,
)
from roost._model.registry import HandlerRegistry, resolve_registry
from roost._model.settings import WorkerSettings
from roost._model.signatures import with_parameters_of
from roost._worker.worker import Worker

if TYPE_CHECKING:
    from roost._drivers.psycopg_anyio.connection import AnyioConnection

T = TypeVar("T")

POOL_SIZE = 10
"""Connections that one client opens at most in each event loop, when as many calls run at once."""


class AsyncRoost(AsyncAdmin):
    """Entry point for async apps, on asyncio and on trio.

    Opens connections on first use, ten at most, and closes them in `close`, at the end of an
    ``async with``, or when the event loop ends. In several event loops, one after the other or in
    threads, each has connections of its own; so has a forked process.

    Pass ``conn=`` to `enqueue` to take part in your own transaction: the job exists when, and only
    when, that transaction commits.

    :param dsn: ``postgresql://…``; nothing is connected to before the first call.
    :param registry: where tasks are looked up; default: the shared one, which ``@job`` fills.
    :param driver: ``"psycopg"``, or ``"asyncpg"`` for asyncio; default: what the DSN says, else
        psycopg.
    :raises InvalidSettingError: the DSN can't be read, or the driver's package is missing. Under
        trio the first call raises it for asyncpg.
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
        """Close every connection; further calls raise `ClosedError`. Safe to call twice.

        The connections of other event loops that still run are closed when those loops end.
        """
        await self._resources.aclose()

    async def setup_schema(self, conn: Any | None = None) -> None:
        """Apply the migration SQL. Idempotent, and safe to call from many processes at once.

        :param conn: do it in this connection's open transaction, which stays the caller's to
            commit.
        :raises SchemaError: the database's schema is newer than this version of Roost.
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
        conn: Any | None = None,
        transactional: bool = True,
    ) -> int:
        """Insert a job and return its id. Pass ``conn=`` to enqueue inside the caller's txn.

        What is not passed comes from the task's ``@job(...)`` defaults. A cancel of a call without
        ``conn`` leaves it unknown whether the job was inserted; with ``conn`` the caller's rollback
        decides. Without ``conn`` a worker that waits may be handed the job, which is then
        ``executing`` from its first moment.

        :param task: a registered task name, or a function decorated with ``@job(...)``.
        :param args: the handler's keywords: a dict, or a pydantic model, which is dumped.
        :param queue: where it waits.
        :param priority: smaller runs first.
        :param max_attempts: how often it may be started before it is discarded, ≥ 1.
        :param scheduled_at: not before this time (aware).
        :param unique_key: at most one active job has a given key.
        :param tags: words to find it by.
        :param timeout_seconds: how long one attempt may run, whole seconds ≥ 1.
        :param depends_on: ids of jobs that must be completed first; when one of them is discarded
            or cancelled, so is this one. One that isn't committed yet is waited for.
        :param metadata: JSON that isn't handler input: trace ids, tenant ids.
        :param conn: a connection or session in a transaction: psycopg's, asyncpg's, SQLAlchemy's
            async ones, or of a kind that `register_connection_adapter` was told of.
        :param transactional: ``False`` accepts a ``conn`` that commits by itself.
        :raises InvalidJobError: a value can't be stored; the database was not touched.
        :raises DuplicateUniqueJobError: an active job has the key; the transaction goes on.
        :raises UnknownParentError: ``depends_on`` names a job that doesn't exist.
        :raises NotInTransactionError: ``conn`` would commit the job by itself, at once.
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
        )
        call = calls.enqueue(self._registry, task, job, in_own_transaction=conn is None)
        return await self._run(call, conn, transactional=transactional)

    async def enqueue_many(
        self,
        jobs: Iterable[JobInsert | calls.Task],
        *,
        conn: Any | None = None,
        transactional: bool = True,
    ) -> int:
        """Bulk-insert in a single round-trip. Returns the submitted count.

        All or nothing. A job whose ``unique_key`` an active job has is left out without an error,
        and still counts as submitted.

        :param conn: as for `enqueue`.
        :raises InvalidJobError: a value can't be stored; the message says which job's, and nothing
            was inserted.
        """
        given = calls.listed(jobs)
        call = calls.enqueue_many(self._registry, given)
        if call is not None:
            await self._run(call, conn, transactional=transactional)
        return len(given)

    async def enqueue_all(
        self,
        jobs: Iterable[JobInsert | calls.Task],
        *,
        conn: Any | None = None,
        transactional: bool = True,
    ) -> list[int | None]:
        """Bulk-insert like `enqueue_many` and return the ids, in the order of ``jobs``.

        ``None`` stands for a job whose ``unique_key`` an active job has.
        """
        call = calls.enqueue_all(self._registry, calls.listed(jobs))
        return [] if call is None else await self._run(call, conn, transactional=transactional)

    async def complete_current_job(self, conn: Any, *, result: object = None) -> None:
        """Complete the running job in the caller's transaction, with its effects.

        To be called from within a handler, last before the commit: the handler's writes and the
        job's completion are there together or not at all, so in this database the effect happens
        exactly once. What the handler returns afterwards is not stored.

        :param conn: as for `enqueue`.
        :param result: what to store as the job's result.
        :raises NoCurrentJobError: the caller isn't part of a job.
        :raises LeaseLostError: the job is somebody else's by now; roll back.
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

        Any number of waiters share one listening connection; a result is there within milliseconds.
        While the database is away it goes on waiting. A cancel leaves nothing behind.

        :param timeout: seconds; ``None``: for ever. The first look at the job may take a second
            even if this is shorter, so 0 asks once whether it has ended.
        :param poll_interval: seconds between two looks that don't rely on notifications, > 0.
        :param raise_on_failure: raise when the job ended in ``discarded`` or ``cancelled``.
        :raises JobNotFoundError: no job has that id, neither live nor archived.
        :raises JobTimeoutError: it has not ended in time.
        :raises DatabaseUnavailableError: the database did not answer once in all this time.
        :raises JobFailed: it ended in ``discarded`` or ``cancelled``.
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

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AnyioConnection[tuple[Any, ...]]]:
        """Open a transaction on a connection of this client, for your own SQL beside `enqueue`.

        Yields a ``psycopg.AsyncConnection`` that works on asyncio and trio alike; pass it on as
        ``conn=``. Commits on a clean exit; an error or a cancel rolls back. With the asyncpg driver
        it is an ``asyncpg.Connection``: tell a type checker with ``typing.cast``.
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
            return await _perform(call, borrow(conn, transactional=transactional))
        here = await self._resources.current()
        async with here.pool.acquire() as connection:
            return await _perform(call, connection)


async def _perform(call: calls.DatabaseCall[T], connection: AsyncConnection) -> T:
    if not call.in_transaction:
        return await run(connection, call.operation, timeout=call.timeout)
    async with connection.transaction():
        return await run(connection, call.operation, timeout=call.timeout)
