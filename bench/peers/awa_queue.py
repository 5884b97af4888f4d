"""awa 0.6.9: a Rust core with its own runtime that calls handlers on our loop.

- ``max_connections`` 10 and the queue storage, which a fresh installation goes over to when its
  first worker starts: both defaults. Its guide for very hot queues splits one queue into several,
  which gives up the order: not done here.
- Bulk: ``enqueue_many_copy``, by COPY, its documented call for high volume; returns a count and no
  ids. Uniqueness is by the args' hash (``unique_opts``), the nearest to a key a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from awa import AsyncClient
from bench.peers.common import LATER, QUEUE, Contestant, Tally, main


@dataclass
class Noop:
    """Args of a job that does nothing."""

    i: int


@dataclass
class Stamp:
    """Args of a job that says when it was sent."""

    i: int
    t: int


@dataclass
class Nap:
    """Args of a job that sleeps."""

    ms: int


TASKS: dict[str, Any] = {"noop": Noop, "stamp": Stamp, "nap": Nap}


class Awa(Contestant):
    """Its kinds are our tasks."""

    queue: Any

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Open a client."""
        # Its parser wants a host in its usual place, also where a folder of a socket is named.
        dsn = self.dsn.replace("@/", "@localhost/")
        async with AsyncClient(dsn) as self.queue:
            yield

    async def setup(self) -> None:
        """Make the schema, and have a first worker go over to the queue storage."""

        async def nothing(_: Any) -> None: ...

        async with self.client():
            await self.queue.migrate()
            self.queue.task(Noop, queue="other")(nothing)
            await self.queue.start([("other", 1)])
            await self.queue.shutdown()

    async def enqueue(self, task: str, args: dict[str, int]) -> None:
        """Enqueue one job."""
        await self.queue.insert(TASKS[task](**args), queue=QUEUE)

    async def bulk(self, numbers: Sequence[int], *, keys: bool, later: bool) -> None:
        """Enqueue a batch by COPY."""
        options: dict[str, Any] = {"unique_opts": {"by_args": True}} if keys else {}
        if later:
            options["run_at"] = (datetime.now(UTC) + timedelta(seconds=LATER)).isoformat()
        await self.queue.enqueue_many_copy([Noop(i) for i in numbers], queue=QUEUE, **options)

    async def work(self, tally: Tally, concurrency: int | None) -> None:
        """Run a worker."""

        async def noop(_: Any) -> None:
            tally.noop()

        async def stamp(job: Any) -> None:
            tally.stamp(job.args.t)

        async def nap(job: Any) -> None:
            await asyncio.sleep(job.args.ms / 1e3)

        async with self.client():
            for handler in (noop, stamp, nap):
                self.queue.task(TASKS[handler.__name__], queue=QUEUE)(handler)
            await self.queue.start([(QUEUE, concurrency or 50)])
            await self.wait_for_stop()
            await self.queue.shutdown()


if __name__ == "__main__":
    main(Awa)
