"""pgqueuer 1.6 on asyncpg.

- One asyncpg connection for the worker and one for the producer, as in its quick start; a pool
  makes it no faster, since it claims in one loop.
- ``batch_size`` is how much a claim takes, and how many finished jobs are written together.
  "pgqueuer" runs at most the concurrency asked for, as every other contestant does: it is
  ``max_concurrent_tasks``, and ``batch_size`` half of it, the most that is allowed then.
  "pgqueuer, uncapped" is what its own benchmark does: no limit, so that all it has claimed runs at
  once, and ``batch_size`` the concurrency.
- The rest are defaults: durable tables, log of finished jobs, heartbeats, notifications by trigger.
- Bulk: one statement a batch, with a ``dedupe_key`` a row; returns the ids.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
from bench.peers.common import LATER, Contestant, Tally, main
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver


class Pgqueuer(Contestant):
    """Its entrypoints are our tasks."""

    queries: Any

    async def setup(self) -> None:
        """Make the schema."""
        async with self.client():
            await self.queries.install()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Connect."""
        connection = await asyncpg.connect(self.dsn)
        self.queries = Queries(AsyncpgDriver(connection))
        yield
        await connection.close()

    async def enqueue(self, task: str, args: dict[str, int]) -> None:
        """Enqueue one job."""
        await self.queries.enqueue(task, json.dumps(args).encode())

    async def bulk(self, numbers: Sequence[int], *, keys: bool, later: bool) -> None:
        """Enqueue a batch in one statement."""
        count = len(numbers)
        await self.queries.enqueue(
            ["noop"] * count,
            [json.dumps({"i": number}).encode() for number in numbers],
            [0] * count,
            [timedelta(seconds=LATER)] * count if later else None,
            [f"key-{number}" for number in numbers] if keys else None,
        )

    async def work(self, tally: Tally, concurrency: int | None) -> None:
        """Run a worker."""
        connection = await asyncpg.connect(self.dsn)
        worker = PgQueuer.from_asyncpg_connection(connection)

        async def noop(_: Any) -> None:
            tally.noop()

        async def stamp(job: Any) -> None:
            tally.stamp(json.loads(job.payload)["t"])

        async def nap(job: Any) -> None:
            await asyncio.sleep(json.loads(job.payload)["ms"] / 1e3)

        for handler in (noop, stamp, nap):
            worker.entrypoint(handler.__name__)(handler)
        options: dict[str, Any] = {}
        if concurrency and self.driver == "uncapped":
            options = {"batch_size": concurrency}
        elif concurrency:
            options = {"batch_size": concurrency // 2, "max_concurrent_tasks": concurrency}
        running = asyncio.create_task(worker.run(**options))
        await self.wait_for_stop()
        worker.shutdown.set()
        await running
        await connection.close()


if __name__ == "__main__":
    main(Pgqueuer)
