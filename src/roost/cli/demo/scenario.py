"""What the demo does with the queue: enqueue, commit, roll back, watch, sum up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import anyio
import attrs

from roost import AsyncRoost, HandlerRegistry, JobInsert, fixed
from roost.cli.demo.outcome import Outcome, read_outcome
from roost.cli.demo.tasks import register_tasks
from roost.cli.demo.tree import Tree
from roost.cli.demo.troubles import Troubles
from roost.exceptions import RoostError

RETRY_DELAY = 0.25
"""Seconds until a file that failed is tried again."""
PATIENCE = 30.0
"""Seconds without any progress after which the demo gives up."""
LOOK_EVERY = 0.05
"""Seconds between two looks at the table for the progress bar."""

PROGRESS = """
select
    count(*) filter (where state in ('completed', 'discarded', 'cancelled')),
    coalesce(sum(attempt), 0),
    bool_or(errors is not null and args->>'path' = %s)
from roost.jobs
where queue = %s
"""


class DemoError(RoostError):
    """The demo can't go on; the message says why."""

    code = "roost.demo"


class ShowsProgress(Protocol):
    """What is told how far the work is."""

    def total(self, jobs: int) -> None:
        """Take the number of jobs that are enqueued so far."""
        ...

    def done(self, jobs: int) -> None:
        """Take the number of jobs that have ended."""
        ...


class _RolledBackOnPurpose(Exception):  # noqa: N818  (nothing went wrong)
    """Ends a transaction that is not to be committed."""


@attrs.frozen(kw_only=True)
class Plan:
    """What to do, and where."""

    dsn: str
    queue: str
    tree: Tree
    troubles: Troubles
    concurrency: int | None


async def play(plan: Plan, progress: ShowsProgress) -> Outcome:
    """Run the demo's jobs and return what became of them. A cancel stops the worker in order.

    :raises DemoError: nothing happens any more.
    :raises RoostError: what the client or the worker ran into.
    """
    calls: Counter[str] = Counter()
    registry = HandlerRegistry()
    async with AsyncRoost(plan.dsn, registry=registry) as client:
        register_tasks(registry, client, calls)
        await client.setup_schema()
        options: dict[str, Any] = {
            "queues": [plan.queue],
            "retry_strategy": fixed(RETRY_DELAY),
            "shutdown_timeout": 2.0,
        }
        if plan.concurrency is not None:
            options["concurrency"] = plan.concurrency
        worker = client.worker(**options)
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            outcome = await _Play(plan, client, progress).run()
            worker.request_stop()
    return attrs.evolve(outcome, calls=calls)


class _Play:
    """The steps, in their order."""

    def __init__(self, plan: Plan, client: AsyncRoost, progress: ShowsProgress) -> None:
        self._plan = plan
        self._client = client
        self._progress = progress
        self._late_is_written = False
        self._enqueued = 0

    async def run(self) -> Outcome:
        rolled_back = await self._enqueue_and_roll_back()
        for folder, files in self._plan.tree.by_folder():
            await self._enqueue_folder(folder, [file.path for file in files])
        await self._enqueue_troubles()
        await self._wait_for_all()
        await self._enqueue(
            [JobInsert("summary", {"queue": self._plan.queue}, queue=self._plan.queue)]
        )
        await self._wait_for_all()
        async with self._client.transaction() as connection:
            return await read_outcome(connection, self._plan.queue, rolled_back=rolled_back)

    async def _enqueue_and_roll_back(self) -> int:
        """Enqueue in a transaction that is rolled back; return the id of the job that never was."""
        path = self._plan.tree.files[0].path
        job_id = 0
        try:
            async with self._client.transaction() as connection:
                job_id = await self._client.enqueue(
                    "index", args={"path": path}, queue=self._plan.queue, conn=connection
                )
                raise _RolledBackOnPurpose
        except _RolledBackOnPurpose:
            return job_id

    async def _enqueue_folder(self, folder: str, paths: list[str]) -> None:
        """Enqueue a folder in one transaction: a job for each file, and one for them together."""
        queue = self._plan.queue
        await self._enqueue(
            [
                *(JobInsert("index", {"path": path}, queue=queue) for path in paths),
                JobInsert("fingerprint", {"paths": paths}, queue=queue, tags=[folder]),
            ]
        )

    async def _enqueue_troubles(self) -> None:
        troubles, queue = self._plan.troubles, self._plan.queue
        await self._enqueue(
            [
                JobInsert("index", {"path": str(troubles.cut_off)}, queue=queue),
                JobInsert("index", {"path": str(troubles.utf16)}, queue=queue),
                # It is complete once a look at the table has seen a failure: that may take some.
                JobInsert("index", {"path": str(troubles.late)}, queue=queue, max_attempts=100),
            ]
        )

    async def _enqueue(self, jobs: Sequence[JobInsert]) -> None:
        async with self._client.transaction() as connection:
            self._enqueued += await self._client.enqueue_many(jobs, conn=connection)
        self._progress.total(self._enqueued)

    async def _wait_for_all(self) -> None:
        """Return when every job has ended."""
        last, since = None, anyio.current_time()
        late = str(self._plan.troubles.late)
        while True:
            async with self._client.transaction() as connection:
                cursor = await connection.execute(PROGRESS, (late, self._plan.queue))
                [(ended, attempts, late_has_failed)] = await cursor.fetchall()
            if late_has_failed and not self._late_is_written:
                self._plan.troubles.finish_writing()
                self._late_is_written = True
            self._progress.done(ended)
            if ended >= self._enqueued:
                return
            if (ended, attempts) != last:
                last, since = (ended, attempts), anyio.current_time()
            elif anyio.current_time() - since > PATIENCE:
                raise DemoError(
                    f"nothing has happened for {PATIENCE:g} s: {ended} of {self._enqueued} jobs "
                    "have ended"
                )
            await anyio.sleep(LOOK_EVERY)
