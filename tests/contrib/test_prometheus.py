"""A scrape shows what workers, clients and the database did, in text that Prometheus reads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, JobInsert, Roost, SnoozeJob, Worker, fixed, job
from roost._client import enqueued as enqueued_module
from roost._client.enqueued import EnqueuedCounter
from roost._worker.lanes import metrics as lane
from roost._worker.statistics import Statistics
from roost.contrib.metrics import METRICS, cumulated
from roost.contrib.prometheus import RoostCollector, as_text
from roost.web import serving

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
FINISHED = "roost_jobs_finished_total"
ODD = 'odd "queue" \\ ü'


@pytest.fixture
def make_worker(dsn: str, registry: HandlerRegistry) -> MakeWorker:
    """Return a function that makes a worker with the given options."""

    def make(**options: Any) -> Worker:
        return Worker(dsn, registry=registry, **options)

    return make


@pytest.fixture(autouse=True)
def own_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the jobs of this test alone, and read the database often."""
    counter = EnqueuedCounter()
    for module in ("_client.async_api", "_client.sync_api", "contrib.prometheus"):
        monkeypatch.setattr(f"roost.{module}.enqueued", counter)
    monkeypatch.setattr(lane, "INTERVAL", 0.05)


def scrape(*workers: Worker) -> Samples:
    """Return the samples of a collector's text, as Prometheus' parser reads it."""
    registry = CollectorRegistry()
    registry.register(RoostCollector(*workers))
    return read(generate_latest(registry).decode())


def read(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, "a series is there twice"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def names(samples: Samples) -> set[str]:
    return {name for name, _ in samples}


async def test_finished_attempts_are_counted_by_outcome_and_time(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("quick", registry=registry)
    async def quick() -> None:
        pass

    @job("fails", registry=registry)
    async def fails() -> None:
        raise ValueError("no")

    @job("later", registry=registry)
    async def later() -> None:
        raise SnoozeJob(3600)

    for _ in range(5):
        table.add("quick", queue=ODD)
    table.add("fails", max_attempts=1)
    table.add("fails", max_attempts=2)
    table.add("later")
    worker = make_worker(queues=["default", ODD], retry_strategy=fixed(3600))

    def finished_attempts() -> float:
        return sum(count for (name, _), count in scrape(worker).items() if name == FINISHED)

    async with working(worker):
        await eventually(lambda: finished_attempts() == 8)
        found = scrape(worker)

    def finished(**labels: str) -> float | None:
        return value(found, FINISHED, **labels)

    assert finished(queue=ODD, task="quick", outcome="completed") == 5
    assert finished(queue="default", task="fails", outcome="discarded") == 1
    assert finished(queue="default", task="fails", outcome="retried") == 1
    assert finished(queue="default", task="later", outcome="snoozed") == 1
    assert value(found, "roost_jobs_started_total", queue=ODD, task="quick") == 5
    for times in ("run", "wait"):
        of_quick = {"queue": ODD, "task": "quick"}
        name = f"roost_job_{times}_seconds"
        assert value(found, f"{name}_count", **of_quick) == 5
        assert value(found, f"{name}_bucket", **of_quick, le="+Inf") == 5
        counts = [
            (float(dict(labels)["le"]), count)
            for (series, labels), count in found.items()
            if series == f"{name}_bucket" and ("task", "quick") in labels
        ]
        assert [count for _, count in sorted(counts)] == sorted(count for _, count in counts)
        assert 0 < (value(found, f"{name}_sum", **of_quick) or 0) < 60


async def test_every_metric_of_the_list_is_exported_and_no_other(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, dsn: str
) -> None:
    @job("quick", registry=registry)
    async def quick() -> None:
        pass

    worker = make_worker()
    async with AsyncRoost(dsn, registry=registry) as client, working(worker):
        await client.wait_for(await client.enqueue("quick"))
        scrape(worker)
        await eventually(lambda: value(scrape(worker), "roost_database_exporter") == 1)
        found = names(scrape(worker))
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    listed = {
        f"{metric.name}{suffix}"
        for metric in METRICS
        for suffix in suffixes.get(metric.kind, ("",))
    }
    assert found == listed


async def test_the_state_of_a_worker_is_shown(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    may_end = anyio.Event()

    @job("waits", registry=registry)
    async def waits() -> None:
        await may_end.wait()

    for _ in range(3):
        table.add("waits")
    worker = make_worker(concurrency=2, prefetch=1)
    assert value(scrape(worker), "roost_worker_ready") == 0
    assert value(scrape(worker), "roost_worker_live") == 1
    waiting = {"queue": "default", "task": "waits"}
    async with working(worker):
        await eventually(lambda: value(scrape(worker), "roost_worker_slots_used") == 2)
        await eventually(lambda: value(scrape(worker), "roost_worker_prefetched_jobs") == 1)
        # A job has its slot before its handler is called.
        await eventually(lambda: value(scrape(worker), "roost_jobs_started_total", **waiting) == 2)
        found = scrape(worker)
        may_end.set()
    assert value(found, "roost_worker_slots") == 2
    assert value(found, "roost_worker_ready") == 1
    assert value(found, "roost_worker_listening") == 1
    assert 0 <= (value(found, "roost_worker_heartbeat_age_seconds") or -1) < 20
    assert value(found, "roost_worker_connections_limit") == 3


async def test_the_numbers_of_the_database_are_exported_by_one_worker(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("quick", registry=registry)
    async def quick() -> None:
        pass

    table.add("quick", queue="unserved")
    table.add("quick", queue="unserved")
    first, second = make_worker(), make_worker()

    def exporters() -> list[float | None]:
        return [value(scrape(each), "roost_database_exporter") for each in (first, second)]

    async with anyio.create_task_group() as group:
        await group.start(first.run)
        async with working(second):
            await eventually(lambda: exporters() == [1, 0])
            found = scrape(first)
            assert "roost_queue_jobs" not in names(scrape(second))
            assert value(found, "roost_queue_jobs", queue="unserved", state="available") == 2
            assert value(found, "roost_queue_workers", queue="unserved") == 0
            assert value(found, "roost_queue_workers", queue="default") == 2
            assert (value(found, "roost_queue_oldest_due_seconds", queue="unserved") or 0) > 0
            assert value(found, "roost_queue_paused", queue="default") == 0
            assert value(found, "roost_workers", state="living") == 2
            assert value(found, "roost_workers", state="dead") == 0

            first.request_stop()
            await eventually(lambda: value(scrape(second), "roost_database_exporter") == 1)


async def test_another_worker_takes_over_from_one_that_is_silent(
    table: JobTable, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "TAKE_OVER_AFTER", 60.0)
    table.rows(
        "insert into roost.workers (name, queues, concurrency, expires_at, scraped_at) "
        "values ('older', '{default}', 1, now() + interval '1 hour', now())"
    )
    worker = make_worker()
    async with working(worker):
        scrape(worker)
        await eventually(lambda: worker.id is not None and worker_was_scraped(table, worker.id))
        assert value(scrape(worker), "roost_database_exporter") == 0
        table.rows(
            "update roost.workers set scraped_at = now() - interval '61 s' where name = 'older'"
        )
        await eventually(lambda: value(scrape(worker), "roost_database_exporter") == 1)


def worker_was_scraped(table: JobTable, worker_id: int) -> bool:
    return bool(
        table.value(
            "select scraped_at is not null from roost.workers where id = $1::bigint", worker_id
        )
    )


async def test_a_worker_that_is_not_scraped_reads_nothing(
    table: JobTable, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[None] = []
    once = lane.MetricsLane.once

    async def counting(self: lane.MetricsLane) -> None:
        await once(self)
        turns.append(None)

    monkeypatch.setattr(lane.MetricsLane, "once", counting)
    worker = make_worker()
    async with working(worker):
        await eventually(lambda: len(turns) >= 3)
        assert worker.id is not None
        assert not worker_was_scraped(table, worker.id)


async def test_a_reading_that_fails_leaves_the_other_metrics(
    table: JobTable, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    async with working(worker):
        scrape(worker)
        await eventually(lambda: value(scrape(worker), "roost_database_exporter") == 1)
        table.rows("alter function roost.list_queues rename to not_there")
        try:
            await eventually(lambda: value(scrape(worker), "roost_database_reading_failed") == 1)
            found = scrape(worker)
        finally:
            table.rows("alter function roost.not_there rename to list_queues")
        assert value(found, "roost_database_exporter") == 0
        assert "roost_queue_jobs" not in names(found)
        assert value(found, "roost_worker_ready") == 1
        await eventually(lambda: value(scrape(worker), "roost_database_exporter") == 1)


async def test_enqueued_jobs_are_counted_by_queue_and_task(
    dsn: str, registry: HandlerRegistry
) -> None:
    async with AsyncRoost(dsn, registry=registry) as client:
        await client.enqueue("one")
        await client.enqueue_many([JobInsert("one", {"n": n}) for n in range(10)])
        await client.enqueue_all([JobInsert("one", queue="mail"), JobInsert("two", queue="mail")])
        with pytest.raises(ValueError, match="priority"):
            await client.enqueue("one", priority="high")  # type: ignore[arg-type]
        await client.enqueue("one", unique_key="k")
        with pytest.raises(Exception, match="unique_key"):
            await client.enqueue("one", unique_key="k")

    def blocking() -> None:
        with Roost(dsn, registry=registry) as client:
            client.enqueue("two")
            client.enqueue_many([JobInsert("two"), JobInsert("two", priority=3)])

    await anyio.to_thread.run_sync(blocking)
    found = scrape()
    assert names(found) == {"roost_jobs_enqueued_total"}
    assert value(found, "roost_jobs_enqueued_total", queue="default", task="one") == 12
    assert value(found, "roost_jobs_enqueued_total", queue="mail", task="one") == 1
    assert value(found, "roost_jobs_enqueued_total", queue="mail", task="two") == 1
    assert value(found, "roost_jobs_enqueued_total", queue="default", task="two") == 3


def test_the_labels_of_enqueued_jobs_are_bounded() -> None:
    counter = EnqueuedCounter()
    most = enqueued_module.MAX_SERIES
    for number in range(most + 50):
        counter.add({(f"tenant-{number}", "task"): 1})
    counts = counter.counts()
    assert len(counts) == most + 1
    assert counts[enqueued_module.OTHER, enqueued_module.OTHER] == 50


def test_no_count_of_a_thread_is_lost() -> None:
    counter = EnqueuedCounter()

    def add() -> None:
        for _ in range(2_000):
            counter.add({("q", "t"): 1})

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.counts() == {("q", "t"): 8_000}


def test_a_histogram_counts_what_is_below_each_bound() -> None:
    # Bucket 81 begins at 1 s, 85 at 2 s.
    found = dict(cumulated([{80: 1, 81: 2, 84: 1}, {85: 4, 165: 1}]))
    assert (found["0.5"], found["1.0"], found["2.0"], found["4.0"]) == (0, 1, 4, 8)
    assert (found["16384.0"], found["+Inf"]) == (8, 9)


def test_a_total_that_another_thread_reads_never_falls() -> None:
    statistics = Statistics()
    series = statistics.series_of("q", "t")
    over = threading.Event()
    read_counts: list[int] = []

    def read_totals() -> None:
        while not over.is_set():
            read_counts.extend(sum(one.tally.run.values()) for one in statistics.totals())

    reader = threading.Thread(target=read_totals)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for number in range(20_000):
            # Of many buckets, so that a move takes long.
            statistics.count((series, 1.0, 1.05 ** (number % 500 - 300)), "completed")
            if number % 500 == 0:
                statistics.take_fresh()
    finally:
        over.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert read_counts == sorted(read_counts)
    assert [one.tally.count for one in statistics.totals()] == [20_000]


async def test_metrics_are_served_with_those_of_the_application(
    make_worker: MakeWorker,
) -> None:
    mine = Counter("shop_orders", "Orders.")
    mine.inc(3)
    worker = make_worker()
    async with (
        serving(worker, "127.0.0.1:0") as address,
        working(worker),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        url = f"http://{address}/metrics"
        plain = await client.get(url)
        accept = "application/openmetrics-text; version=1.0.0"
        opened = await client.get(url, headers={"Accept": accept})
    REGISTRY.unregister(mine)
    assert plain.headers["content-type"].startswith("text/plain; version=")
    found = read(plain.text)
    assert value(found, "shop_orders_total") == 3
    assert value(found, "roost_worker_live") == 1
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name for family in read_open_metrics(opened.text)}  # type: ignore[no-untyped-call]
    assert {"shop_orders", "roost_worker_slots", "roost_worker_rescued_jobs"} <= families


async def test_a_collector_that_is_registered_too_is_shown_once(make_worker: MakeWorker) -> None:
    worker = make_worker()
    collector = RoostCollector(worker)
    REGISTRY.register(collector)
    try:
        text, _ = as_text(RoostCollector(worker))
    finally:
        REGISTRY.unregister(collector)
    assert value(read(text.decode()), "roost_worker_live") == 1


async def test_several_workers_are_added_up(make_worker: MakeWorker) -> None:
    workers = [make_worker(concurrency=2), make_worker(concurrency=3)]
    async with working(*workers):
        found = scrape(*workers)
    assert value(found, "roost_worker_slots") == 5


async def test_without_the_extra_metrics_say_what_to_install(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost.web.metrics.find_spec", lambda name: None)
    async with (
        serving(make_worker(), "127.0.0.1:0") as address,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"http://{address}/metrics")
    assert answer.status_code == 404
    assert "pip install 'anyroost[prometheus]'" in answer.text
