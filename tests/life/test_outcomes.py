"""How an attempt's ending is stored: retries, snoozes, defaults, error records, the archive."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    BackoffStrategy,
    HandlerRegistry,
    JobInsert,
    JobNotFoundError,
    SnoozeJob,
    Worker,
    exponential,
    fixed,
    job,
    linear,
)

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


def seconds_until(moment: datetime) -> float:
    return (moment - datetime.now(UTC)).total_seconds()


def raising(attempt: int) -> float:
    raise ZeroDivisionError


def leaving(attempt: int) -> float:
    raise SystemExit(2)


DEFAULT = (1.5, 2.1)
STRATEGIES: dict[str, tuple[BackoffStrategy, tuple[float, float]]] = {
    "exponential": (exponential(100, jitter=False), (99, 100)),
    "jittered": (exponential(100, cap=50), (44, 50)),
    "overflow": (lambda _: exponential(1e300)(5_000), (77_000, 86_400)),
    "linear": (linear(30, jitter=False), (29, 30)),
    "fixed": (fixed(7), (6, 7)),
    "century": (lambda _: 1e300, (3e9, 3.3e9)),
    "text": (lambda _: "soon", DEFAULT),  # type: ignore[dict-item]  # on purpose
    "nothing": (lambda _: None, DEFAULT),  # type: ignore[dict-item]  # on purpose
    "infinite": (lambda _: math.inf, DEFAULT),
    "nan": (lambda _: math.nan, DEFAULT),
    "negative": (lambda _: -1.0, DEFAULT),
    "raising": (raising, DEFAULT),
    "leaving": (leaving, DEFAULT),
}


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_retry_delay_is_bounded_for_every_answer_of_the_strategy(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, name: str
) -> None:
    strategy, (least, most) = STRATEGIES[name]

    @job("work", registry=registry)
    async def work() -> None:
        raise ValueError("no")

    job_id = table.add()
    await make_worker(retry_strategy=strategy).run_once()
    after = table.get(job_id)
    assert (after.state, after.attempt, len(after.errors)) == ("retryable", 1, 1)
    assert least - 1 <= seconds_until(after.scheduled_at) <= most


async def test_a_retry_strategy_gets_the_number_of_the_failed_attempt(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    asked: list[int] = []

    def strategy(attempt: int) -> float:
        asked.append(attempt)
        return 0.0

    @job("work", registry=registry)
    def work() -> None:
        raise ValueError("no")

    job_id = table.add(max_attempts=4)
    async with working(make_worker(retry_strategy=strategy, poll_interval=30)):
        await eventually(lambda: table.get(job_id).state == "discarded")
    assert asked == [1, 2, 3]
    assert [record["attempt"] for record in table.get(job_id).errors] == [1, 2, 3, 4]


async def test_a_snooze_keeps_the_attempt_and_writes_no_error(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: list[float] = []

    @job("work", registry=registry)
    async def work() -> str:
        runs.append(anyio.current_time())
        if len(runs) < 4:
            raise SnoozeJob(0.1)
        return "done"

    job_id = table.add(max_attempts=1)
    async with working(make_worker(poll_interval=30)):
        await eventually(lambda: table.get(job_id).state == "completed")
    after = table.get(job_id)
    assert (after.attempt, after.errors, after.result) == (1, [], "done")
    assert all(0.09 < b - a < 10 for a, b in itertools.pairwise(runs))


async def test_a_snooze_of_zero_lets_other_jobs_run(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("restless", registry=registry)
    async def restless() -> None:
        raise SnoozeJob(0)

    @job("work", registry=registry)
    async def work() -> None: ...

    restless_id = table.add("restless")
    jobs = table.add_all([JobInsert("work")] * 20)
    async with working(make_worker(concurrency=1)):
        await eventually(lambda: table.states().get("completed") == len(jobs))
    assert table.get(restless_id).attempt == 0


async def test_a_negative_snooze_is_refused() -> None:
    for seconds in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="seconds"):
            SnoozeJob(seconds)


async def test_the_newest_errors_are_kept_on_every_path(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        raise ValueError("no")

    job_id = table.add(max_attempts=7)
    crashed = table.add("unknown", max_attempts=7)
    table.change(
        crashed,
        "state = 'executing', worker_id = 999, attempt = 6, "
        "errors = (select jsonb_agg(jsonb_build_object('attempt', n, 'error', 'x')) "
        "from generate_series(1, 5) n)",
    )
    async with working(make_worker(error_cap=3, retry_strategy=lambda _: 0.0)):
        await eventually(lambda: table.get(job_id).state == "discarded")
        await eventually(lambda: table.get(crashed).state == "retryable")
    assert [record["attempt"] for record in table.get(job_id).errors] == [5, 6, 7]
    records = table.get(crashed).errors
    assert [record["attempt"] for record in records] == [4, 5, 6]
    assert records[-1]["error"].startswith("WorkerCrash")


async def test_defaults_fill_only_options_that_are_not_given(
    table: JobTable, registry: HandlerRegistry, client: AsyncRoost
) -> None:
    @job(
        "work", queue="mail", priority=5, max_attempts=3, tags=["a"], timeout_seconds=9,
        registry=registry,
    )  # fmt: skip
    async def work() -> None: ...

    names = ("queue", "priority", "max_attempts", "tags", "timeout_seconds")

    def row(job_id: int) -> tuple[Any, ...]:
        found = table.get(job_id)
        return tuple(getattr(found, name) for name in names)

    given: dict[str, Any] = {
        "queue": "default", "priority": 0, "max_attempts": 20, "tags": [], "timeout_seconds": 1
    }  # fmt: skip
    assert row(await client.enqueue(work)) == ("mail", 5, 3, ["a"], 9)
    assert row(await client.enqueue("work", **given)) == tuple(given.values())
    assert await client.enqueue_many([JobInsert("work"), JobInsert("work", **given)]) == 2
    last = table.value("select max(id) from roost.jobs")
    assert row(last - 1) == ("mail", 5, 3, ["a"], 9)
    assert row(last) == tuple(given.values())
    assert row(await client.enqueue("elsewhere")) == ("default", 0, 20, [], None)


async def test_a_worker_archives_jobs_and_deletes_old_results(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    @job("work", registry=registry)
    async def work() -> int:
        return 3

    job_id = await client.enqueue(work)
    waiting = table.add("elsewhere")
    worker = make_worker(archive_after_seconds=0.2, result_ttl_seconds=0.2, archive_interval=0.05)
    async with working(worker):
        await eventually(lambda: table.states() == {"available": 1})
        await eventually(lambda: table.get(job_id).result is None)
    assert await client.status(job_id) == "completed"
    assert (await client.get(job_id)).attempt == 1
    assert await client.cancel(job_id) is False
    assert await client.retry(job_id) is True
    assert await make_worker().run_once() == 1
    assert (await client.get(job_id)).result == 3
    assert table.get(waiting).state == "available"


async def test_every_verb_reports_unknown_ids(client: AsyncRoost) -> None:
    for verb in (client.get, client.status, client.cancel, client.retry):
        with pytest.raises(JobNotFoundError) as caught:
            await verb(123_456)
        assert caught.value.code == "roost.job-not-found"


async def test_discarded_jobs_are_requeued_except_those_whose_key_is_taken(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    fail = True

    @job("work", max_attempts=1, registry=registry)
    async def work() -> None:
        if fail:
            raise ValueError("no")

    for n in range(30):
        await client.enqueue(work, unique_key=f"k{n % 20}" if n < 20 else None)
    await make_worker(concurrency=30).run_once()
    assert table.states() == {"discarded": 30}
    await client.enqueue(work, unique_key="k3", queue="other")
    assert await client.requeue_discarded(limit=5, task="work") == 5
    assert await client.requeue_discarded(queue="nowhere") == 0
    assert await client.requeue_discarded() == 24
    assert table.states() == {"discarded": 1, "available": 30}
    fail = False
    await make_worker(concurrency=30, queues=["default", "other"]).run_once()
    assert table.states() == {"discarded": 1, "completed": 30}
