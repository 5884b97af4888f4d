"""Workers that start and stop on a database that often fails lose no job and repeat none.

Each call of a worker may fail before it is sent, come late, or be done and not be answered.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import GeneratorType
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable

from roost import AsyncRoost, DatabaseUnavailableError, HandlerRegistry, JobInsert, Worker, job
from roost._ops.query import Op
from roost._worker.database import Database

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

FAULTS = 0.08
"""Share of calls that are not sent, and of those that are not answered."""
LATE = 0.2
"""Share of calls, and of answers, that are delayed."""
DELAY = 0.05
"""Seconds of a delay at most."""


class Faults:
    """Makes calls of all workers fail or come late, until it is ended."""

    def __init__(self, dice: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dice = dice
        self._ended = False
        self.unsent: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        for name in ("call", "call_for_heartbeat", "call_in_transaction"):
            monkeypatch.setattr(Database, name, self._faulty(getattr(Database, name)))
        for lane in ("fetch", "settle", "heartbeat"):
            monkeypatch.setattr(f"roost._worker.lanes.{lane}.backoff", lambda failures: 0.01)

    def end(self) -> None:
        """Let every call be answered from now on."""
        self._ended = True

    def _faulty(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def faulty(database: Database, operation: Op[Any], **options: Any) -> Any:
            assert isinstance(operation, GeneratorType)
            if self._happens(FAULTS):
                operation.close()
                self.unsent[operation.__name__] += 1
                raise DatabaseUnavailableError("not sent")
            await self._delay()
            answer = await call(database, operation, **options)
            await self._delay()
            if self._happens(FAULTS):
                self.unanswered[operation.__name__] += 1
                raise DatabaseUnavailableError("not answered")
            return answer

        return faulty

    async def _delay(self) -> None:
        if self._happens(LATE):
            await anyio.sleep(self._dice.uniform(0, DELAY))

    def _happens(self, share: float) -> bool:
        return not self._ended and self._dice.random() < share


@pytest.mark.parametrize("seed", range(2))
async def test_every_job_runs_once_unless_it_was_rescued(
    table: JobTable,
    dsn: str,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    dice = random.Random(seed)
    faults = Faults(dice, monkeypatch)
    ended: Counter[int] = Counter()

    @job("free", registry=registry)
    async def free(n: int) -> None:
        await anyio.sleep(dice.uniform(0, 0.01))
        ended[n] += 1

    @job("limited", max_concurrency=2, registry=registry)
    async def limited(n: int) -> None:
        await anyio.sleep(0.001)
        ended[n] += 1

    def some_worker() -> Worker:
        return make_worker(
            concurrency=dice.choice([1, 3, 20]),
            poll_interval=0.3,
            shutdown_timeout=dice.choice([0, 0.01, 5]),
            startup_max_retries=50,
            startup_retry_delay=0.01,
        )

    async def come_and_go() -> None:
        while True:
            worker = some_worker()
            with anyio.move_on_after(dice.uniform(0, 0.5)):
                await (worker.run() if dice.random() < 0.6 else worker.run_once())

    async with AsyncRoost(dsn, registry=registry) as client, anyio.create_task_group() as group:
        group.start_soon(some_worker().run)
        group.start_soon(come_and_go)
        added = 0
        for _ in range(100):
            many = dice.randrange(1, 20) if dice.random() < 0.3 else 1
            numbers = range(added, added + many)
            if many > 1:
                await client.enqueue_many([JobInsert("free", args={"n": n}) for n in numbers])
            else:
                await client.enqueue(dice.choice([free, limited]), args={"n": added})
            added += many
            await anyio.sleep(dice.uniform(0, 0.03))
        faults.end()
        await eventually(lambda: table.states() == {"completed": added}, within=60)
        group.cancel_scope.cancel()

    assert faults.unsent
    assert faults.unanswered
    for number in range(added):
        assert ended[number] >= 1
    # Only jobs that a stop could not release in time are left to a rescue, which logs them.
    for number, attempt, errors in table.rows(
        "select (args ->> 'n')::integer, attempt, errors from roost.jobs"
    ):
        crashes = [record["error"].split(":")[0] for record in errors or ()]
        assert crashes == ["WorkerCrash"] * (attempt - 1)
        assert ended[number] <= attempt
