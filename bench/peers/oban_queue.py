"""oban 0.7, on uvloop, as its command line runs it.

- A pool with the default size of 10. The queue's ``limit`` is the concurrency; the documentation
  names no other setting for throughput, so the rest are defaults. Finished jobs are kept.
- Bulk: ``enqueue_many``, which inserts row by row in a pipeline and returns the ids. Unique jobs
  are a feature of its paid edition, so there is no key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from bench.peers.common import LATER, QUEUE, Contestant, Tally, main
from oban import Oban, worker
from oban.schema import install

TALLY: list[Tally] = []


class Noop:
    """A job that does nothing."""

    async def process(self, _: Any) -> None:
        """Count it."""
        TALLY[0].noop()


class Stamp:
    """A job that says when it was sent."""

    async def process(self, job: Any) -> None:
        """Note how long ago that was."""
        TALLY[0].stamp(job.args["t"])


class Nap:
    """A job that sleeps."""

    async def process(self, job: Any) -> None:
        """Sleep."""
        await asyncio.sleep(job.args["ms"] / 1e3)


TASKS: dict[str, Any] = {
    kind.__name__.lower(): worker(queue=QUEUE)(kind) for kind in (Noop, Stamp, Nap)
}


class ObanQueue(Contestant):
    """Its workers are our tasks."""

    oban: Any

    async def setup(self) -> None:
        """Make the schema."""
        pool = await Oban.create_pool(self.dsn)
        await install(pool)
        await pool.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Open a pool."""
        pool = await Oban.create_pool(self.dsn)
        async with Oban(pool=pool) as self.oban:
            yield
        await pool.close()

    async def enqueue(self, task: str, args: dict[str, int]) -> None:
        """Enqueue one job."""
        await self.oban.enqueue(TASKS[task].new(args))

    async def bulk(self, numbers: Sequence[int], *, keys: bool, later: bool) -> None:
        """Enqueue a batch."""
        del keys
        due = {"scheduled_in": timedelta(seconds=LATER)} if later else {}
        await self.oban.enqueue_many([TASKS["noop"].new({"i": i}, **due) for i in numbers])

    async def work(self, tally: Tally, concurrency: int | None) -> None:
        """Run a worker."""
        TALLY.append(tally)
        pool = await Oban.create_pool(self.dsn)
        async with Oban(pool=pool, queues={QUEUE: concurrency or 10}):
            await self.wait_for_stop()
        await pool.close()


if __name__ == "__main__":
    main(ObanQueue)
