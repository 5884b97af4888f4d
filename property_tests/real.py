"""The verbs of the model, run with Roost's own operations on a real Postgres.

Only time is not real. Roost's statements call ``now()`` and ``statement_timestamp()`` without a
schema. The database's ``search_path`` puts a schema with functions of these names in front of
Postgres's own. They return the time that `Real.pass_time` has set, so every time in the tables can
be compared exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, assert_never

import attrs
import psycopg
from property_tests.oracle.tables import START
from property_tests.real_reading import RealReading, comparable
from property_tests.words import (
    LIVE_CHANNELS,
    Call,
    Cancel,
    CancelItself,
    Claim,
    DiscardItself,
    Dispatched,
    End,
    Ending,
    Fail,
    FailForGood,
    Grant,
    Leased,
    NewJob,
    Release,
    RetryItself,
    Settled,
    Snooze,
    Succeed,
    TimeOut,
)
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from roost import HandlerRegistry, JobInsert, fixed
from roost._drivers.base import run_sync
from roost._drivers.psycopg_sync import SyncConnection, connect
from roost._model import verdict
from roost._model.encoding import encode_batch, encode_jobs
from roost._model.failures import NO_RULES, FailureRules
from roost._model.job_changes import encode_changes
from roost._model.job_metadata import encoded_changes
from roost._model.states import JobState
from roost._model.unique import BulkOnConflict
from roost._model.verdict import Lease, Verdict, judge
from roost._ops import (
    archive,
    claim,
    control,
    dispatch,
    enqueue,
    metadata,
    rescue,
    schema,
    settle,
    steer,
    workers,
)
from roost._ops.query import Op
from roost.exceptions import (
    CancelJob,
    DatabaseUnavailableError,
    DiscardJob,
    DuplicateUniqueJobError,
    RetryJob,
    SnoozeJob,
)

NEVER = FailureRules(None, (ValueError,))
"""The rules of a task that retries no ValueError."""

T = TypeVar("T")

CHANNELS = {
    "roost_jobs": "",
    "roost_cancel": "cancel ",
    "roost_finished": "finished ",
    "roost_pause": "pause ",
}
"""The channels to listen to besides `LIVE_CHANNELS`, and the model's prefix for the payload."""

CLOCK = """
create schema clock;
create function clock.now() returns timestamptz stable language sql
    as $$ select current_setting('clock.now')::timestamptz $$;
create function clock.statement_timestamp() returns timestamptz stable language sql
    as $$ select clock.now() $$;
create function clock.transaction_timestamp() returns timestamptz stable language sql
    as $$ select clock.now() $$;
create function clock.clock_timestamp() returns timestamptz stable language sql
    as $$ select clock.now() $$;
"""


def prepare(dsn: str) -> None:
    """Add the clock to an empty database, then the schema: column defaults use the clock."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CLOCK)
        connection.execute(
            f'alter database "{connection.info.dbname}" set search_path = clock, pg_catalog'
        )
        connection.execute(f"alter database \"{connection.info.dbname}\" set clock.now = '{START}'")
    with connect(dsn) as prepared, prepared.transaction():
        run_sync(prepared, schema.apply())
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Roost's functions set a search_path of their own.
        for (function,) in connection.execute(
            "select oid::regprocedure::text from pg_proc "
            "where pronamespace = 'roost'::regnamespace and proconfig is not null"
        ).fetchall():
            connection.execute(
                f"alter function {function} set search_path = clock, pg_catalog, pg_temp".encode()
            )
        # Migrations do too, so column defaults name pg_catalog's now().
        for table, column in connection.execute(
            "select table_name, column_name from information_schema.columns "
            "where table_schema = 'roost' and column_default like '%now()%'"
        ).fetchall():
            connection.execute(
                f"alter table roost.{table} alter {column} set default clock.now()".encode()
            )


class Real(RealReading):
    """The verbs, on a database made by `prepare`. `reset` empties its tables.

    ``notified`` collects the notifications of this object's own calls, in the model's words.
    ``dispatched`` collects those on workers' own channels.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.now = START
        self.notified: set[str] = set()
        self.dispatched: list[Dispatched] = []
        self._listener = self._listening()
        self._first, self._second = self._connect(), self._connect()
        self._connection = self._first
        self._tables = self._table_names()
        exist = [f"exists (select from roost.{name})" for name in self._tables]
        self._which_are_filled = f"select {', '.join(exist)}".encode()

    def close(self) -> None:
        """Close the connections."""
        self._listener.close()
        self._first.close()
        self._second.close()

    def reset(self) -> None:
        """Empty every table, restart all sequences at 1 and reset the clock."""
        tables = ", ".join(f"roost.{name}" for name in self._tables)
        self._first.raw.execute(f"truncate {tables} restart identity".encode())
        self.now = START
        self.notified, self.dispatched = set(), []
        self._set_clocks()

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return every table by name, its rows in the order of their ids."""
        # Most tables are empty most of the time: one query says which.
        filled = self._first.raw.execute(self._which_are_filled).fetchone()
        assert filled is not None
        return {
            name: self._rows(name) if has_rows else []
            for name, has_rows in zip(self._tables, filled, strict=True)
        }

    def pass_time(self, *, seconds: int) -> None:
        """Let the clock run."""
        self.now += timedelta(seconds=seconds)
        self._set_clocks()

    def reconnect(self) -> None:
        """Replace the connections, and with them all prepared statements."""
        self._first.close()
        self._second.close()
        self._first, self._second = self._connect(), self._connect()
        self._connection = self._first
        self._set_clocks()

    # The verbs of the model

    def enqueue(self, *, job: NewJob) -> int:
        record = encode_jobs([self._insert(job)])
        if not job.depends_on:
            return self._run(enqueue.insert_job(record, unique_key=job.unique_key))
        return self._run_whole(
            enqueue.insert_job(record, unique_key=job.unique_key, has_parents=bool(job.depends_on))
        )

    def enqueue_alone(self, *, job: NewJob) -> int:
        record = encode_jobs([self._insert(job)])
        return self._run(enqueue.insert_job(record, unique_key=job.unique_key, dispatch=True))

    def enqueue_in_sql(self, *, job: NewJob) -> int | None:
        # The function stores an empty list as given; Roost's clients send null instead.
        insert = attrs.evolve(
            self._insert(job), tags=job.tags or None, metadata=job.metadata or None
        )
        parameters = {
            name: Jsonb(value) if isinstance(value, dict) else value
            for name, value in attrs.asdict(insert).items()
            if name not in ("depends_on", "unique_for", "schedule_in")
        }
        call = ", ".join(f"{name} => %({name})s" for name in parameters)
        cursor = self._connection.raw.execute(f"select roost.enqueue({call})".encode(), parameters)
        row = cursor.fetchone()
        assert row is not None
        job_id: int | None = row[0]
        return job_id

    def enqueue_many(self, *, jobs: Sequence[NewJob]) -> list[int]:
        inserts = [self._insert(job) for job in jobs]
        parents = {parent for job in jobs for parent in job.depends_on or []}
        if not parents:
            return self._run(enqueue.insert_batch(encode_batch(inserts)))
        records = encode_jobs(inserts)
        return self._run_whole(enqueue.insert_dependent(records))

    def enqueue_unique(
        self, *, jobs: Sequence[NewJob], on_conflict: BulkOnConflict
    ) -> list[int | None]:
        inserts = [
            attrs.evolve(
                self._insert(job), unique_while=job.unique_while, unique_for=job.unique_for
            )
            if job.unique_key is not None
            else self._insert(job)
            for job in jobs
        ]
        operation = enqueue.insert_unique(encode_jobs(inserts), on_conflict)
        has_parents = any(job.depends_on for job in jobs)
        return self._run_whole(operation) if has_parents else self._run(operation)

    def enqueue_and_roll_back(self, *, jobs: Sequence[NewJob]) -> None:
        with self._connection.transaction():
            self.enqueue_many(jobs=jobs)
            raise psycopg.Rollback

    def claim(
        self,
        *,
        worker_id: int,
        queues: Sequence[str],
        tasks: Sequence[str],
        limit: int,
        after: Sequence[claim.Position] = (),
        slots: int | None = None,
        prefetch_no: int = 0,
        soon: bool = False,
    ) -> Claim:
        answer = self._run(
            claim.claim_jobs(
                worker_id=worker_id,
                queues=queues,
                tasks=tasks,
                limit=limit,
                after=after,
                slots=slots,
                prefetch_no=prefetch_no,
                soon=soon,
            )
        )
        taken = [_leased(job) for job in answer.jobs]
        return Claim(
            grants=[leased.grant for leased in taken],
            jobs=[leased.job for leased in taken],
            next_due=answer.next_due,
            alive=answer.alive,
            credit=answer.credit,
        )

    def grant_credit(
        self, *, worker_id: int, number: int, channel: str, tasks: Sequence[str]
    ) -> bool:
        return self._run(dispatch.grant_credit(worker_id, number, channel=channel, tasks=tasks))

    def revoke_credit(self, *, worker_id: int) -> bool:
        return self._run(dispatch.revoke_credit(worker_id))

    def accept_dispatched(self, *, worker_id: int, next_credit: int | None) -> Leased | None:
        accepted = self._run(dispatch.accept_dispatched(worker_id, next_credit=next_credit))
        return None if accepted.job is None else _leased(accepted.job)

    def take_unaccepted(
        self, *, worker_id: int, queues: Sequence[str], tasks: Sequence[str], after: int
    ) -> list[Leased]:
        taken = dispatch.take_unaccepted(
            worker_id, queues=queues, tasks=tasks, limit=10, after=after
        )
        return [_leased(job) for job in self._run(taken)]

    def settle(
        self, *, ends: Sequence[End], error_cap: int, keep_completed: bool = True
    ) -> Settled:
        verdicts = [_judge(end) for end in ends]
        options: dict[str, Any] = {"error_cap": error_cap, "keep_completed": keep_completed}
        settled = self._run(settle.settle(verdicts, **options))
        parents, lost, busy = settled.parents, settled.lost, settled.busy
        if parents:
            try:
                settled = self._run_whole(settle.settle_parents(parents, **options))
            except DatabaseUnavailableError:
                busy = busy + parents  # another call holds a child: the lane tries again
            else:
                lost, busy = lost + settled.lost, busy + settled.busy
        return Settled({verdict.lease for verdict in lost}, {verdict.lease for verdict in busy})

    def update_metadata(self, *, grant: Grant, changes: dict[str, Any]) -> str:
        texts = {grant.lease: encoded_changes(changes)}
        unwritten = self._run(metadata.update_metadata(texts))
        if unwritten.lost:
            return "lost"
        return "busy" if unwritten.busy else "written"

    def cancel(self, *, job_id: int) -> bool:
        return self._run_whole(control.cancel_job(job_id))

    def cancel_requests(self, *, worker_id: int) -> set[tuple[int, int]]:
        return set(self._run(control.cancel_requests(worker_id)))

    def retry(self, *, job_id: int) -> bool:
        return self._run(control.retry_job(job_id))

    def requeue_discarded(self, *, queue: str | None) -> int:
        return self._run(control.requeue_discarded(queue=queue, task=None, limit=None))

    def pause(self, *, queue: str) -> None:
        self._run(control.pause_queue(queue))

    def resume(self, *, queue: str) -> None:
        self._run(control.resume_queue(queue))

    def paused_queues(self, *, queues: Sequence[str]) -> set[str]:
        return set(self._run(control.paused_queues(queues)))

    def confirm_pauses(self, *, worker_id: int, queues: Sequence[str]) -> bool:
        return self._run(control.confirm_pauses(worker_id, queues))

    def unconfirmed_workers(self, *, queue: str) -> set[str]:
        return set(self._run(control.unconfirmed_workers(queue)))

    def register(self, *, name: str, queues: Sequence[str], stale_after: int) -> int:
        return self._run(
            workers.register_worker(
                name=name, queues=queues, concurrency=4, stale_after=stale_after
            )
        )

    def renew(self, *, worker_id: int, stale_after: int) -> bool:
        return self._run(workers.renew_worker(worker_id, stale_after=stale_after))

    def set_wants_notify(self, *, worker_id: int, wants_notify: bool) -> None:
        self._run(workers.set_wants_notify(worker_id, wants_notify=wants_notify))

    def forget(self, *, worker_id: int) -> None:
        self._run(workers.forget_worker(worker_id))

    def mark_started(self, *, worker_id: int, through: Sequence[int]) -> bool:
        return self._run(workers.mark_started(worker_id, through, flush=True))

    def expire(self) -> set[str]:
        return set(self._run(rescue.expire_workers()))

    def rescue(self, *, limit: int, error_cap: int) -> dict[int, str]:
        rescued = self._run_whole(rescue.rescue_jobs(limit=limit, error_cap=error_cap))
        return {job.job_id: job.state.value for job in rescued}

    def release_unheld(self, *, worker_id: int, held: Collection[Lease]) -> list[int]:
        return self._run_whole(workers.release_unheld(worker_id, held=held))

    def run_now(self, *, job_id: int) -> bool:
        return self._run_whole(steer.bounded(steer.run_now(job_id), borrowed=None))

    def reschedule(self, *, job_id: int, seconds: int) -> bool:
        operation = steer.reschedule(job_id, None, seconds)
        return self._run_whole(steer.bounded(operation, borrowed=None))

    def update(self, *, job_id: int, changes: dict[str, Any]) -> bool:
        operation = steer.update(job_id, encode_changes(changes, HandlerRegistry()))
        return self._run_whole(steer.bounded(operation, borrowed=None))

    def delete(self, *, job_id: int) -> bool:
        return self._run_whole(steer.bounded(steer.delete(job_id), borrowed=None))

    def archive_jobs(self, *, states: Sequence[JobState], after: int) -> int:
        return sum(
            self._run(archive.archive_jobs(state, after=after, limit=1_000)).jobs
            for state in states
        )

    def delete_ended(self, *, states: Sequence[JobState], after: int) -> int:
        return sum(
            self._run(delete(state, after=after, limit=1_000)).jobs
            for state in states
            for delete in (archive.delete_jobs, archive.delete_archived_jobs)
        )

    def forget_unique_holds(self) -> int:
        return self._run(archive.forget_unique_holds(limit=1_000))

    def forget_results(self, *, after: int) -> int:
        return self._run(archive.forget_results(after=after, limit=1_000))

    def both_at_once(
        self, *, first: Call, then: Call, first_commits: bool
    ) -> tuple[object, object]:
        with self._second.transaction():
            with self._on(self._second):
                answer = self.say(first)
            other_answer: object
            try:
                other_answer = self.say(then)
            except DatabaseUnavailableError:
                other_answer = "waits"
            except DuplicateUniqueJobError as error:
                other_answer = error.args
            if not first_commits:
                raise psycopg.Rollback
        return answer, other_answer

    def say(self, call: Call) -> object:
        """Make the call and return its answer."""
        answer: object = getattr(self, call.verb)(**call.parameters)
        return answer

    # Below the verbs

    def _run(self, operation: Op[T]) -> T:
        return run_sync(self._connection, operation)

    def _run_whole(self, operation: Op[T]) -> T:
        with self._connection.transaction():
            return self._run(operation)

    @contextmanager
    def _on(self, connection: SyncConnection) -> Iterator[None]:
        self._connection = connection
        try:
            yield
        finally:
            self._connection = self._first

    def _connect(self) -> SyncConnection:
        connection = connect(self._dsn)
        # There is one thread, so a lock is never released while a call waits: fail soon instead.
        connection.raw.execute("set lock_timeout = '20ms'")
        for channel in (*CHANNELS, *LIVE_CHANNELS):
            connection.raw.execute(f"listen {channel}".encode())
        pid = connection.raw.info.backend_pid

        def notified(notify: psycopg.Notify) -> None:
            # A session gets its own notifications when its commit returns, others' any time later.
            if notify.pid == pid:
                self._hear(notify.channel, notify.payload)

        connection.raw.add_notify_handler(notified)
        return connection

    def _listening(self) -> psycopg.Connection[Any]:
        """Return a connection that holds the locks of `LIVE_CHANNELS`, as workers' listeners do."""
        connection = psycopg.connect(self._dsn, autocommit=True)
        for channel in LIVE_CHANNELS:
            connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", (channel,))
        return connection

    def _hear(self, channel: str, payload: str) -> None:
        if channel in CHANNELS:
            self.notified.add(CHANNELS[channel] + payload)
        else:
            # Which other workers are asked to watch is random.
            if payload == dispatch.DISPATCHED:
                self.dispatched.append(Dispatched(channel))

    def _table_names(self) -> list[str]:
        query = "select tablename from pg_tables where schemaname = 'roost' order by tablename"
        names = [name for (name,) in self._first.raw.execute(query)]
        # A wrong row in unique_waiting_used shows in the jobs that an enqueue leaves out.
        return [name for name in names if name not in ("migrations", "unique_waiting_used")]

    def _rows(self, table: str) -> list[dict[str, Any]]:
        cursor = self._first.raw.cursor(row_factory=dict_row)
        rows = cursor.execute(f"select * from roost.{table} order by 1, 2".encode()).fetchall()
        return [comparable(row) for row in rows]

    def _set_clocks(self) -> None:
        for connection in (self._first, self._second):
            connection.raw.execute(
                "select set_config('clock.now', %s, false)", (self.now.isoformat(),)
            )

    def _insert(self, job: NewJob) -> JobInsert:
        due = None if job.due_in is None else self.now + timedelta(seconds=job.due_in)
        return JobInsert(
            task=job.task,
            args=job.args,
            queue=job.queue,
            priority=job.priority,
            max_attempts=job.max_attempts,
            scheduled_at=due,
            unique_key=job.unique_key,
            tags=job.tags,
            timeout_seconds=job.timeout_seconds,
            metadata=job.metadata,
            depends_on=job.depends_on,
        )


def _judge(end: End) -> Verdict:
    ending, retry_in = _ending(end.ending)
    return judge(
        ending,
        lease=end.grant.lease,
        attempt=end.grant.attempt,
        max_attempts=end.grant.max_attempts,
        retry=fixed(retry_in),
        rules=NEVER if isinstance(end.ending, FailForGood) else NO_RULES,
    )


def _ending(ending: Ending) -> tuple[verdict.Ending, int]:
    match ending:
        case Succeed(result=result):
            return verdict.Returned(result), 0
        case Fail(text=text, retry_in=retry_in):
            return verdict.Raised(ValueError(text)), retry_in
        case TimeOut(limit=limit, retry_in=retry_in):
            return verdict.TimedOut(limit), retry_in
        case FailForGood(text=text):
            return verdict.Raised(ValueError(text)), 0
        case CancelItself(reason=reason):
            return verdict.Raised(CancelJob(reason)), 0
        case DiscardItself(reason=reason):
            return verdict.Raised(DiscardJob(reason)), 0
        case RetryItself(reason=reason, seconds=seconds):
            return verdict.Raised(RetryJob(reason, in_=seconds)), 0
        case Snooze(seconds=seconds):
            return verdict.Raised(SnoozeJob(seconds)), 0
        case Release():
            return verdict.Interrupted(), 0
        case Cancel():
            return verdict.CancelRequested(), 0
        case _:
            assert_never(ending)


def _leased(job: claim.ClaimedJob) -> Leased:
    grant = Grant(job.lease, job.attempt, job.max_attempts)
    return Leased(grant, comparable(job.job().model_dump()))
