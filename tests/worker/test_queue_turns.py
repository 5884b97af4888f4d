"""Queues of one priority take turns: a backlog in one does not starve another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, JobInsert, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.mark.parametrize("queues", [["bulk", "web"], ["web", "bulk"]])
async def test_a_queue_with_an_endless_backlog_does_not_starve_another(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, queues: list[str]
) -> None:
    @job("refill", registry=registry)
    async def refill() -> None:
        # The number of older jobs in this queue stays the same during the whole test.
        table.add("refill", queue="bulk", scheduled_at=LONG_AGO)

    @job("serve", registry=registry)
    async def serve() -> None: ...

    def is_served(job_id: int) -> bool:
        return table.get(job_id).state == "completed"

    table.add_all([JobInsert("refill", queue="bulk", scheduled_at=LONG_AGO)] * 30)
    async with working(make_worker(queues=queues, concurrency=1, prefetch=4)):
        for _ in range(3):
            await eventually(partial(is_served, table.add("serve", queue="web")))


async def test_two_queues_with_a_backlog_are_served_equally(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    ran: list[str] = []

    @job("refill", registry=registry)
    async def refill(queue: str) -> None:
        ran.append(queue)
        table.add("refill", queue=queue, scheduled_at=LONG_AGO, args={"queue": queue})

    for queue in ("a", "b"):
        table.add_all(
            [JobInsert("refill", queue=queue, scheduled_at=LONG_AGO, args={"queue": queue})] * 30
        )
    async with working(make_worker(queues=["a", "b"], concurrency=1, prefetch=4)):
        # Each queue gets turns. Their number depends on the duration of a claim.
        await eventually(lambda: min(ran.count("a"), ran.count("b")) > 50)
