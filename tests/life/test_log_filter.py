"""Records that are made while a job runs name the job, wherever they are made."""

from __future__ import annotations

import io
import logging
import logging.config
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context

import anyio
import anyio.to_thread
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Hooks, JobLogFilter, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
library = logging.getLogger("a.library")


class Keeping(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def jobs(self, logger: str = "a.library") -> dict[str, object]:
        """Return the fields of the job of each record, by its message."""
        return {
            record.getMessage(): tuple(
                getattr(record, name, None) for name in ("job_id", "task", "queue", "attempt")
            )
            for record in self.records
            if record.name == logger
        }


@pytest.fixture
def kept() -> Iterator[Keeping]:
    handler = Keeping()
    handler.addFilter(JobLogFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


async def test_records_of_coroutines_threads_and_hooks_name_their_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, kept: Keeping
) -> None:
    async def child() -> None:
        library.warning("from a child task")

    @job("loop", registry=registry)
    async def loop() -> None:
        library.warning("from the loop")
        await anyio.to_thread.run_sync(library.warning, "from its thread")
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    @job("thread", registry=registry)
    def thread() -> None:
        library.warning("from a thread")
        one = threading.Thread(target=copy_context().run, args=(library.warning, "from its own"))
        one.start()
        one.join()

    async def before_job(job: object, *, ctx: object) -> None:
        library.warning("from a hook")

    ids = [table.add("loop", queue="mail"), table.add("thread", queue="mail")]
    library.warning("outside")
    worker = make_worker(queues=["mail"], hooks=Hooks(before_job=before_job), concurrency=1)
    assert await worker.run_once() == 2
    library.warning("after")

    in_loop, in_thread = (ids[0], "loop", "mail", 1), (ids[1], "thread", "mail", 1)
    assert kept.jobs() == {
        "outside": (None, None, None, None),
        "from a hook": in_thread,
        "from the loop": in_loop,
        "from its thread": in_loop,
        "from a child task": in_loop,
        "from a thread": in_thread,
        "from its own": in_thread,
        "after": (None, None, None, None),
    }


@pytest.mark.parametrize(("options", "shown"), [({}, "None"), ({"missing": "-"}, "-")])
async def test_a_format_may_name_the_fields_outside_of_jobs(
    options: dict[str, str],
    shown: str,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("logs", registry=registry)
    async def logs() -> None:
        library.warning("inside")
        library.warning("about another job", extra={"job_id": -1})

    written = io.StringIO()
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "incremental": False,
        "formatters": {
            "lines": {"format": "%(message)s %(job_id)s %(task)s %(queue)s %(attempt)s"}
        },
        "filters": {"job": {"()": "roost.JobLogFilter", **options}},
        "handlers": {
            "written": {
                "class": "logging.StreamHandler",
                "stream": written,
                "formatter": "lines",
                "filters": ["job"],
            }
        },
        "loggers": {"a.library": {"handlers": ["written"]}},
    }
    job_id = table.add("logs")
    try:
        logging.config.dictConfig(config)
        library.warning("before")
        await make_worker().run_once()
        library.warning("about a job", extra={"job_id": 5})
    finally:
        library.handlers.clear()
    assert written.getvalue().splitlines() == [
        f"before {shown} {shown} {shown} {shown}",
        f"inside {job_id} logs default 1",
        f"about another job -1 {shown} {shown} {shown}",
        f"about a job 5 {shown} {shown} {shown}",
    ]


async def test_each_of_several_jobs_at_once_is_named(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, kept: Keeping
) -> None:
    gate = anyio.Event()

    @job("waits", registry=registry)
    async def waits(number: int) -> None:
        library.warning("before %d", number)
        await gate.wait()
        library.warning("after %d", number)

    ids = [table.add("waits", args={"number": number}) for number in range(3)]
    async with working(make_worker(concurrency=3)):
        await eventually(lambda: len(kept.jobs()) == 3)
        gate.set()
        await eventually(lambda: table.states() == {"completed": 3})
    for number, job_id in enumerate(ids):
        for when in ("before", "after"):
            assert kept.jobs()[f"{when} {number}"] == (job_id, "waits", "default", 1)


async def test_the_line_about_a_failed_attempt_has_the_fields(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, kept: Keeping
) -> None:
    @job("fails", registry=registry)
    async def fails() -> None:
        raise ValueError

    job_id = table.add("fails", max_attempts=1)
    await make_worker().run_once()
    [fields] = kept.jobs("roost.worker.attempts").values()
    assert fields == (job_id, "fails", "default", 1)


async def test_fields_of_the_record_are_kept(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, kept: Keeping
) -> None:
    @job("logs", registry=registry)
    async def logs() -> None:
        library.warning("about its own queue", extra={"queue": "a queue of the application"})
        library.warning("about another job", extra={"job_id": -1})

    job_id = table.add("logs")
    await make_worker().run_once()
    assert kept.jobs() == {
        "about its own queue": (job_id, "logs", "a queue of the application", 1),
        "about another job": (-1, None, None, None),
    }
