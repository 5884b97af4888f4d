"""procrastinate 3.10 on psycopg 3 with its C parts, on asyncio, as its command line runs it.

- ``concurrency`` as asked for, and a pool that may grow to as many connections, up to 20: it makes
  a round trip a job for the fetch and for the end, and the default pool of 4 would hold it up.
  The rest are defaults: finished jobs are kept, LISTEN is on.
- Bulk: ``batch_defer_async``, one statement a batch, returns the ids. Its ``queueing_lock`` is the
  same for the whole call, so there is no key a row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bench.peers.common import LATER, QUEUE, Contestant, Tally, main
from procrastinate import App, PsycopgConnector

# It warns that its command line can't import an app of the main module. It is not used here.
logging.getLogger("procrastinate").setLevel(logging.ERROR)


class Procrastinate(Contestant):
    """Its tasks are our tasks."""

    app: Any
    tasks: dict[str, Any]
    tally = Tally(0, 0)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Open the app."""
        self.app = App(connector=PsycopgConnector(conninfo=self.dsn, max_size=20))

        async def noop(i: int) -> None:
            del i
            self.tally.noop()

        async def stamp(i: int, t: int) -> None:
            del i
            self.tally.stamp(t)

        async def nap(ms: int) -> None:
            await asyncio.sleep(ms / 1e3)

        self.tasks = {
            task.__name__: self.app.task(name=task.__name__, queue=QUEUE)(task)
            for task in (noop, stamp, nap)
        }
        async with self.app.open_async():
            yield

    async def setup(self) -> None:
        """Make the schema."""
        async with self.client():
            await self.app.schema_manager.apply_schema_async()

    async def enqueue(self, task: str, args: dict[str, int]) -> None:
        """Enqueue one job."""
        await self.tasks[task].defer_async(**args)

    async def bulk(self, numbers: Sequence[int], *, keys: bool, later: bool) -> None:
        """Enqueue a batch in one statement."""
        del keys
        due = {"schedule_in": {"seconds": LATER}} if later else {}
        call = self.tasks["noop"].configure(**due)
        await call.batch_defer_async(*({"i": number} for number in numbers))

    async def work(self, tally: Tally, concurrency: int | None) -> None:
        """Run a worker."""
        self.tally = tally
        async with self.client():
            running = asyncio.create_task(
                self.app.run_worker_async(
                    concurrency=concurrency or 1, install_signal_handlers=False
                )
            )
            await self.wait_for_stop()
            running.cancel()
            await asyncio.wait([running])


if __name__ == "__main__":
    main(Procrastinate)
