"""The worker's calls to the database: their connections, deadlines and cached plans.

A call that gives this worker leases may commit without an answer. Then its jobs are executing and
no worker runs them. So such calls are made one at a time, and a cancel does not interrupt them.
See `ClaimCalls`, and `roost._worker.claimer.release_unknown` for the release of these jobs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from time import monotonic
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import anyio

from roost._drivers.base import (
    CALL_TIMEOUT,
    CLEANUP_TIMEOUT,
    AsyncConnection,
    AsyncDriver,
    Listener,
    run,
)
from roost._drivers.shield import shielded
from roost._ops.query import Op
from roost._ops.workers import discard_plans
from roost.exceptions import DatabaseError, DatabaseUnavailableError

T = TypeVar("T")

POOL_SIZE = 3
"""Connections for claims, settles and maintenance. The heartbeat and the listener have one each."""
MAINTENANCE_CONNECTIONS = 2
"""Connections that maintenance uses at most: a claim or a settle always finds the third."""
SLOW_CALL = 0.01
"""Seconds after which a call is slow enough to doubt its plan. Measured in November 2026: 1 to 5 ms
with a good plan, 85 to 3,900 ms with one that was cached on an empty table; see decision 0003."""
PLAN_TRUST = 1.0
"""Seconds for which new plans are trusted. On a slow machine good plans take longer than
`SLOW_CALL` too: a drain of 20,000 jobs in 1.5 s discarded plans 113 times at 2 ms each, and now
does so 5 times (November 2026)."""
CLAIM_TIMEOUT = 30.0
"""Seconds that one claim may take before its outcome counts as unknown."""
STOP_TIMEOUT = 1.0
"""Seconds that a stop waits for a claim in flight, and for the release of unknown leases."""


class Connections(NamedTuple):
    """The connections of a pool: how many are used, are open or being opened, and may be open."""

    used: int
    size: int
    limit: int


class PlanCache:
    """Remembers until when the cached plans of each connection are trusted."""

    def __init__(self) -> None:
        self._trusted_until: WeakKeyDictionary[AsyncConnection, float] = WeakKeyDictionary()

    def should_discard(self, connection: AsyncConnection, *, began: float, now: float) -> bool:
        """Say whether to discard the connection's plans after a call that took from ``began``.

        ``True`` at most once in `PLAN_TRUST` seconds. Both times are by ``time.monotonic``.
        """
        if now - began <= SLOW_CALL or now < self._trusted_until.get(connection, now):
            return False
        self._trusted_until[connection] = now + PLAN_TRUST
        return True


class Database:
    """Runs the lanes' operations on the worker's connections.

    The heartbeat has a connection of its own: claims, settles and maintenance may all wait for a
    lock on ``roost.jobs``, and the worker must not lose its leases because of that.

    :param driver: opens the connections.
    :param worker_name: appears in each connection's ``application_name``.
    """

    def __init__(self, driver: AsyncDriver, *, worker_name: str) -> None:
        self.driver_name = driver.name
        self._driver = driver
        self._worker_name = worker_name
        self._pool = driver.pool(max_size=POOL_SIZE, application_name=f"roost worker {worker_name}")
        self._heartbeat_pool = driver.pool(
            max_size=1,
            application_name=f"roost heartbeat {worker_name}",
            # A server that has no connection left would refuse a new one.
            max_lifetime=math.inf,
        )
        self._maintenance = anyio.Semaphore(MAINTENANCE_CONNECTIONS)
        self._plan_cache = PlanCache()

    async def call(self, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
        """Run one operation on a connection of the pool.

        :param timeout: seconds for acquiring the connection and running the operation together.
        :raises DatabaseUnavailableError: no answer in time; it may have been committed.
        """
        async with self._pool.acquire(timeout=timeout) as connection:
            began = monotonic()
            value = await run(connection, operation, timeout=timeout)
            if monotonic() > began + SLOW_CALL:
                await self._discard_slow_plans(connection, began)
            return value

    async def call_in_transaction(self, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
        """Do what `call` does with all statements of the operation in one transaction."""
        async with self._pool.acquire(timeout=timeout) as connection:
            began = monotonic()
            async with connection.transaction():
                value = await run(connection, operation, timeout=timeout)
            await self._discard_slow_plans(connection, began)
            return value

    async def call_for_maintenance(
        self, operation: Op[T], *, in_transaction: bool = False, timeout: float = CALL_TIMEOUT
    ) -> T:
        """Do what `call` does, on at most `MAINTENANCE_CONNECTIONS` connections at once."""
        async with self._maintenance:
            if in_transaction:
                return await self.call_in_transaction(operation, timeout=timeout)
            return await self.call(operation, timeout=timeout)

    async def call_for_heartbeat(self, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
        """Do what `call` does, on the heartbeat's own connection."""
        async with self._heartbeat_pool.acquire(timeout=timeout) as connection:
            return await run(connection, operation, timeout=timeout)

    def connections(self) -> Connections:
        """Return how many connections the pool has. May be called from any thread."""
        return Connections(self._pool.lent, self._pool.size, POOL_SIZE)

    def listener(self, channels: Sequence[str]) -> AbstractAsyncContextManager[Listener]:
        """Return a new connection that listens on ``channels`` inside its ``async with``."""
        return self._driver.listener(channels, application_name=f"roost listen {self._worker_name}")

    async def aclose(self) -> None:
        """Close all pooled connections."""
        await self._pool.aclose()
        await self._heartbeat_pool.aclose()

    async def _discard_slow_plans(self, connection: AsyncConnection, began: float) -> None:
        if self._plan_cache.should_discard(connection, began=began, now=monotonic()):
            # The plan may be from when the table was empty. The answer counts in any case.
            with contextlib.suppress(DatabaseError):
                await run(connection, discard_plans(), timeout=CLEANUP_TIMEOUT)


class ClaimCalls:
    """Bounds the calls that give a worker leases, and remembers whether one was not answered.

    :ivar timeout: seconds for the next claim.
    :ivar unanswered: whether the last one may have committed without an answer.
    """

    def __init__(self) -> None:
        self._in_flight: anyio.CancelScope | None = None
        self._stop_by = math.inf
        self.timeout = CLAIM_TIMEOUT
        self.unanswered = False

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Shield the call in the ``with``, for `timeout` seconds.

        The caller sets `unanswered` to ``False`` when it has put the answer into the slots, without
        an await in between.

        :raises DatabaseUnavailableError: no answer in time.
        """
        self.unanswered = True
        with shielded(self.timeout) as self._in_flight:
            yield
            return
        raise DatabaseUnavailableError("the claim was not answered")

    def stop(self) -> None:
        """Give a claim in flight `STOP_TIMEOUT` to be answered."""
        self.timeout = STOP_TIMEOUT
        self._stop_by = anyio.current_time() + STOP_TIMEOUT
        if self._in_flight is not None:
            self._in_flight.deadline = min(self._in_flight.deadline, self._stop_by)

    def seconds_to_stop(self) -> float:
        """Return the seconds that are left of `STOP_TIMEOUT`."""
        return min(self._stop_by - anyio.current_time(), STOP_TIMEOUT)
