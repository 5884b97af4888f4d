"""Each attempt that does not complete is logged once, with its data in message and fields."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, SnoozeJob, Worker, fixed, job
from roost._ops.control import cancel_job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
ATTEMPTS = "roost.worker.attempts"


@pytest.fixture
def plain() -> Iterator[io.StringIO]:
    """Yield the log of an application that formats only the message."""
    seen = io.StringIO()
    handler = logging.StreamHandler(seen)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger(ATTEMPTS)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield seen
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_a_failure_that_is_retried_is_a_warning_with_its_traceback(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, plain: io.StringIO
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        raise ValueError("no\nluck")

    job_id = table.add(max_attempts=3)
    await make_worker(retry_strategy=fixed(7)).run_once()
    line, trace = plain.getvalue().split("\n", 1)
    assert line.startswith(
        f"WARNING job {job_id} (work) failed, will be retried in 7.0 s: ValueError: no\\nluck; "
        "queue default, attempt 1 of 3, after 0."
    )
    assert trace.count("Traceback (most recent call last)") == 1
    assert 'raise ValueError("no\\nluck")' in trace


async def test_the_last_failure_is_an_error_with_its_fields(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = ValueError("no luck")

    @job("work", registry=registry)
    def work() -> None:
        raise error

    job_id = table.add(max_attempts=1)
    await make_worker().run_once()
    [record] = [record for record in caplog.records if record.name == ATTEMPTS]
    fields = record.__dict__
    assert record.levelname == "ERROR"
    assert "failed and is discarded: ValueError: no luck; queue default" in record.message
    assert (fields["job_id"], fields["task"], fields["queue"]) == (job_id, "work", "default")
    assert (fields["attempt"], fields["max_attempts"], fields["error"]) == (
        1,
        1,
        "ValueError: no luck",
    )
    assert fields["seconds"] >= 0
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_a_timeout_is_logged_as_a_timeout(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, plain: io.StringIO
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        await anyio.sleep_forever()

    job_id = table.add(timeout_seconds=1)
    await make_worker().run_once()
    [line] = plain.getvalue().splitlines()
    assert line.startswith(f"WARNING job {job_id} (work) timed out, will be retried in ")
    assert "timed out after 1 s; queue default, attempt 1 of 20, after 1." in line


async def test_a_cancel_is_logged_at_info(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, plain: io.StringIO
) -> None:
    started = anyio.Event()

    @job("work", registry=registry)
    async def work() -> None:
        started.set()
        await anyio.sleep_forever()

    job_id = table.add()
    async with working(make_worker()):
        await started.wait()
        table.run(cancel_job(job_id))
        await eventually(lambda: table.get(job_id).state == "cancelled")
    [line] = plain.getvalue().splitlines()
    assert line.startswith(
        f"INFO job {job_id} (work) was cancelled; queue default, attempt 1 of 20"
    )


async def test_an_attempt_interrupted_by_a_stop_is_logged_at_info(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, plain: io.StringIO
) -> None:
    started = anyio.Event()

    @job("work", registry=registry)
    async def work() -> None:
        started.set()
        await anyio.sleep_forever()

    job_id = table.add()
    async with working(make_worker(shutdown_timeout=0)):
        await started.wait()
    [line] = plain.getvalue().splitlines()
    assert line.startswith(f"INFO job {job_id} (work) was interrupted and is released;")


async def test_success_and_snooze_are_not_logged(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, plain: io.StringIO
) -> None:
    @job("work", registry=registry)
    async def work(snooze: bool) -> None:
        if snooze:
            raise SnoozeJob(60)

    table.add(args={"snooze": True})
    table.add(args={"snooze": False})
    await make_worker().run_once()
    assert plain.getvalue() == ""


async def test_a_filter_that_raises_does_not_harm_the_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        raise ValueError("no luck")

    def harmful(record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter of the application")

    job_ids = [table.add(max_attempts=1) for _ in range(3)]
    logger = logging.getLogger(ATTEMPTS)
    logger.addFilter(harmful)
    try:
        assert await make_worker().run_once() == 3
    finally:
        logger.removeFilter(harmful)
    assert {table.get(job_id).state for job_id in job_ids} == {"discarded"}


async def test_an_error_whose_text_fails_or_is_huge_is_logged(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, plain: io.StringIO
) -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    @job("work", registry=registry)
    async def work() -> None:
        raise HostileError

    @job("long", registry=registry)
    async def long() -> None:
        raise ValueError("x" * 3_000_000)

    table.add(max_attempts=1)
    table.add("long", max_attempts=1)
    assert await make_worker().run_once() == 2
    assert "<its __str__ failed>" in plain.getvalue()
    assert len(plain.getvalue()) < 30_000
