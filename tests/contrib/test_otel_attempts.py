"""Each attempt is a span that says how it ended; nothing in OpenTelemetry changes a job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.spans import Spans, attributes, carrier, context_of, id_of, parent_of, points
from tests.support.working import working

from roost import (
    AsyncRoost,
    CancelJob,
    CronEntry,
    DiscardJob,
    HandlerRegistry,
    Hooks,
    JobInsert,
    RetryJob,
    Roost,
    SnoozeJob,
    Worker,
    fixed,
    job,
)
from roost.contrib import otel

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


async def test_a_retry_is_a_new_span_linked_to_the_first_attempt(
    spans: Spans,
    client: AsyncRoost,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("fails", registry=registry, max_attempts=3, retry_strategy=fixed(0))
    async def fails() -> None:
        raise ValueError("oh no")

    job_id = await client.enqueue(fails)
    while table.get(job_id).state != "discarded":
        await make_worker().run_once()
    first, second, third = spans.named("process default", "fails")
    send = spans.one("send default", "fails")
    assert [parent_of(span) for span in (first, second, third)] == [id_of(send)] * 3
    assert [len(span.links) for span in (first, second, third)] == [0, 1, 1]
    for later in (second, third):
        assert later.links[0].context.span_id == id_of(first)
    assert [attributes(span)["roost.attempt"] for span in (first, second, third)] == [1, 2, 3]
    outcomes = [attributes(span)["roost.outcome"] for span in (first, second, third)]
    assert outcomes == ["retried", "retried", "discarded"]
    stored = [record["traceparent"][36:52] for record in table.get(job_id).errors]
    assert stored == [f"{id_of(span):016x}" for span in (first, second, third)]


async def test_retries_of_an_untraced_enqueue_are_in_the_trace_of_the_first_attempt(
    spans: Spans, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("fails", registry=registry, retry_strategy=fixed(0))
    async def fails() -> None:
        raise ValueError

    job_id = table.add("fails", max_attempts=3)
    while table.get(job_id).state != "discarded":
        await make_worker().run_once()
    first, second, third = spans.named("process default", "fails")
    assert first.parent is None
    assert parent_of(second) == parent_of(third) == id_of(first)
    assert second.links[0].context.span_id == third.links[0].context.span_id == id_of(first)
    assert spans.named("wait default") == []


async def test_an_exception_is_recorded_once(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("fails", registry=registry, max_attempts=1)
    async def fails() -> None:
        raise ValueError("oh no: why")

    await client.enqueue(fails)
    await make_worker().run_once()
    span = spans.one("process default", "fails")
    [event] = span.events
    assert event.name == "exception"
    recorded = dict(event.attributes or {})
    assert recorded["exception.type"] == "ValueError"
    assert recorded["exception.message"] == "oh no: why"
    assert "raise ValueError" in str(recorded["exception.stacktrace"])
    assert attributes(span)["error.type"] == "ValueError"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ValueError: oh no: why"


class ApplicationError(Exception):
    """An error that is no built-in one."""


def fails_in_its_process(how: str) -> None:
    """Raise an error: run as a job."""
    if how == "decides":
        raise DiscardJob("hopeless")
    raise ApplicationError(f"failed: {how}")


@pytest.mark.parametrize("run_in", ["thread", "process"])
async def test_an_error_is_named_with_its_module(
    run_in: Literal["thread", "process"],
    spans: Spans,
    client: AsyncRoost,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    decorate = job("fails", registry=registry, run_in=run_in, max_attempts=1)
    decorate(fails_in_its_process)
    ids = [await client.enqueue("fails", args={"how": how}) for how in ("decides", "badly")]
    await make_worker(concurrency=1).run_once()
    decides, fails = spans.named("process default")
    assert attributes(decides)["error.type"] == "roost.DiscardJob"
    kind = f"{ApplicationError.__module__}.ApplicationError"
    assert attributes(fails)["error.type"] == kind
    [event] = fails.events
    recorded = dict(event.attributes or {})
    assert recorded["exception.type"] == kind
    assert recorded["exception.message"] == "failed: badly"
    assert "in fails_in_its_process" in str(recorded["exception.stacktrace"])
    assert fails.status.description == "ApplicationError: failed: badly"
    # The error record is for people, and keeps the short name.
    assert table.get(ids[1]).errors[0]["error"] == "ApplicationError: failed: badly"


async def test_a_retry_that_the_handler_asks_for_is_no_error(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("asks", registry=registry, max_attempts=2)
    async def asks() -> None:
        raise RetryJob("not yet", in_=0)

    await client.enqueue(asks)
    await make_worker().run_once()
    await make_worker().run_once()
    first, last = spans.named("process default")
    assert attributes(first)["roost.outcome"] == "retried"
    assert "error.type" not in attributes(first)
    assert (first.status.status_code, list(first.events)) == (StatusCode.UNSET, [])
    # The job has failed now.
    assert attributes(last)["error.type"] == "roost.RetryJob"
    assert last.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("raises", "outcome", "error_type"),
    [
        (SnoozeJob(60), "snoozed", None),
        (CancelJob("not wanted"), "cancelled", None),
        (DiscardJob("hopeless"), "discarded", "roost.DiscardJob"),
    ],
)
async def test_what_a_handler_decides_is_the_outcome(
    raises: Exception,
    outcome: str,
    error_type: str | None,
    spans: Spans,
    client: AsyncRoost,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("decides", registry=registry)
    async def decides() -> None:
        raise raises

    await client.enqueue(decides)
    await make_worker().run_once()
    span = spans.one("process default", "decides")
    assert attributes(span)["roost.outcome"] == outcome
    assert attributes(span).get("error.type") == error_type
    assert len(span.events) == (error_type is not None)
    expected = StatusCode.UNSET if error_type is None else StatusCode.ERROR
    assert span.status.status_code is expected


async def test_a_timeout_is_an_error_and_a_users_cancel_is_none(
    spans: Spans,
    client: AsyncRoost,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    started = anyio.Event()

    @job("slow", registry=registry, timeout_seconds=1, max_attempts=1)
    async def slow() -> None:
        await anyio.sleep_forever()

    @job("cancelled", registry=registry)
    async def cancelled() -> None:
        started.set()
        await anyio.sleep_forever()

    async with working(make_worker()):
        await client.enqueue(slow)
        unwanted = await client.enqueue(cancelled)
        await started.wait()
        await client.cancel(unwanted)
        await eventually(lambda: len(spans.named("process default", "slow")) == 1)
        await eventually(lambda: len(spans.named("process default", "cancelled")) == 1)
    timed_out, stopped = (
        spans.one("process default", "slow"),
        spans.one("process default", "cancelled"),
    )
    assert attributes(timed_out)["error.type"] == "roost.JobTimeoutError"
    assert timed_out.status.status_code is StatusCode.ERROR
    assert attributes(stopped)["roost.outcome"] == "cancelled"
    assert (stopped.status.status_code, list(stopped.events)) == (StatusCode.UNSET, [])


async def test_a_job_that_the_stop_interrupts_is_released_without_an_error(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started = anyio.Event()

    @job("long", registry=registry)
    async def long() -> None:
        started.set()
        await anyio.sleep_forever()

    async with working(make_worker(shutdown_timeout=0)):
        await client.enqueue(long)
        await started.wait()
    span = spans.one("process default", "long")
    assert attributes(span)["roost.outcome"] == "released"
    assert span.status.status_code is StatusCode.UNSET


async def test_the_span_is_current_in_threads_and_hooks(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen: dict[str, int] = {}

    def note(where: str) -> None:
        seen[where] = trace.get_current_span().get_span_context().span_id

    @job("thread", registry=registry)
    def thread() -> None:
        assert threading.current_thread() is not threading.main_thread()
        note("thread")

    async def before_job(job: object, *, ctx: object) -> None:
        note("before")

    async def after_job(job: object, *, result: object, error: object, ctx: object) -> None:
        note("after")

    await client.enqueue(thread)
    await make_worker(hooks=Hooks(before_job, after_job)).run_once()
    own = id_of(spans.one("process default", "thread"))
    assert seen == {"thread": own, "before": own, "after": own}


def current_span() -> list[int]:
    """Return what a handler in a process sees of its trace: run as a job."""
    one = trace.get_current_span().get_span_context()
    return [one.trace_id, one.span_id]


def enqueues(dsn: str) -> int:
    """Enqueue a job: run as a job."""
    with Roost(dsn) as blocking:
        return blocking.enqueue("next")


async def test_a_process_continues_the_trace(
    spans: Spans,
    client: AsyncRoost,
    dsn: str,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    job("current_span", registry=registry, run_in="process")(current_span)
    job("enqueues", registry=registry, run_in="process")(enqueues)
    ids = [await client.enqueue(current_span), await client.enqueue(enqueues, args={"dsn": dsn})]
    await make_worker(concurrency=1).run_once()
    [seen, next_id] = [table.get(job_id).result for job_id in ids]
    own = context_of(spans.one("process default", "current_span"))
    assert seen == [own.trace_id, own.span_id]
    parent = id_of(spans.one("process default", "enqueues"))
    assert next_id is not None
    assert carrier(table, next_id)["traceparent"][36:52] == f"{parent:016x}"


def records_into(path: str) -> None:
    """Record a span whose exporter waits for more of them: run as a job."""
    provider = TracerProvider()
    exporter = ConsoleSpanExporter(
        out=Path(path).open("a"),  # noqa: SIM115  (open until the process ends)
        formatter=lambda span: f"{span.name}\n",
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
    with provider.get_tracer("test").start_as_current_span("in a process"):
        pass


@pytest.mark.timing  # the process has a second to end
async def test_the_last_spans_of_a_process_are_exported_when_the_worker_stops(
    client: AsyncRoost, tmp_path: Path, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    job("records_into", registry=registry, run_in="process")(records_into)
    await client.enqueue("records_into", args={"path": str(tmp_path / "spans")})
    await make_worker().run_once()
    assert (tmp_path / "spans").read_text() == "in a process\n"


async def test_baggage_reaches_the_handler(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen: list[object] = []

    @job("work", registry=registry)
    async def work() -> None:
        seen.append(baggage.get_baggage("tenant"))

    token = context.attach(baggage.set_baggage("tenant", "acme"))
    await client.enqueue(work)
    context.detach(token)
    await make_worker().run_once()
    assert seen == ["acme"]


async def test_headers_that_are_too_long_are_left_out(
    spans: Spans, client: AsyncRoost, table: JobTable
) -> None:
    much = baggage.set_baggage("much", "x" * 3_000)
    token = context.attach(baggage.set_baggage("more", "x" * 3_000, much))
    job_id = await client.enqueue("work")
    context.detach(token)
    # The trace goes on without them.
    assert carrier(table, job_id).keys() == {"traceparent"}


async def test_the_headers_do_not_count_for_a_jobs_size(
    spans: Spans, dsn: str, table: JobTable
) -> None:
    registry = HandlerRegistry(max_args_bytes=30)
    async with AsyncRoost(dsn, registry=registry) as client:
        job_id = await client.enqueue("work", args={"text": "x" * 18})
        await client.enqueue_many([JobInsert("work", {"text": "x" * 18})] * 2)
    assert carrier(table, job_id) is not None


async def test_a_trace_that_is_not_sampled_is_passed_on(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("fails", registry=registry, max_attempts=1)
    async def fails() -> None:
        raise ValueError

    otel.instrument(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    try:
        job_id = await client.enqueue(fails)
        await make_worker().run_once()
    finally:
        otel.uninstrument()
    assert int(carrier(table, job_id)["traceparent"][-2:], 16) & 1 == 0
    assert table.get(job_id).state == "discarded"


async def test_without_an_sdk_nothing_is_stored(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    otel.instrument()
    try:
        job_id = await client.enqueue(work)
        await make_worker().run_once()
    finally:
        otel.uninstrument()
    assert table.get(job_id).metadata == {}
    assert table.get(job_id).state == "completed"


class Failing(SpanExporter):
    """An exporter that raises, or blocks."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def export(self, spans: Any) -> SpanExportResult:
        time.sleep(self._seconds)
        if not self._seconds:
            raise RuntimeError("no room")
        return SpanExportResult.FAILURE


class Raising(SimpleSpanProcessor):
    """A processor that raises at the start and at the end of each span."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("no room")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("no room")


@pytest.mark.parametrize(
    "processor",
    [SimpleSpanProcessor(Failing()), SimpleSpanProcessor(Failing(seconds=0.2)), Raising(Failing())],
    ids=["raises", "blocks", "processor raises"],
)
async def test_an_exporter_that_fails_changes_no_job(
    processor: SimpleSpanProcessor,
    client: AsyncRoost,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("work", registry=registry)
    async def work() -> int:
        return 5

    @job("fails", registry=registry, max_attempts=1)
    async def fails() -> None:
        raise ValueError

    provider = TracerProvider()
    provider.add_span_processor(processor)
    otel.instrument(tracer_provider=provider)
    try:
        ids = [await client.enqueue(work), await client.enqueue(fails)]
        await client.enqueue_many([JobInsert("work")])
        assert await make_worker().run_once() == 3
    finally:
        otel.uninstrument()
    assert table.get(ids[0]).result == 5
    assert [table.get(job_id).state for job_id in ids] == ["completed", "discarded"]
    assert table.states() == {"completed": 2, "discarded": 1}


async def test_nothing_is_recorded_after_uninstrument(
    spans: Spans,
    client: AsyncRoost,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    otel.uninstrument()
    with spans.inside("caller"):
        job_id = await client.enqueue(work)
    await make_worker().run_once()
    assert table.get(job_id).metadata == {}
    assert [span.name for span in spans.exporter.get_finished_spans()] == ["caller"]


async def test_metrics_count_what_is_enqueued_and_run(
    client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    @job("fails", registry=registry, max_attempts=1)
    async def fails() -> None:
        raise ValueError

    reader = InMemoryMetricReader()
    otel.instrument(meter_provider=MeterProvider([reader]))
    try:
        await client.enqueue_many([JobInsert("work", queue="mail")] * 3 + [JobInsert("work")])
        await client.enqueue(fails)
        with pytest.raises(Exception, match="can't be stored"):
            await client.enqueue(work, args={"n": float("nan")})
        await make_worker(queues=["mail", "default"]).run_once()
        found = points(reader)
    finally:
        otel.uninstrument()

    common = {"messaging.system": "roost", "messaging.operation.name": "send"}
    sent = {
        (shown["messaging.destination.name"], shown.get("error.type")): point.value
        for shown, point in found["messaging.client.sent.messages"]
    }
    assert sent == {
        ("mail", None): 3,
        ("default", None): 2,
        ("default", "roost.InvalidJobError"): 1,
    }
    for shown, point in found["messaging.client.operation.duration"]:
        assert shown.items() >= (common | {"messaging.operation.type": "send"}).items()
        assert point.count == 1
        assert 0 < point.sum < 60
    consumed = {
        (shown["messaging.destination.name"], shown["roost.task"]): point.value
        for shown, point in found["messaging.client.consumed.messages"]
    }
    assert consumed == {("mail", "work"): 3, ("default", "work"): 1, ("default", "fails"): 1}
    processed = {
        (shown["roost.task"], shown["roost.outcome"], shown.get("error.type")): point.count
        for shown, point in found["messaging.process.duration"]
        if shown["messaging.destination.name"] == "default"
    }
    assert processed == {
        ("work", "completed", None): 1,
        ("fails", "discarded", "ValueError"): 1,
    }
    assert sum(point.count for _, point in found["roost.wait.duration"]) == 5


class Queue(str, Enum):  # noqa: UP042  (its str() is not its value)
    """Queues of an application."""

    MAIL = "mail"


async def test_a_queue_has_one_series_whatever_names_it(
    client: AsyncRoost, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    registry.add_cron(CronEntry("nightly", "0 3 * * *", "work"), work)
    await client.add_cron("nightly", "0 3 * * *", "work")
    reader = InMemoryMetricReader()
    otel.instrument(meter_provider=MeterProvider([reader]))
    try:
        await client.enqueue(work)
        await client.enqueue(work, queue="default")
        await client.run_cron_now("nightly")
        await client.enqueue(work, queue="mail")
        await client.enqueue(work, queue=Queue.MAIL)
        found = points(reader)["messaging.client.sent.messages"]
    finally:
        otel.uninstrument()
    sent = [(shown["messaging.destination.name"], point.value) for shown, point in found]
    assert sorted(sent) == [("default", 3), ("mail", 2)]
