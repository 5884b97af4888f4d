"""A worker's lifespan: what it makes for handlers, when it starts and ends, and how it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from tests.support.job_table import JobTable

from roost import (
    HandlerRegistry,
    InvalidSettingError,
    Job,
    NoCurrentJobError,
    State,
    Worker,
    WorkerCrashedError,
    call,
    current_state,
    job,
)

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@dataclass
class Resources(State):
    name: str


@dataclass
class Others(State):
    name: str


@pytest.fixture
def echo(registry: HandlerRegistry, table: JobTable) -> int:
    """Add a job that returns the state's name in each way in which a handler can reach it."""

    @job("echo", registry=registry)
    async def echo(state: State, number: int) -> list[object]:
        inside: str = await anyio.to_thread.run_sync(lambda: current_state().name)
        return [number, state.name, current_state().name, inside]

    return table.add("echo", args={"number": 1})


def yields(values: object, events: list[str] | None = None) -> Callable[..., Any]:
    """Return a lifespan that yields ``values`` and records its start and its end."""
    seen: list[str] = [] if events is None else events

    @asynccontextmanager
    async def lifespan(worker: Worker) -> AsyncIterator[object]:
        assert isinstance(worker, Worker)
        seen.append("started")
        try:
            await anyio.lowlevel.checkpoint()
            yield values
        finally:
            await anyio.lowlevel.checkpoint()
            seen.append("ended")

    return lifespan


@pytest.mark.parametrize("values", [{"name": "x"}, State(name="x"), Resources("x")])
async def test_handlers_get_what_the_lifespan_yields(
    values: object, echo: int, table: JobTable, make_worker: MakeWorker
) -> None:
    assert await make_worker(lifespan=yields(values)).run_once() == 1
    assert table.get(echo).result == [1, "x", "x", "x"]


async def test_a_handler_in_a_thread_gets_typed_state(
    registry: HandlerRegistry, table: JobTable, make_worker: MakeWorker
) -> None:
    @job("thread", registry=registry)
    def thread(resources: Resources, job: Job | None = None) -> list[object]:
        assert job is not None
        return [resources.name, current_state(Resources).name, job.id]

    job_id = table.add("thread")
    assert await make_worker(lifespan=yields(Resources("y"))).run_once() == 1
    assert table.get(job_id).result == ["y", "y", job_id]


async def test_the_lifespan_is_around_all_jobs(
    registry: HandlerRegistry, table: JobTable, make_worker: MakeWorker
) -> None:
    events: list[str] = []

    @job("slow", registry=registry)
    async def slow() -> None:
        events.append("job began")
        worker.request_stop()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        events.append("job ended")

    async def on_startup(worker: Worker) -> None:
        events.append("startup")
        worker.state.name = "set"

    def on_shutdown() -> None:
        events.append(f"shutdown {worker.state.name}")

    table.add("slow")
    worker = make_worker(
        lifespan=yields(None, events), on_startup=on_startup, on_shutdown=on_shutdown
    )
    await worker.run()
    assert events == [
        "started", "startup", "job began", "job ended", "shutdown set", "ended",
    ]  # fmt: skip
    assert not hasattr(worker.state, "name"), "what one run made is gone with it"


async def test_what_is_set_before_a_run_is_there_in_each(
    echo: int, table: JobTable, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker.state.name = "before"
    await worker.run_once()
    assert table.get(echo).result == [1, "before", "before", "before"]


async def test_a_lifespan_that_fails_at_start_ends_the_worker_before_a_job(
    echo: int, table: JobTable, make_worker: MakeWorker
) -> None:
    def on_startup() -> None:
        raise RuntimeError("no such host")

    events: list[str] = []
    with pytest.raises(RuntimeError, match="no such host"):
        await make_worker(lifespan=yields(None, events), on_startup=on_startup).run()
    assert events == ["started", "ended"]
    assert table.get(echo).state == "available"


async def test_an_error_of_a_task_of_the_lifespan_stops_the_worker_in_order(
    registry: HandlerRegistry, table: JobTable, make_worker: MakeWorker
) -> None:
    fail = anyio.Event()

    async def background() -> None:
        await fail.wait()
        raise RuntimeError("background")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(background)
            yield

    @job("finishes", registry=registry)
    async def finishes() -> str:
        fail.set()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        return "done"

    job_id = table.add("finishes")
    with pytest.raises(RuntimeError, match="background"):
        await make_worker(lifespan=lifespan).run()
    row = table.get(job_id)
    assert (row.state, row.result) == ("completed", "done")


async def test_a_lifespan_that_ends_by_itself_stops_the_worker(make_worker: MakeWorker) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.cancel_scope.cancel()
            yield

    with pytest.raises(WorkerCrashedError, match="lifespan ended"):
        await make_worker(lifespan=lifespan).run()


async def test_a_stop_cancels_a_lifespan_that_has_not_started(make_worker: MakeWorker) -> None:
    cancelled: list[bool] = []

    @asynccontextmanager
    async def lifespan(worker: Worker) -> AsyncIterator[None]:
        worker.request_stop()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)
        yield

    with anyio.fail_after(30):
        await make_worker(lifespan=lifespan).run()
    assert cancelled == [True]


@pytest.mark.timing
async def test_a_lifespan_that_does_not_end_is_cancelled(
    make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_shutdown() -> None:
        await anyio.sleep_forever()

    worker = make_worker(
        shutdown_timeout=0,
        on_startup=lambda worker: worker.request_stop(),
        on_shutdown=on_shutdown,
    )
    with anyio.fail_after(30):
        await worker.run()
    assert "lifespan does not end" in caplog.text


async def test_an_error_at_the_end_of_the_lifespan_is_raised(make_worker: MakeWorker) -> None:
    def on_shutdown() -> None:
        raise RuntimeError("can't close")

    worker = make_worker(on_startup=lambda worker: worker.request_stop(), on_shutdown=on_shutdown)
    with pytest.raises(RuntimeError, match="can't close"):
        await worker.run()


async def test_a_state_of_another_class_is_refused(
    registry: HandlerRegistry, table: JobTable, make_worker: MakeWorker
) -> None:
    @job("needs", registry=registry)
    async def needs(state: Others) -> str:
        return state.name

    @job("accepts", registry=registry)
    async def accepts(others: Others | None = None) -> bool:
        return others is None

    needing, accepting = table.add("needs", max_attempts=1), table.add("accepts")
    await make_worker(lifespan=yields(Resources("x"))).run_once()
    [error] = table.get(needing).errors
    assert error["error"] == (
        "InvalidSettingError: the worker's state is a Resources, not a Others: let its lifespan "
        "yield a Others"
    )
    assert table.get(accepting).result is True


async def test_a_result_of_on_startup_means_nothing(
    echo: int, table: JobTable, make_worker: MakeWorker
) -> None:
    def begin(worker: Worker) -> int:
        worker.state.name = "x"
        return 5

    await make_worker(on_startup=begin).run_once()
    assert table.get(echo).state == "completed"


async def test_missing_state_says_what_to_do(
    echo: int, registry: HandlerRegistry, table: JobTable, make_worker: MakeWorker
) -> None:
    @job("typed", registry=registry)
    async def typed() -> None:
        current_state(Resources)

    job_id = table.add("typed")
    await make_worker().run_once()
    assert "the worker's state has no 'name'" in table.get(echo).errors[0]["error"]
    assert "let its lifespan yield a Resources" in table.get(job_id).errors[0]["error"]
    with pytest.raises(NoCurrentJobError):
        current_state()


async def test_what_a_lifespan_may_not_be_is_refused(make_worker: MakeWorker) -> None:
    async def generator() -> AsyncIterator[None]:
        yield

    def two(worker: Worker, more: int) -> None: ...

    refused: list[tuple[Mapping[str, object], str]] = [
        ({"lifespan": generator}, "asynccontextmanager"),
        ({"lifespan": two}, "without arguments"),
        ({"on_startup": two}, "without arguments"),
        ({"on_shutdown": "close"}, "must be a function"),
    ]
    for settings, message in refused:
        with pytest.raises(InvalidSettingError, match=message):
            make_worker(**settings)
    for settings, message in [
        ({"lifespan": lambda: 1}, "async context manager"),
        ({"lifespan": yields(1)}, "dict"),
    ]:
        with pytest.raises(InvalidSettingError, match=message):
            await make_worker(**settings).run()


def module_level(state: State) -> None: ...


def test_a_task_in_a_process_gets_no_state(registry: HandlerRegistry) -> None:
    with pytest.raises(InvalidSettingError, match="state"):
        job("process", run_in="process", registry=registry)(module_level)


def test_a_call_leaves_the_state_out() -> None:
    async def send(job: Job, resources: Resources, user_id: int) -> None: ...

    async def plain(state: State, user_id: int) -> None: ...

    assert call(send, 1).args == {"user_id": 1}
    assert call(plain, user_id=2).args == {"user_id": 2}


def test_a_worker_is_replaced_with_other_settings(registry: HandlerRegistry) -> None:
    worker = Worker("postgresql://h/a", registry=registry, concurrency=7, on_startup=asyncio.Event)
    other = worker.replace(prefetch=3)
    assert (other.dsn, other.registry) == ("postgresql://h/a", registry)
    assert (other.settings.concurrency, other.settings.prefetch) == (7, 3)
    assert other.settings.on_startup is asyncio.Event
    assert worker.replace(dsn="postgresql://h/b").dsn == "postgresql://h/b"
    with pytest.raises(InvalidSettingError, match="concurrency"):
        worker.replace(concurrency=0)
    worker.state.name = "kept"
    other = worker.replace()
    assert other.state.name == "kept"
    other.state.name = "changed"
    assert worker.state.name == "kept"
