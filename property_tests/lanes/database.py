"""A driver whose statements run at once on the real Postgres and take time by the loop's clock.

The event loop stands still while Postgres works. So no real delay decides what comes first, and
the same draws give the same run. What takes time is the way there and back (`TRAVEL`), and what
`Faults` holds back.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
from property_tests.lanes.clock import DatabaseClock
from property_tests.lanes.faults import Faults
from psycopg import pq
from trio.testing import MockClock

from roost._drivers.base import (
    CALL_TIMEOUT,
    MAX_LIFETIME,
    AsyncConnection,
    AsyncPool,
    Listener,
    Notification,
)
from roost._drivers.psycopg_sync import SyncConnection, connect
from roost._ops.dependencies import LOCK_NOT_AVAILABLE
from roost._ops.query import Query, Row
from roost._sql import Statement
from roost.exceptions import DatabaseUnavailableError

TRAVEL = (0.0005, 0.001, 0.003)
"""Seconds that a statement, or an answer, is on its way: one of these."""
SETTINGS = """
set plan_cache_mode = force_generic_plan;
set jit = off;
-- For a statement to find that it waits. Then it waits without the server.
set lock_timeout = '2ms';
"""
NOTIFIES = (
    *("enqueue.", "settle.", "dependencies.", "control.cancel", "control.pause", "control.resume"),
    *("workers.notify_probe", "workers.release_unheld", "workers.forget_worker"),
    *("rescue.", "limits.publish_limits", "limits.lift_limits", "dispatch.", "read.await_job"),
)
"""How the names of the statements begin after which listeners look for notifications."""

BOUND = "dependencies.bound_lock_waits"
BOUND_SECONDS = 0.5
"""What bounds the waits of a transaction for locks, and how long they may be."""


class TimedConnection:
    """A blocking connection whose ``now()`` is the simulation's time."""

    def __init__(self, dsn: str, clock: DatabaseClock) -> None:
        self.real: SyncConnection = connect(
            dsn, application_name="roost simulation", prepare_threshold=0
        )
        self.clock = clock
        self._heard: list[Notification] = []
        self.real.raw.add_notify_handler(
            lambda notify: self._heard.append(Notification(notify.channel, notify.payload))
        )
        self.command(SETTINGS)

    def command(self, text: str) -> None:
        """Run commands without parameters."""
        self.clock.set()
        result = self.real.raw.pgconn.exec_(text.encode())
        assert result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK), (
            result.error_message
        )

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one statement now."""
        self.clock.set()
        return self.real.fetch(query)

    def receive(self) -> list[Notification]:
        """Return the notifications that other connections have committed by now."""
        self.command("select 1")
        pgconn = self.real.raw.pgconn
        while (notify := pgconn.notifies()) is not None:
            self._heard.append(Notification(notify.relname.decode(), notify.extra.decode()))
        heard, self._heard = self._heard, []
        return heard

    def reset(self) -> None:
        """Leave a transaction, locks and channels, as the end of the connection does."""
        self.command("rollback")
        self.command("unlisten *; select pg_advisory_unlock_all()")
        self.receive()


class Server:
    """Connections to the real Postgres, which outlive an example.

    ``shared`` serves every statement that commits by itself, and every transaction that takes no
    time. Its plans are kept.

    :param dsn: a database that `prepare_database` has prepared.
    :param path: where it reads the time.
    """

    def __init__(self, dsn: str, path: Path) -> None:
        self.clock = DatabaseClock(path, MockClock())
        self.dsn = dsn
        self._idle: list[TimedConnection] = []
        self._all: list[TimedConnection] = []
        self.shared = self.take()

    def take(self) -> TimedConnection:
        """Return a connection that nothing else uses."""
        if self._idle:
            return self._idle.pop()
        connection = TimedConnection(self.dsn, self.clock)
        self._all.append(connection)
        return connection

    def give_back(self, connection: TimedConnection) -> None:
        """Let it be used again."""
        self._idle.append(connection)

    def begin_example(self, clock: MockClock) -> None:
        """Take every connection back, go by another clock, and empty the tables."""
        self.clock.clock = clock
        for connection in self._all:
            connection.reset()
        self._idle = self._all[1:]
        self.shared.command(EMPTY)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.real.close()


EMPTY = """
do $$
declare
    name text;
begin
    for name in
        select tablename from pg_tables
        where schemaname = 'roost' and tablename <> 'migrations'
    loop
        execute format('delete from roost.%I', name);
    end loop;
    perform setval('roost.jobs_id_seq', 1, false), setval('roost.workers_id_seq', 1, false);
end
$$
"""


@attrs.define(eq=False)
class Network:
    """What lies between the workers and the database.

    :param dice: decides how long each way takes.
    :param unlocked: set when a rule gives up its lock on the table of jobs; ``None``: it has none.
    """

    server: Server
    dice: random.Random
    faults: Faults = attrs.field(factory=Faults)
    unlocked: anyio.Event | None = None

    async def travel(self) -> None:
        """Take the time of one way."""
        await anyio.sleep(self.dice.choice(TRAVEL))

    def driver(self, owner: str) -> SimulatedDriver:
        """Return the driver of one worker, or of one client."""
        return SimulatedDriver(self, owner)


@attrs.define(eq=False)
class SimulatedDriver:
    """Roost's ``AsyncDriver`` of the simulation."""

    network: Network
    owner: str
    name: str = "psycopg"

    def pool(
        self, *, max_size: int, application_name: str, max_lifetime: float = MAX_LIFETIME
    ) -> AsyncPool:
        return SimulatedPool(self.network, self.owner, max_size)

    @asynccontextmanager
    async def listener(
        self, channels: Sequence[str], *, application_name: str
    ) -> AsyncIterator[Listener]:
        faults = self.network.faults
        await self.network.travel()
        await faults.send(self.owner, "listen")
        if faults.happens("deaf", self.owner):
            raise DatabaseUnavailableError("can't listen")
        connection = self.network.server.take()
        for channel in channels:
            connection.command(f'listen "{channel}"')
        listener = SimulatedListener(self.network, self.owner, connection)
        try:
            await self.network.travel()
            yield listener
        finally:
            listener.lose()


class SimulatedPool:
    """Roost's ``AsyncPool`` of the simulation: who came first gets a connection first."""

    def __init__(self, network: Network, owner: str, max_size: int) -> None:
        self._network = network
        self._owner = owner
        self._free = anyio.Semaphore(max_size)
        self._max_size = max_size

    @property
    def lent(self) -> int:
        return self._max_size - self._free.value

    @property
    def size(self) -> int:
        return self.lent

    @asynccontextmanager
    async def acquire(self, *, timeout: float = CALL_TIMEOUT) -> AsyncIterator[AsyncConnection]:
        with anyio.move_on_after(timeout) as waiting:
            await self._free.acquire()
        if waiting.cancelled_caught:
            raise DatabaseUnavailableError("no connection became free")
        try:
            yield SimulatedConnection(self._network, self._owner)
        finally:
            self._free.release()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    def mark_closed(self) -> None:
        """Nothing is open here."""

    def terminate_idle(self) -> None:
        """Nothing is open here."""

    def abandon_idle(self) -> None:
        """Nothing is open here."""


class SimulatedConnection:
    """Roost's ``AsyncConnection`` of the simulation.

    A transaction takes no time between its statements: other connections of the simulation would
    wait for its locks, and there is one thread.
    """

    def __init__(self, network: Network, owner: str) -> None:
        self._network = network
        self._owner = owner
        self._connection = network.server.shared
        self._in_transaction = False
        self._names: list[str] = []

    @property
    def raw(self) -> Any:
        """The driver's own connection; it is the same for all."""
        return self._connection.real.raw

    async def fetch(self, query: Query) -> Sequence[Row]:
        name = query.statement.name
        if self._in_transaction:
            if not self._names:
                await self._send(name)
                self._begin()
            self._names.append(name)
            rows = await self._run(query)
            if name == BOUND:
                self._connection.command("set local lock_timeout = '2ms'")
            return rows
        await self._send(name)
        rows = await self._run(query)
        if name.startswith(NOTIFIES):
            self._network.faults.changed()
        await self._answer(name)
        return rows

    async def _send(self, name: str) -> None:
        await self._network.travel()
        await self._network.faults.send(self._owner, name)

    async def _answer(self, name: str) -> None:
        await self._network.travel()
        await self._network.faults.answer(self._owner, name)

    def _begin(self) -> None:
        if self._network.unlocked is not None:
            self._connection = self._network.server.take()  # it may have to wait
        self._connection.command("begin")

    async def _run(self, query: Query) -> Sequence[Row]:
        """Run the statement; wait while a rule has locked the table that it needs."""
        while True:
            locked = self._network.unlocked
            if locked is not None and self._in_transaction:
                self._connection.command("savepoint before")
            try:
                return self._connection.fetch(query)
            except DatabaseUnavailableError as error:
                if error.sqlstate != LOCK_NOT_AVAILABLE or locked is None:
                    raise
                if BOUND in self._names:
                    await anyio.sleep(BOUND_SECONDS)
                    raise
            if self._in_transaction:
                self._connection.command("rollback to before")
            await locked.wait()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        assert not self._in_transaction
        self._in_transaction = True
        end = "rollback"
        try:
            yield
            end = "commit"
        finally:
            self._in_transaction = False
            names, self._names = self._names, []
            if names:
                self._connection.command(end)
                if self._connection is not self._network.server.shared:
                    self._network.server.give_back(self._connection)
                    self._connection = self._network.server.shared
                if any(name.startswith(NOTIFIES) for name in names):
                    self._network.faults.changed()
        if names:
            await self._answer(names[0])


class SimulatedListener:
    """Roost's ``Listener`` of the simulation."""

    def __init__(self, network: Network, owner: str, connection: TimedConnection) -> None:
        self._network = network
        self._owner = owner
        self._connection: TimedConnection | None = connection
        self._heard: deque[Notification] = deque()

    def lose(self) -> None:
        """Lose the connection, and with it its locks and what was not received."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.reset()
            self._network.server.give_back(connection)
            self._network.faults.changed()

    def _alive(self) -> TimedConnection:
        if self._network.faults.happens("deaf", self._owner):
            self.lose()
        if self._connection is None:
            raise DatabaseUnavailableError("the listening connection is lost")
        return self._connection

    async def receive(self) -> Sequence[Notification]:
        faults = self._network.faults
        while True:
            connection = self._alive()
            if not faults.happens("cut off", self._owner):
                # What other connections have committed is here after one round trip.
                self._heard.extend(connection.receive())
                if self._heard:
                    await self._network.travel()
                    if not faults.happens("cut off", self._owner):
                        heard = list(self._heard)
                        self._heard.clear()
                        return heard
                    continue
            await faults.wait_for_change()

    async def probe(self) -> None:
        await self._round_trip()

    async def lock(self, name: str) -> None:
        await self._round_trip()
        connection = self._alive()
        text = "select pg_advisory_lock(hashtextextended($1::text, 0))"
        connection.fetch(Query(Statement("simulation", text), (name,)))

    async def _round_trip(self) -> None:
        await self._network.travel()
        await self._network.faults.send(self._owner, "listen")
        self._alive()
        await self._network.travel()
