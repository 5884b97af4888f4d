"""Insert, change and read jobs in a test, without the client or a worker.

All calls block. They use a database connection of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from roost._drivers.base import run_sync
from roost._drivers.psycopg_sync import connect
from roost._model.encoding import encode_batch
from roost._model.job import Job, JobInsert
from roost._model.states import TERMINAL
from roost._model.verdict import Lease, Verdict
from roost._ops.archive import archive_jobs
from roost._ops.claim import Claimed, Position, claim_jobs
from roost._ops.enqueue import insert_batch
from roost._ops.query import Op, Query, Row
from roost._ops.read import get_job
from roost._ops.settle import settle
from roost._ops.workers import register_worker
from roost._sql import Statement

T = TypeVar("T")

_END = "roost_job_table"
"""The channel of a notification that `JobTable` sends to itself to mark the end."""
LOCK_TIMEOUT = 20
"""Seconds that a statement waits for a lock. A test that can never get it fails then."""


class JobTable:
    """The jobs of one database. A ``with`` block closes the connection.

    :param dsn: a database with Roost's schema.
    """

    def __init__(self, dsn: str, *, application_name: str = "roost job table") -> None:
        self.connection = connect(dsn, application_name=application_name)
        # Without it, a call from a worker's event loop would wait for that worker's lock forever.
        self.script(f"set lock_timeout = '{LOCK_TIMEOUT}s'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.connection.close()

    def run(self, operation: Op[T]) -> T:
        """Run one of Roost's operations."""
        return run_sync(self.connection, operation)

    def rows(self, text: str, *params: object) -> Sequence[Row]:
        """Run one statement with ``$1::type`` placeholders and return its rows."""
        return self.connection.fetch(Query(Statement("test", text), params))

    def value(self, text: str, *params: object) -> Any:
        """Run one statement and return the one value of its one row."""
        [[only]] = self.rows(text, *params)
        return only

    def script(self, text: str) -> None:
        """Run several commands."""
        self.connection.fetch(Query(Statement("test", text, script=True)))

    def add(self, task: str = "work", **fields: Any) -> int:
        """Insert one job with the fields of a `JobInsert` and return its id."""
        [job_id] = self.add_all([JobInsert(task, **fields)])
        return job_id

    def add_all(self, jobs: Sequence[JobInsert]) -> list[int]:
        """Insert jobs and return their ids."""
        return self.run(insert_batch(encode_batch(jobs)))

    def get(self, job_id: int) -> Job:
        """Return a job."""
        return self.run(get_job(job_id))

    def column(self, job_id: int, name: str) -> Any:
        """Return one column of a job, even one that `Job` does not have."""
        return self.value(f"select {name} from roost.jobs where id = $1::bigint", job_id)

    def change(self, job_id: int, assignments: str) -> None:
        """Update a job's row directly; ``assignments`` is the text after SET."""
        self.rows(f"update roost.jobs set {assignments} where id = $1::bigint", job_id)

    def archive(self, *, after: float = 0, limit: int = 10) -> int:
        """Archive jobs that ended more than ``after`` seconds ago; return how many.

        :param limit: the most of each state.
        """
        batches = [
            self.run(archive_jobs(state, after=after, limit=limit)) for state in sorted(TERMINAL)
        ]
        return sum(batch.jobs for batch in batches)

    def states(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        return dict(self.rows("select state, count(*) from roost.jobs group by state"))

    def workers(self) -> list[int]:
        """Return the ids in ``roost.workers``, one for each worker incarnation."""
        return [row[0] for row in self.rows("select id from roost.workers order by id")]

    def add_worker(
        self,
        name: str = "tester",
        *,
        queues: Sequence[str] = ("default",),
        stale_after: float = 300.0,
    ) -> int:
        """Add a worker incarnation, which sleeps, and return its id."""
        return self.run(
            register_worker(name=name, queues=queues, concurrency=10, stale_after=stale_after)
        )

    def claim(
        self,
        worker_id: int,
        *,
        limit: int = 10,
        queues: Sequence[str] = ("default",),
        tasks: Sequence[str] = ("work",),
        after: Sequence[Position] = (),
    ) -> Claimed:
        """Claim jobs for a worker."""
        return self.run(
            claim_jobs(worker_id=worker_id, queues=queues, tasks=tasks, limit=limit, after=after)
        )

    def settle(
        self, *verdicts: Verdict, error_cap: int = 20, keep_completed: bool = True
    ) -> list[Lease]:
        """Write verdicts of jobs without children, and return the leases that were lost."""
        settled = self.run(settle(verdicts, error_cap=error_cap, keep_completed=keep_completed))
        return [verdict.lease for verdict in settled.lost]

    def notifications(self) -> list[tuple[str, str]]:
        """Return channel and payload of each notification since the last call.

        These are all that were committed until now, on the channels that this connection listens
        to: notifications arrive in the order of the commits, and its own is the last.
        """
        self.script(f"listen {_END}; notify {_END}")
        received: list[tuple[str, str]] = []
        for notify in self.connection.raw.notifies(timeout=20):
            if notify.channel == _END:
                return received
            received.append((notify.channel, notify.payload))
        raise TimeoutError("its own notification did not come within 20 s")

    def connections(self, application_name: str) -> int:
        """Return how many connections to this database have a name like ``application_name``."""
        count: int = self.value(
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and application_name like $1::text",
            application_name,
        )
        return count
