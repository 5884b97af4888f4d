"""Roost, from this checkout: every setting is the default but the concurrency.

"deleting" has ``delete_after_seconds={"completed": 0}`` as well.

Bulk: ``enqueue_many``, or with the driver option ``ids`` ``enqueue_all``, which returns the ids in
order; each row has a ``unique_key``, and a batch is one statement that notifies.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
from bench.peers.common import LATER, QUEUE, Contestant, Tally, main

import roost


class RoostQueue(Contestant):
    """Itself. The driver options ``ids`` and ``deleting`` are psycopg.

    With the first, bulk calls return ids; with the second, completed jobs are not kept.
    """

    queue: roost.AsyncRoost

    @asynccontextmanager
    async def client(self, registry: roost.HandlerRegistry | None = None) -> AsyncIterator[None]:
        """Open a client."""
        driver = "asyncpg" if self.driver == "asyncpg" else "psycopg"
        async with roost.AsyncRoost(self.dsn, driver=driver, registry=registry) as self.queue:
            yield

    async def setup(self) -> None:
        """Make the schema."""
        async with self.client():
            await self.queue.setup_schema()

    async def enqueue(self, task: str, args: dict[str, int]) -> None:
        """Enqueue one job."""
        await self.queue.enqueue(task, args=args, queue=QUEUE)

    async def bulk(self, numbers: Sequence[int], *, keys: bool, later: bool) -> None:
        """Enqueue a batch in one statement."""
        due = datetime.now(UTC) + timedelta(seconds=LATER) if later else None
        jobs = [
            roost.JobInsert(
                "noop",
                {"i": number},
                queue=QUEUE,
                unique_key=f"key-{number}" if keys else None,
                scheduled_at=due,
            )
            for number in numbers
        ]
        if self.driver == "ids":
            await self.queue.enqueue_all(jobs)
        else:
            await self.queue.enqueue_many(jobs)

    async def work(self, tally: Tally, concurrency: int | None) -> None:
        """Run a worker."""
        registry = roost.HandlerRegistry()

        @roost.job("noop", registry=registry)
        async def noop(i: int) -> None:  # noqa: ARG001  (an argument of the job)
            tally.noop()

        @roost.job("stamp", registry=registry)
        async def stamp(i: int, t: int) -> None:  # noqa: ARG001
            tally.stamp(t)

        @roost.job("nap", registry=registry)
        async def nap(ms: int) -> None:
            await anyio.sleep(ms / 1e3)

        async with self.client(registry), anyio.create_task_group() as tasks:
            options: dict[str, Any] = {"concurrency": concurrency} if concurrency else {}
            if self.driver == "deleting":
                options["delete_after_seconds"] = {"completed": 0}
            worker = self.queue.worker(queues=(QUEUE,), **options)
            await tasks.start(worker.run)
            await self.wait_for_stop()
            worker.request_stop()

    async def wait_for_stop(self) -> None:
        """Wait until stdin ends."""
        await anyio.to_thread.run_sync(sys.stdin.read)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the loop that is running."""
        await anyio.sleep(seconds)

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `main` on the loop that was asked for."""
        if self.loop == "trio":
            anyio.run(main, backend="trio")
        else:
            anyio.run(main, backend_options={"use_uvloop": self.loop == "uvloop"})


if __name__ == "__main__":
    main(RoostQueue)
