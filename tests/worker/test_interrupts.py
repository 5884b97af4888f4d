"""A KeyboardInterrupt in a handler is the user's: the worker ends in order and raises it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from roost import HandlerRegistry, Worker, job
from roost.testing.job_table import JobTable


def causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for each in error.exceptions for cause in causes(each)]
    return [error]


def test_an_interrupt_in_an_async_handler_ends_the_worker(
    dsn: str, table: JobTable, registry: HandlerRegistry, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    @job("interrupt", registry=registry)
    async def interrupt() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    @job("endless", registry=registry)
    async def endless() -> None:
        await anyio.sleep_forever()

    other = table.add("endless")
    job_id = table.add("interrupt")
    name, options = anyio_backend

    async def main() -> None:
        with anyio.fail_after(20):
            await Worker(dsn, registry=registry, shutdown_timeout=0.1).run()

    with pytest.raises(BaseException) as caught:  # noqa: PT011  (a group on some loops)
        anyio.run(main, backend=name, backend_options=options)
    assert [type(cause) for cause in causes(caught.value)] == [KeyboardInterrupt]
    for each in (job_id, other):
        row = table.get(each)
        assert (row.state, row.attempt, row.errors) == ("available", 0, [])
    assert table.workers() == []


def test_an_interrupt_in_a_thread_is_the_jobs_failure(
    dsn: str, table: JobTable, registry: HandlerRegistry, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    @job("interrupt", registry=registry)
    def interrupt() -> None:
        raise KeyboardInterrupt

    job_id = table.add("interrupt", max_attempts=1)
    name, options = anyio_backend
    worker = Worker(dsn, registry=registry)
    assert anyio.run(worker.run_once, backend=name, backend_options=options) == 1
    assert table.get(job_id).state == "discarded"
