"""No queue, but the least that any can do between an enqueue and a handler's start.

An insert that notifies, and an update that claims, each committed and flushed; a table with one
index, asyncpg, and no error handled. It shows how much of a figure is Postgres, the disk and the
waking of processes that sleep, whatever the queue. It keeps no promise, so it takes part only where
a single job is enqueued or picked up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from bench.peers.common import Contestant, Tally, main

SETUP = """
create table bare (
    id bigint generated always as identity primary key,
    task text not null,
    args text not null,
    state text not null default 'available'
);
create index bare_waiting on bare (id) where state = 'available'
"""
ENQUEUE = """
with inserted as (insert into bare (task, args) values ($1, $2) returning id)
select pg_notify('bare', '') from inserted
"""
CLAIM = """
update bare
set state = 'executing'
where id = any (array(
    select id from bare where state = 'available' order by id limit 10 for update skip locked
))
returning id, task, args
"""
COMPLETE = "update bare set state = 'completed' where id = any ($1::bigint[])"


class Bare(Contestant):
    """Two connections: one listens, one does the rest."""

    connection: Any

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Connect."""
        self.connection = await asyncpg.connect(self.dsn)
        yield
        await self.connection.close()

    async def setup(self) -> None:
        """Make the table."""
        async with self.client():
            await self.connection.execute(SETUP)

    async def enqueue(self, task: str, args: dict[str, int]) -> None:
        """Insert a row, and notify."""
        await self.connection.fetch(ENQUEUE, task, json.dumps(args))

    async def bulk(self, numbers: Sequence[int], *, keys: bool, later: bool) -> None:  # noqa: ARG002
        """Insert a few rows, one by one: it warms up."""
        for number in numbers:
            await self.enqueue("noop", {"i": number})

    async def work(self, tally: Tally, concurrency: int | None) -> None:  # noqa: ARG002
        """Claim when notified, call, complete; then claim again until nothing is left."""
        wake = asyncio.Event()
        wake.set()
        listener = await asyncpg.connect(self.dsn)
        await listener.add_listener("bare", lambda *_: wake.set())
        async with self.client():
            stopped = asyncio.create_task(self.wait_for_stop())
            stopped.add_done_callback(lambda _: wake.set())
            while not stopped.done():
                await wake.wait()
                wake.clear()
                while rows := await self.connection.fetch(CLAIM):
                    for _, task, args in rows:
                        await asyncio.create_task(_call(task, json.loads(args), tally))
                    await self.connection.execute(COMPLETE, [row[0] for row in rows])
        await listener.close()


async def _call(task: str, args: dict[str, int], tally: Tally) -> None:
    if task == "stamp":
        tally.stamp(args["t"])
    else:
        tally.noop()


if __name__ == "__main__":
    main(Bare)
