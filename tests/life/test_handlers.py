"""Kinds of handlers, their access to the running job, and how they are stopped."""

from __future__ import annotations

import decimal
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from pydantic import BaseModel, ConfigDict, Field
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    HandlerRegistry,
    InvalidJobError,
    InvalidSettingError,
    Job,
    JobInsert,
    NoCurrentJobError,
    Roost,
    Worker,
    current_job,
    job,
)

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

MODULE = """
import contextvars, decimal, os, time
from pathlib import Path
from uuid import UUID
from roost import Job, SnoozeJob, current_job

def where():
    return os.getpid()

def about(number, job: Job):
    return [type(number).__name__, str(number), job.id, current_job().id, job.attempt]

def fail():
    raise KeyError("lost \\0 it")

def leave():
    raise SystemExit(4)

def snooze():
    raise SnoozeJob(500)

def nothing():
    return None

def odd():
    return {1, 2}

tenant = contextvars.ContextVar("tenant", default="none")

def look_and_set():
    found = [tenant.get(), decimal.getcontext().prec]
    tenant.set("mine")
    decimal.getcontext().prec = 3
    return found

async def later():
    return 1

def coroutine():
    return later()

def die():
    os._exit(9)

def sleep(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)  # sleeps: until it is killed
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Yield a module that is found through sys.path only."""
    name = f"roost_tasks_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(name)
    del sys.modules[name]


def gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rsplit(")", 1)[1].split()[0] == "Z"


def outcome(table: JobTable, job_id: int) -> tuple[str, Any]:
    found = table.get(job_id)
    return found.state, found.result


class Number(BaseModel):
    number: UUID


async def test_in_a_process_no_job_sees_context_variables_of_the_one_before(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any
) -> None:
    job("work", run_in="process", registry=registry)(tasks.look_and_set)
    jobs = [table.add() for _ in range(4)]
    await make_worker(concurrency=1).run_once()
    digits = decimal.DefaultContext.prec
    assert [table.get(job_id).result for job_id in jobs] == [["none", digits]] * 4


async def test_a_coroutine_from_a_process_is_a_failure(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any
) -> None:
    job("work", run_in="process", registry=registry)(tasks.coroutine)
    job_id = table.add(max_attempts=1)
    await make_worker().run_once()
    assert table.get(job_id).state == "discarded"
    assert "can't be awaited in another process" in table.get(job_id).errors[0]["error"]


async def test_a_handler_runs_in_a_process_and_answers(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any
) -> None:
    job("where", run_in="process", registry=registry)(tasks.where)
    job("about", run_in="process", args_model=Number, registry=registry)(tasks.about)
    job("nothing", run_in="process", registry=registry)(tasks.nothing)
    job("odd", run_in="process", registry=registry)(tasks.odd)
    number = uuid4()
    where, about = table.add("where"), table.add("about", args={"number": str(number)})
    nothing, odd = table.add("nothing"), table.add("odd")
    assert await make_worker(concurrency=2).run_once() == 4
    state, pid = outcome(table, where)
    assert state == "completed"
    assert pid != os.getpid()
    assert outcome(table, about) == ("completed", ["UUID", str(number), about, about, 1])
    assert outcome(table, nothing) == ("completed", None)
    assert outcome(table, odd)[0] == "completed"


async def test_a_failure_in_a_process_comes_with_its_own_traceback(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any
) -> None:
    for name in ("fail", "leave", "snooze"):
        job(name, run_in="process", registry=registry)(getattr(tasks, name))
    failed, left = table.add("fail", max_attempts=1), table.add("leave", max_attempts=1)
    snoozed = table.add("snooze")
    await make_worker(concurrency=1).run_once()
    [record] = table.get(failed).errors
    assert record["error"].startswith("KeyError: 'lost")
    assert tasks.__name__ in record["trace"]
    assert 'raise KeyError("lost' in record["trace"]
    assert table.get(left).state == "discarded"
    assert table.get(left).errors[0]["error"] == "SystemExit: 4"
    again = table.get(snoozed)
    assert (again.state, again.attempt, again.errors) == ("available", 0, [])
    assert (again.scheduled_at - datetime.now(UTC)).total_seconds() > 400


async def test_a_process_that_dies_fails_only_its_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any
) -> None:
    job("die", run_in="process", registry=registry)(tasks.die)
    job("where", run_in="process", registry=registry)(tasks.where)
    dead, after = table.add("die", max_attempts=1), table.add("where")
    await make_worker(concurrency=1).run_once()
    assert table.get(dead).state == "discarded"
    assert table.get(dead).errors[0]["error"]
    assert table.get(after).state == "completed"


async def test_a_timeout_ends_the_process(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any, tmp_path: Path
) -> None:
    job("sleep", run_in="process", registry=registry)(tasks.sleep)
    job("where", run_in="process", registry=registry)(tasks.where)
    path = tmp_path / "pid"
    table.add(
        "where", priority=-1
    )  # starts the process, whose start would count against the timeout
    job_id = table.add("sleep", args={"path": str(path)}, timeout_seconds=1, max_attempts=1)
    began = anyio.current_time()
    await make_worker(concurrency=1).run_once()
    assert anyio.current_time() - began < 20
    assert "timed out after 1 s" in table.get(job_id).errors[0]["error"]
    await eventually(lambda: gone(int(path.read_text())))


async def test_a_cancel_ends_the_process(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    client: AsyncRoost,
    tasks: Any,
    tmp_path: Path,
) -> None:
    job("sleep", run_in="process", registry=registry)(tasks.sleep)
    path = tmp_path / "pid"
    job_id = table.add("sleep", args={"path": str(path)})
    async with working(make_worker()):
        await eventually(lambda: path.exists() and path.read_text() != "")
        began = anyio.current_time()
        assert await client.cancel(job_id) is True
        await eventually(lambda: table.get(job_id).state == "cancelled")
        assert anyio.current_time() - began < 10
    await eventually(lambda: gone(int(path.read_text())))


async def test_a_function_that_a_process_can_not_import_is_refused_at_once(
    registry: HandlerRegistry,
) -> None:
    def local() -> None: ...

    async def asynchronous() -> None: ...

    class Tool:
        def __call__(self) -> None: ...

    for func in (local, lambda: None, asynchronous, Tool()):
        with pytest.raises(InvalidSettingError, match="process"):
            job("x", run_in="process", registry=registry)(func)
    with pytest.raises(InvalidSettingError, match="run_in"):
        job("x", run_in="elsewhere", registry=registry)(local)  # type: ignore[arg-type]  # on purpose
    assert "x" not in registry


async def test_a_job_parameter_and_current_job_name_the_running_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("async", registry=registry)
    async def asynchronous(a: int, running: Job) -> list[int]:
        await anyio.lowlevel.checkpoint()
        inside = await anyio.to_thread.run_sync(lambda: current_job().id)
        return [a, running.id, current_job().id, inside]

    @job("thread", registry=registry)
    def thread(*, running: "Job", a: int) -> list[int]:  # noqa: UP037  (a string is found too)
        return [a, running.id, current_job().id]

    @job("typed", args_model=Number, registry=registry)
    async def typed(running: Job, number: UUID) -> list[Any]:
        return [running.id, type(number).__name__, running.args["number"] == str(number)]

    one, two = table.add("async", args={"a": 1}), table.add("thread", args={"a": 2})
    three = table.add("typed", args={"number": uuid4()})
    assert await make_worker().run_once() == 3
    assert outcome(table, one) == ("completed", [1, one, one, one])
    assert outcome(table, two) == ("completed", [2, two, two])
    assert outcome(table, three) == ("completed", [three, "UUID", True])
    with pytest.raises(NoCurrentJobError):
        current_job()


class Exact(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    number: UUID = Field(alias="Number")
    at: datetime
    pair: tuple[int, bytes]


async def test_a_model_arrives_unchanged_from_every_way_to_enqueue(
    dsn: str, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    sent = Exact.model_validate_json(
        '{"Number": "00000000-0000-0000-0000-000000000005", "at": "2026-03-01T12:00:00+05:30", '
        '"pair": [1, "text"], "more": [true]}'
    )
    got: list[Any] = []

    @job("exact", args_model=Exact, registry=registry)
    async def exact(
        number: UUID, at: datetime, pair: tuple[int, bytes], more: Any, job: Job | None = None
    ) -> None:
        assert job is not None
        got.append((number, at, pair, more))

    with Roost(dsn, registry=registry) as client:
        client.enqueue(exact, args=sent)
        client.enqueue_many([JobInsert("exact", sent)] * 2)
        with pytest.raises(InvalidJobError, match="extra fields"):
            client.enqueue(exact, args=sent.model_copy(update={"unknown": 1}))
    async with AsyncRoost(dsn, registry=registry) as client_too:
        await client_too.enqueue("exact", args=sent)
        await client_too.enqueue_all([JobInsert("exact", sent), JobInsert("exact", sent)])
    async with AsyncRoost(dsn, registry=HandlerRegistry()) as stranger:
        await stranger.enqueue("exact", args=sent)
    assert await make_worker().run_once() == 7
    assert got == [(sent.number, sent.at, sent.pair, [True])] * 7


async def test_the_running_job_is_shown_as_it_was_claimed(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    got: list[Job] = []

    @job("work", registry=registry)
    async def work(job: Job, **_: Any) -> None:
        got.append(job)
        if job.attempt == 1:
            raise ValueError("once")

    job_id = table.add(
        args={"x": 1}, tags=["t"], metadata={"m": 1}, unique_key="k", timeout_seconds=50, priority=2
    )
    worker = make_worker(retry_strategy=lambda _: 0.0)
    async with working(worker):
        await eventually(lambda: table.get(job_id).state == "completed")
    first, second = got
    assert (first.state, first.attempt, first.errors, first.result) == ("executing", 1, [], None)
    assert (second.attempt, second.errors[0]["error"]) == (2, "ValueError: once")
    row = table.get(job_id)
    for name in ("args", "tags", "metadata", "unique_key", "timeout_seconds", "priority", "queue"):
        assert getattr(first, name) == getattr(row, name)
    assert second.attempted_at == row.attempted_at


async def test_a_sync_handler_can_check_for_its_cancel_and_return(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    started = threading.Event()

    @job("work", registry=registry)
    def work() -> None:
        started.set()
        while True:
            anyio.from_thread.check_cancelled()
            time.sleep(0.005)

    job_id = table.add()
    async with working(make_worker()):
        await eventually(started.is_set)
        began = anyio.current_time()
        await client.cancel(job_id)
        await eventually(lambda: table.get(job_id).state == "cancelled")
        assert anyio.current_time() - began < 5
    assert table.get(job_id).errors == []


async def test_a_cancelled_thread_keeps_its_slot_and_lease_until_it_ends(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    started, go_on = threading.Event(), threading.Event()
    others = []

    @job("stuck", registry=registry)
    def stuck() -> None:
        started.set()
        go_on.wait(20)

    @job("other", registry=registry)
    async def other() -> None:
        others.append(table.get(stuck_id).state)

    stuck_id = table.add("stuck")
    async with working(make_worker(concurrency=1, poll_interval=0.05)):
        await eventually(started.is_set)
        await client.cancel(stuck_id)
        table.add("other")
        await anyio.sleep(0.3)  # sleeps: a free slot would be used in this time
        assert others == []
        assert table.get(stuck_id).state == "executing"
        go_on.set()
        await eventually(lambda: len(others) == 1)
        await eventually(lambda: table.get(stuck_id).state == "cancelled")


async def test_a_timed_out_sync_job_is_never_in_two_threads(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    inside, peak, runs = 0, 0, 0
    lock = threading.Lock()

    @job("work", registry=registry)
    def work() -> None:
        nonlocal inside, peak, runs
        with lock:
            inside, runs = inside + 1, runs + 1
            peak = max(peak, inside)
        time.sleep(1.3)  # sleeps: longer than the timeout
        with lock:
            inside -= 1

    job_id = table.add(timeout_seconds=1, max_attempts=2)
    workers = [make_worker(retry_strategy=lambda _: 0.0, poll_interval=0.02) for _ in range(2)]
    async with working(*workers):
        await eventually(lambda: table.get(job_id).state == "discarded")
    assert (peak, runs) == (1, 2)
    assert ["timed out" in record["error"] for record in table.get(job_id).errors] == [True, True]
