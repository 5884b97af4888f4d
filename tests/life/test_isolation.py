"""Context variables that a job sets are its own: every job starts in the worker's context."""

from __future__ import annotations

import decimal
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Hooks, Job, JobInsert, Worker, current_job, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

tenant: ContextVar[str] = ContextVar("tenant")
JOBS = 60


@pytest.fixture(autouse=True)
def tenant_of_the_worker() -> Iterator[None]:
    token = tenant.set("the worker's")
    yield
    tenant.reset(token)


class Seen:
    """The values that jobs found at their start; each job sets others."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def look_and_set(self, value: object) -> None:
        self.values.append(tenant.get())
        tenant.set(str(value))


def handlers(registry: HandlerRegistry, seen: Seen) -> list[str]:
    @job("async", registry=registry)
    async def asynchronous(n: int) -> None:
        seen.look_and_set(n)
        await anyio.lowlevel.checkpoint()
        assert current_job().args == {"n": n}
        assert tenant.get() == str(n)

    @job("at once", registry=registry)
    async def at_once(n: int) -> None:
        seen.look_and_set(n)

    @job("thread", registry=registry)
    def thread(n: int) -> None:
        seen.look_and_set(n)
        assert current_job().args == {"n": n}
        anyio.from_thread.run_sync(tenant.set, "from the thread")

    @job("generator", registry=registry)
    async def generator(n: int) -> None:
        async def numbers() -> AsyncIterator[int]:
            seen.look_and_set(n)
            for number in range(3):
                yield number

        async for _ in numbers():
            assert tenant.get() == str(n)

    return list(registry)


@pytest.mark.parametrize("concurrency", [1, 10])
@pytest.mark.parametrize("run", ["run", "run_once"])
async def test_no_job_sees_context_variables_of_another(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    concurrency: int,
    run: str,
) -> None:
    seen = Seen()
    tasks = handlers(registry, seen)
    table.add_all([JobInsert(tasks[n % len(tasks)], args={"n": n}) for n in range(JOBS)])
    worker = make_worker(concurrency=concurrency)
    if run == "run_once":
        await worker.run_once()
    else:
        async with working(worker):
            await eventually(lambda: table.states() == {"completed": JOBS}, within=20)
    assert table.states() == {"completed": JOBS}
    assert seen.values == ["the worker's"] * JOBS
    assert tenant.get() == "the worker's"


async def test_a_dispatched_job_starts_in_the_workers_context(
    table: JobTable, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen = Seen()
    handlers(registry, seen)
    async with working(make_worker()):
        for n in range(5):
            await client.enqueue("at once", args={"n": n})
        await eventually(lambda: table.states() == {"completed": 5})
    assert seen.values == ["the worker's"] * 5


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_only_a_hooks_job_sees_the_context_variables_that_it_sets(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, kind: str
) -> None:
    seen = Seen()
    in_handler: list[str] = []

    async def before(job: Job, *, ctx: dict[str, Any]) -> None:
        seen.look_and_set(job.id)

    async def after(job: Job, **_: Any) -> None:
        tenant.set("after")

    def plain_before(job: Job, *, ctx: dict[str, Any]) -> None:
        seen.look_and_set(job.id)

    def plain_after(job: Job, **_: Any) -> None:
        tenant.set("after")

    @job("work", registry=registry)
    async def work(job: Job) -> None:
        in_handler.append(tenant.get())
        assert tenant.get() == (str(job.id) if kind == "async" else "the worker's")

    table.add_all([JobInsert("work", max_attempts=1)] * 20)
    hooks = Hooks(before, after) if kind == "async" else Hooks(plain_before, plain_after)  # type: ignore[arg-type]  # plain ones are taken, too
    await make_worker(hooks=hooks, concurrency=3).run_once()
    assert table.states() == {"completed": 20}
    assert seen.values == ["the worker's"] * 20
    assert len(in_handler) == 20


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_each_job_has_a_decimal_context_of_its_own(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    used_before: bool,
    kind: str,
) -> None:
    @job("async", registry=registry)
    async def asynchronous() -> list[Any]:
        return divide_and_change()

    @job("thread", registry=registry)
    def thread() -> list[Any]:
        return divide_and_change()

    def divide_and_change() -> list[Any]:
        context = decimal.getcontext()
        found = [context.prec, str(Decimal(1) / Decimal(3))]
        context.prec = 3
        return found

    with decimal.localcontext() as of_the_worker:
        if used_before:
            of_the_worker.prec = 7
        ids = table.add_all([JobInsert(kind)] * 10)
        await make_worker(concurrency=2).run_once()
        assert of_the_worker.prec == (7 if used_before else decimal.DefaultContext.prec)
    digits = 7 if used_before else decimal.DefaultContext.prec
    assert [table.get(job_id).result for job_id in ids] == [[digits, "0." + "3" * digits]] * 10
