"""A running job's handler writes its progress and other metadata into the job's row."""

from __future__ import annotations

import contextvars
import importlib
import math
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    DiscardJob,
    HandlerRegistry,
    Hooks,
    InvalidJobError,
    Job,
    LeaseLostError,
    NoCurrentJobError,
    Worker,
    current_job,
    fixed,
    job,
)
from roost._worker.database import Database
from roost._worker.handlers import job_metadata
from roost._worker.lanes.metadata import MetadataLane
from roost.exceptions import DatabaseUnavailableError

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

MODULE = """
import time
from pathlib import Path
from roost import Job, current_job

def work(path, job: Job):
    job.progress_nowait(1, total=2)
    current_job().update_metadata_nowait({"pid": 7})
    while not Path(path).exists():
        time.sleep(0.01)
    for n in range(1000):
        job.progress_nowait(n, message="é")
    try:
        Job(id=job.id + 1, task="other").progress_nowait(1)
    except LookupError as error:
        return str(error)
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Yield a module that is found through sys.path only."""
    name = f"roost_tasks_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(name)
    del sys.modules[name]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of how many jobs each write of metadata has changed."""
    seen: list[int] = []
    write = MetadataLane._write

    async def counted(self: MetadataLane, batch: Any) -> None:
        seen.append(len(batch))
        await write(self, batch)

    monkeypatch.setattr(MetadataLane, "_write", counted)
    return seen


def as_progress(value: float, total: float | None = None, message: str | None = None) -> Any:
    return {"value": value, "total": total, "message": message}


async def test_progress_is_seen_while_the_job_runs_and_after_its_end(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    seen: list[Any] = []

    @job("work", registry=registry)
    async def work(job: Job) -> None:
        assert isinstance(current_job(), Job)
        await current_job().progress(3, total=10, message="importing")
        seen.append((await client.get(job.id)).metadata)
        await job.update_metadata({"cursor": [1, "é"], "tenant": None})
        seen.append((await client.get(job.id)).metadata)
        await job.progress(10)

    job_id = table.add(metadata={"trace": "a1", "tenant": 7})
    await make_worker().run_once()
    first = {"trace": "a1", "tenant": 7, "progress": as_progress(3, 10, "importing")}
    assert seen == [first, first | {"cursor": [1, "é"], "tenant": None}]
    assert table.get(job_id).metadata == seen[1] | {"progress": as_progress(10)}


async def test_many_calls_are_few_writes_and_the_last_one_counts(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, writes: list[int]
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        for n in range(5_000):
            await current_job().progress(n)

    jobs = [table.add() for _ in range(4)]
    began = anyio.current_time()
    await make_worker().run_once()
    seconds = anyio.current_time() - began
    for job_id in jobs:
        assert table.get(job_id).metadata == {"progress": as_progress(4_999)}
    assert sum(writes) <= 4 * (3 + seconds / 0.25)


@pytest.mark.parametrize("error", [None, ValueError("no"), DiscardJob("no")])
async def test_the_last_progress_is_written_before_every_kind_of_verdict(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    error: Exception | None,
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        await current_job().progress(1)
        current_job().progress_nowait(2)
        if error is not None:
            raise error

    job_id = table.add()
    await make_worker().run_once()
    assert table.get(job_id).state != "executing"
    assert table.get(job_id).metadata == {"progress": as_progress(2)}


async def test_a_timeout_a_cancel_and_a_stop_keep_what_was_recorded(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    started = 0

    @job("work", registry=registry)
    async def work() -> None:
        nonlocal started
        await current_job().progress(1)
        current_job().progress_nowait(2)
        started += 1
        await anyio.sleep_forever()

    late, cancelled, released = table.add(timeout_seconds=1), table.add(), table.add()
    async with working(make_worker(shutdown_timeout=0, retry_strategy=fixed(99))):
        await eventually(lambda: started == 3)
        await client.cancel(cancelled)
        await eventually(lambda: table.get(cancelled).state == "cancelled")
        await eventually(lambda: table.get(late).state == "retryable")
    assert table.get(released).state == "available"
    for job_id in (late, cancelled, released):
        assert table.get(job_id).metadata == {"progress": as_progress(2)}


async def test_the_next_attempt_finds_what_the_last_one_has_written(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", retry_strategy=fixed(0), registry=registry)
    async def work() -> int:
        cursor: int = current_job().metadata.get("cursor", 0)
        await current_job().update_metadata({"cursor": cursor + 1})
        if cursor < 2:
            raise ValueError("again")
        return cursor

    job_id = table.add()
    async with working(make_worker(poll_interval=30)):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert (table.get(job_id).result, table.get(job_id).metadata) == (2, {"cursor": 3})


async def test_a_thread_reports_with_and_without_the_event_loop(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen: list[Any] = []

    @job("work", registry=registry)
    def work(job: Job) -> None:
        anyio.from_thread.run(job.progress, 3)
        seen.append(table.get(job.id).metadata)
        anyio.from_thread.run(job.update_metadata, {"a": 1})
        seen.append(table.get(job.id).metadata)
        current_job().progress_nowait(4, total=5)
        current_job().update_metadata_nowait({"b": 2})
        with pytest.raises(InvalidJobError):
            job.progress_nowait(math.nan)

    job_id = table.add()
    await make_worker().run_once()
    assert table.get(job_id).state == "completed"
    assert seen == [{"progress": as_progress(3)}, {"progress": as_progress(3), "a": 1}]
    assert table.get(job_id).metadata == {"progress": as_progress(4, 5), "a": 1, "b": 2}


async def test_a_process_reports_through_its_worker(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    tasks: Any,
    tmp_path: Path,
    writes: list[int],
) -> None:
    registry.register("work", tasks.work, run_in="process")
    go_on = tmp_path / "go on"
    job_id = table.add(args={"path": str(go_on)}, metadata={"trace": 1})
    async with working(make_worker()):
        await eventually(lambda: "pid" in table.get(job_id).metadata)
        early = table.get(job_id).metadata
        go_on.touch()
        await eventually(lambda: table.get(job_id).state == "completed")
    assert early == {"trace": 1, "pid": 7, "progress": as_progress(1, 2)}
    assert table.get(job_id).metadata == early | {"progress": as_progress(999, None, "é")}
    assert "is not the one that runs in this process" in str(table.get(job_id).result)
    assert len(writes) < 100


async def test_hooks_may_report_too(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    async def before(job: Job, *, ctx: dict[str, Any]) -> None:
        await job.update_metadata({"before": 1})

    async def after(job: Job, **_: Any) -> None:
        await job.update_metadata({"after": 2})

    @job("work", registry=registry)
    async def work() -> None: ...

    job_id = table.add()
    await make_worker(hooks=Hooks(before_job=before, after_job=after)).run_once()
    assert table.get(job_id).metadata == {"before": 1, "after": 2}


# Refusals


async def test_values_that_can_not_be_stored_are_refused_and_change_nothing(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    refused: list[str] = []

    @job("work", registry=registry)
    async def work() -> None:
        running = current_job()
        calls: list[Callable[[], Any]] = [
            lambda: running.progress("half"),  # type: ignore[arg-type]  # the mistake under test
            lambda: running.progress(math.inf),
            lambda: running.progress(True, total="all"),  # type: ignore[arg-type]  # as above
            lambda: running.progress(1, message="a\0"),
            lambda: running.progress(1, message=b"a"),  # type: ignore[arg-type]  # as above
            lambda: running.update_metadata({"a": math.nan}),
            lambda: running.update_metadata({1: 2}),  # type: ignore[dict-item]  # as above
            lambda: running.update_metadata([1]),  # type: ignore[arg-type]  # as above
            lambda: running.update_metadata({"a": "x" * 2_000}),
        ]
        for call in calls:
            with pytest.raises(InvalidJobError) as caught:
                await call()
            refused.append(str(caught.value))
        await running.update_metadata({"a": "x" * 800})
        await running.update_metadata({"a": "y" * 800})

    registry.max_args_bytes = 1_000
    job_id = table.add(metadata={"trace": "z" * 50})
    await make_worker().run_once()
    assert table.get(job_id).state == "completed"
    assert table.get(job_id).metadata == {"trace": "z" * 50, "a": "y" * 800}
    assert len(refused) == 9
    assert "max_args_bytes" in refused[-1]


async def test_only_the_running_job_can_be_changed(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        with pytest.raises(NoCurrentJobError, match="is not the one that runs here"):
            await (await client.get(other)).progress(1)

    other = table.add("other")
    job_id = table.add()
    await make_worker().run_once()
    assert table.get(job_id).state == "completed"
    with pytest.raises(NoCurrentJobError, match="does not run here"):
        await (await client.get(job_id)).update_metadata({"a": 1})
    assert table.get(other).metadata == {}


async def test_a_lost_lease_is_an_error_and_the_row_is_not_changed(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    errors: list[BaseException] = []

    @job("work", registry=registry)
    async def work() -> None:
        running = current_job()
        await running.progress(1)
        table.change(running.id, "lease_no = lease_no + 1, metadata = '{\"theirs\": 1}'")
        for _ in range(2):
            with pytest.raises(LeaseLostError) as caught:
                await running.update_metadata({"mine": 1})
            errors.append(caught.value)
        with pytest.raises(LeaseLostError):
            running.progress_nowait(2)

    job_id = table.add()
    async with working(make_worker()):
        await eventually(lambda: len(errors) == 2)
    assert table.get(job_id).metadata == {"theirs": 1}


async def test_a_thread_that_outlives_its_attempt_changes_nothing(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    ended = threading.Event()
    caught: list[BaseException] = []

    @job("work", registry=registry)
    async def work() -> None:
        running = current_job()

        def later() -> None:
            ended.wait(20)
            try:
                running.progress_nowait(2)
            except BaseException as error:
                caught.append(error)

        running.progress_nowait(1)
        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(later,)))
        threads[-1].start()

    threads: list[threading.Thread] = []
    job_id = table.add()
    async with working(make_worker()):
        await eventually(lambda: table.get(job_id).state == "completed")
        ended.set()
        await anyio.to_thread.run_sync(threads[0].join)
    assert [type(error) for error in caught] == [LeaseLostError]
    assert table.get(job_id).metadata == {"progress": as_progress(1)}


# Locks, cancels and a database that is away


async def test_a_locked_row_delays_only_its_own_metadata(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, other: JobTable
) -> None:
    go_on = anyio.Event()
    ready = 0

    @job("work", registry=registry)
    async def work(n: int) -> None:
        nonlocal ready
        ready += 1
        await go_on.wait()
        with anyio.fail_after(5):
            await current_job().progress(n)
        if n == 1:
            await current_job().update_metadata({"n": n})
            unlock.set()

    unlock = anyio.Event()
    locked, free = table.add(args={"n": 0}), table.add(args={"n": 1})
    async with working(make_worker()):
        await eventually(lambda: ready == 2)
        with other.connection.transaction():
            other.rows("select from roost.jobs where id = $1::bigint for share", locked)
            go_on.set()
            await unlock.wait()
            assert table.get(free).metadata == {"progress": as_progress(1), "n": 1}
            assert table.get(locked).metadata == {}
        await eventually(lambda: table.states() == {"completed": 2})
    assert table.get(locked).metadata == {"progress": as_progress(0)}


async def test_a_cancelled_call_leaves_the_row_as_it_was_or_changed_whole(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen: list[Any] = []

    @job("work", registry=registry)
    async def work() -> None:
        for n in range(40):
            with anyio.move_on_after(n / 5_000):
                await current_job().update_metadata({"a": n, "b": n})
            row = table.get(current_job().id).metadata
            seen.append((row.get("a"), row.get("b")))

    job_id = table.add()
    await make_worker().run_once()
    assert table.get(job_id).state == "completed"
    assert len(seen) == 40
    assert all(a == b for a, b in seen)
    assert table.get(job_id).metadata == {"a": 39, "b": 39}


async def test_a_database_that_does_not_answer_delays_no_progress_and_fails_no_job(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_metadata, "LAST_WRITE_TIMEOUT", 0.2)
    monkeypatch.setattr(job_metadata, "WRITE_TIMEOUT", 0.2)
    call = Database.call_for_maintenance
    away = True

    async def may_be_away(self: Database, operation: Any, **options: Any) -> Any:
        if away and operation.__name__ == "update_metadata":
            raise DatabaseUnavailableError("away")
        return await call(self, operation, **options)

    monkeypatch.setattr(Database, "call_for_maintenance", may_be_away)

    @job("work", registry=registry)
    async def work() -> None:
        with anyio.fail_after(60):  # if each call waited, a thousand seconds
            for n in range(1_000):
                await current_job().progress(n)
        with pytest.raises(DatabaseUnavailableError, match="not written after"):
            await current_job().update_metadata({"a": 1})

    @job("later", registry=registry)
    async def later() -> None:
        nonlocal away
        current_job().progress_nowait(1)
        await eventually(lambda: table.get(first).state == "completed")
        away = False
        await current_job().update_metadata({"b": 2})

    first, second = table.add(), table.add("later")
    async with working(make_worker()):
        await eventually(lambda: table.get(second).state == "completed")
    assert table.get(first).metadata == {}
    assert table.get(second).metadata == {"progress": as_progress(1), "b": 2}
