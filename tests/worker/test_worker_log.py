"""A worker logs its queues and tasks when it is ready, and when it works again after an outage."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


async def test_a_ready_worker_says_what_it_serves(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    caplog.set_level(logging.INFO, "roost")
    async with working(make_worker(queues=["mail", "media"], concurrency=7)):
        [worker_id] = table.workers()
    [ready] = [message for message in caplog.messages if message.startswith("worker is ready")]
    assert ready.startswith(f"worker is ready: id {worker_id}, name ")
    assert "queues mail, media; tasks work; concurrency 7, driver psycopg, event loop " in ready
    assert f"worker is stopping: id {worker_id}, 0 jobs run and get 30 s" in caplog.messages


async def test_a_worker_logs_that_it_listens_again(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "roost.worker.listen")
    async with working(make_worker(listen_reconnect_delay=0.01)):
        assert "listening again" not in caplog.messages
        table.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name like 'roost listen %'"
        )
        await eventually(lambda: "listening again" in caplog.messages)
    [lost] = [
        message
        for message in caplog.messages
        if message.startswith("not listening, polling only: ")
    ]
    assert len(lost) > len("not listening, polling only: ")
