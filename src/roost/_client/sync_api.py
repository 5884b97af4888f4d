"""The entry point for blocking code: scripts, Flask, Django, threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs

from roost._client import admin_calls, calls
from roost._client.admin_calls import FIRST_PAUSE_DELAY, MAX_PAUSE_DELAY, PAUSE_TIMEOUT
from roost._client.async_api import AsyncRoost
from roost._client.doctor import examine_sync
from roost._client.enqueued import enqueued
from roost._client.events import error_lines_call, probe_call, watch_call
from roost._client.sync_events import Events, SyncEventCalls
from roost._client.sync_reading import Reading
from roost._client.sync_steering import Steering
from roost._client.sync_waiting import SyncWaiting
from roost._drivers.base import CALL_TIMEOUT, Connection, SyncPool, run_sync
from roost._drivers.borrowed import borrow_sync
from roost._drivers.factory import sync_driver_for
from roost._model.cron import CronEntry
from roost._model.doctor.finding import Finding
from roost._model.events import EventKind, event_filter
from roost._model.info import JobOutcome
from roost._model.job import JobInsert
from roost._model.registry import HandlerRegistry, resolve_registry
from roost._model.signatures import with_parameters_of
from roost._model.telemetry import sending, sending_cron
from roost._model.unique import BulkOnConflict, OnConflict

T = TypeVar("T")

POOL_SIZE = 10
"""Most connections that one client opens in a process."""


class Roost(Reading, Steering):
    """Synchronous entry point.

    For example:

        with Roost("postgresql://localhost/app") as client:
            job_id = client.enqueue("send_email", args={"user_id": 1})

    It has the verbs of `AsyncRoost`, with the same parameters, which are documented there; each
    call blocks its thread. Any number of threads can use one client. A forked process opens its own
    connections.

    A call fails with `DatabaseUnavailableError` after 30 seconds of waiting for a connection, the
    server, or another transaction's lock. An exception raised by a signal handler (a time limit,
    Ctrl-C) leaves the client usable; it is unknown whether the interrupted call took effect.

    :param dsn: ``postgresql://…``; the client connects on the first call.
    :param registry: where tasks are looked up; default: the shared one, which ``@job`` fills.
    :raises InvalidSettingError: the DSN can't be read.
    """

    def __init__(self, dsn: str, *, registry: HandlerRegistry | None = None) -> None:
        driver = sync_driver_for(dsn)
        self._registry = resolve_registry(registry)
        self._driver = driver
        self._pool: SyncPool = driver.pool(max_size=POOL_SIZE, application_name="roost")
        self._waiting = SyncWaiting(driver)
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; later calls raise `ClosedError`. Safe to call twice.

        So do, within moments, `wait_for` and loops over `events` in other threads.
        """
        self._is_closed = True
        self._pool.close()

    def setup_schema(self, conn: Any | None = None) -> None:
        """Create or upgrade the schema ``roost``; see `AsyncRoost.setup_schema`."""
        self._run(calls.setup_schema(), conn)

    @with_parameters_of(AsyncRoost.enqueue)
    def enqueue(
        self,
        task: calls.Task,
        *,
        on_conflict: OnConflict = "raise",
        conn: Any | None = None,
        transactional: bool = True,
        **job: Any,
    ) -> int:
        """Insert a job and return its id. Pass ``conn=`` to enqueue inside your transaction.

        For example:

            blocking.enqueue("send_email", args={"user_id": 1}, queue="mail")

        The parameters, and the errors, are those of `AsyncRoost.enqueue`.

        :param task: a registered task name, or a function decorated with ``@job(...)``.
        :param on_conflict: what to do if another job has the key.
        :param conn: a blocking connection with an open transaction: psycopg's, SQLAlchemy's or
            Django's.
        :param transactional: ``False`` also accepts a ``conn`` that commits by itself.
        """
        options = JobInsert(calls.name_of(self._registry, task), **job)
        insert = calls.job_insert(self._registry, task, options)
        with sending([insert], self._registry, is_bulk=False) as send:
            call = calls.enqueue(
                self._registry,
                insert,
                on_conflict=on_conflict,
                in_own_transaction=conn is None,
                carrier=send.carrier,
            )
            job_id = self._run(call, conn, transactional=transactional)
            send.ids = (job_id,)
            return job_id

    def enqueue_many(
        self,
        jobs: Iterable[JobInsert | calls.Task],
        *,
        on_conflict: BulkOnConflict = "skip",
        conn: Any | None = None,
        transactional: bool = True,
    ) -> int:
        """Bulk-insert in a single round-trip; see `AsyncRoost.enqueue_many`."""
        inserts = calls.job_inserts(self._registry, jobs)
        with sending(inserts, self._registry, is_bulk=True) as send:
            call = calls.enqueue_many(
                self._registry, inserts, on_conflict=on_conflict, carrier=send.carrier
            )
            if call is not None:
                self._run(call, conn, transactional=transactional)
            return len(inserts)

    def enqueue_all(
        self,
        jobs: Iterable[JobInsert | calls.Task],
        *,
        on_conflict: BulkOnConflict = "skip",
        conn: Any | None = None,
        transactional: bool = True,
    ) -> list[int | None]:
        """Bulk-insert, and return the ids; see `AsyncRoost.enqueue_all`."""
        inserts = calls.job_inserts(self._registry, jobs)
        with sending(inserts, self._registry, is_bulk=True) as send:
            call = calls.enqueue_all(
                self._registry, inserts, on_conflict=on_conflict, carrier=send.carrier
            )
            return [] if call is None else self._run(call, conn, transactional=transactional)

    def set_limit(
        self,
        task: calls.Task,
        *,
        max_concurrency: int | None = None,
        rate_per_minute: int | None = None,
        conn: Any | None = None,
    ) -> None:
        """Set limits of a task for all workers; see `AsyncRoost.set_limit`."""
        call = admin_calls.set_limit(
            task,
            self._registry,
            max_concurrency=max_concurrency,
            rate_per_minute=rate_per_minute,
        )
        self._run(call, conn)

    def clear_limit(self, task: calls.Task, *, conn: Any | None = None) -> bool:
        """Undo `set_limit`; see `AsyncRoost.clear_limit`."""
        return self._run(admin_calls.clear_limit(task, self._registry), conn)

    def complete_current_job(self, conn: Any, *, result: object = None) -> None:
        """Complete the running job in your transaction; see `AsyncRoost.complete_current_job`."""
        self._run(calls.complete_current(result), conn)

    def wait_for(
        self,
        job_id: int,
        *,
        timeout: float | None = 30.0,
        poll_interval: float = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome:
        """Block until ``job_id`` reaches a terminal state; see `AsyncRoost.wait_for`."""
        calls.check_wait(timeout, poll_interval)
        outcome = self._waiting.wait(
            job_id,
            lambda left: self._run(calls.await_outcome(job_id, timeout=left)),
            deadline=math.inf if timeout is None else monotonic() + timeout,
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
    ) -> Events:
        """Return what happens to jobs from now on; see `AsyncRoost.events`.

        For example:

            with blocking.events(kinds=["failed", "discarded"]) as events:
                blocking.enqueue("send_email", args={"user_id": 1})
                event = events.receive(timeout=1.0)

        ``for event in blocking.events():`` works, too. A thread receives the events while the block
        or the loop runs.
        """
        event_calls = SyncEventCalls(
            lambda: self._is_closed,
            lambda token: self._run(probe_call(token)),
            lambda: self._run(watch_call()),
            lambda attempts: self._run(error_lines_call(attempts)),
        )
        wants = event_filter(queues=queues, tasks=tasks, job_ids=job_ids, kinds=kinds)
        return Events(self._driver, event_calls, wants, buffer=buffer)

    def requeue_discarded(
        self, *, queue: str | None = None, task: str | None = None, limit: int | None = None
    ) -> int:
        """Make discarded jobs available again; see `AsyncRoost.requeue_discarded`."""
        return self._run(admin_calls.requeue_discarded(queue, task, limit))

    def pause_queue(self, queue: str, *, timeout: float = PAUSE_TIMEOUT) -> None:
        """Stop workers from starting jobs of ``queue``; see `AsyncRoost.pause_queue`.

        Don't call it in the thread of a worker's event loop: that worker could not confirm it.
        """
        self._run(admin_calls.pause_queue(queue))
        end = monotonic() + timeout
        delay = FIRST_PAUSE_DELAY
        while workers := self._run(admin_calls.unconfirmed_workers(queue)):
            if monotonic() >= end:
                raise admin_calls.pause_not_confirmed(queue, workers, timeout)
            sleep(delay)
            delay = min(2 * delay, MAX_PAUSE_DELAY)

    def resume_queue(self, queue: str) -> None:
        """Undo `pause_queue`; see `AsyncRoost.resume_queue`."""
        self._run(admin_calls.resume_queue(queue))

    @with_parameters_of(AsyncRoost.add_cron)
    def add_cron(
        self,
        name: str | CronEntry,
        expression: str | None = None,
        task: str | Callable[..., Any] | None = None,
        *,
        conn: Any | None = None,
        **options: Any,
    ) -> None:
        """Add a cron entry that lives in the database; see `AsyncRoost.add_cron`."""
        self._run(admin_calls.add_cron(self._registry, name, expression, task, **options), conn)

    def remove_cron(self, name: str, *, conn: Any | None = None) -> bool:
        """Remove a cron entry; see `AsyncRoost.remove_cron`."""
        return self._run(admin_calls.remove_cron(name), conn)

    def pause_cron(self, name: str) -> None:
        """Stop a cron entry from firing; see `AsyncRoost.pause_cron`."""
        self._run(admin_calls.pause_cron(name))

    def resume_cron(self, name: str) -> None:
        """Undo `pause_cron`; see `AsyncRoost.resume_cron`."""
        self._run(admin_calls.resume_cron(name))

    def run_cron_now(self, name: str) -> int:
        """Enqueue a cron entry's job now, once; see `AsyncRoost.run_cron_now`."""
        with sending_cron(self._registry.cron_entry(name)) as send:
            call = admin_calls.run_cron_now(self._registry, name, carrier=send.carrier)
            job_id = self._run(call)
            send.ids = (job_id,)
            return job_id

    def doctor(self) -> list[Finding]:
        """Examine the database, the workers and the queues; see `AsyncRoost.doctor`."""
        return examine_sync(self._driver, self._pool)

    def _run(
        self, call: calls.DatabaseCall[T], conn: Any | None = None, *, transactional: bool = True
    ) -> T:
        if conn is not None:
            value = _perform(call, borrow_sync(conn, transactional=transactional))
        else:
            began = monotonic()
            with self._pool.acquire(timeout=min(call.timeout, CALL_TIMEOUT)) as connection:
                left = max(call.timeout - (monotonic() - began), 0.0)
                value = _perform(attrs.evolve(call, timeout=left), connection)
        if call.enqueues is not None:
            enqueued.add(call.enqueues)
        return value


def _perform(call: calls.DatabaseCall[T], connection: Connection) -> T:
    if not call.in_transaction:
        return run_sync(connection, call.operation, timeout=call.timeout)
    with connection.transaction():
        try:
            return run_sync(connection, call.operation, timeout=call.timeout)
        except BaseException:
            if call.undo is not None:
                # The caller may catch the interrupt and commit.
                with suppress(Exception):
                    run_sync(connection, call.undo(), timeout=calls.UNDO_TIMEOUT)
            raise
