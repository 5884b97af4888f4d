"""The way of a job from the enqueue to its end is one trace, and is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import fastapi
import httpx
import psycopg
import pytest
from opentelemetry import propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import SpanKind, StatusCode
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.spans import Spans, attributes, carrier, context_of, id_of, parent_of
from tests.support.working import working

from roost import (
    AsyncRoost,
    CronEntry,
    HandlerRegistry,
    JobInsert,
    Roost,
    Worker,
    call,
    job,
)

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A span of another program."""


async def test_a_request_its_enqueue_and_the_run_are_one_trace(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    app = fastapi.FastAPI()

    @job("greet", registry=registry)
    async def greet(name: str) -> str:
        with spans.inside("in the handler"):
            await anyio.lowlevel.checkpoint()
        return name

    @app.post("/greetings/{name}")
    async def make_greeting(name: str) -> dict[str, int]:
        with spans.inside("POST /greetings"):
            return {"job": await client.enqueue(greet, args={"name": name}, queue="mail")}

    transport = httpx.ASGITransport(app)
    async with working(make_worker(queues=["mail"])):
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as browser:
            job_id = (await browser.post("/greetings/ada")).json()["job"]
        await client.wait_for(job_id)
        await eventually(lambda: len(spans.named("process mail")) == 1)

    request, send, wait, process, inner = map(
        spans.one,
        ("POST /greetings", "send mail", "wait mail", "process mail", "in the handler"),
    )
    assert len({context_of(span).trace_id for span in (request, send, process, inner)}) == 1
    assert parent_of(send) == id_of(request)
    assert parent_of(wait) == parent_of(process) == id_of(send)
    assert parent_of(inner) == id_of(process)
    assert (send.kind, wait.kind, process.kind) == (
        SpanKind.PRODUCER,
        SpanKind.INTERNAL,
        SpanKind.CONSUMER,
    )
    assert attributes(send) == {
        "messaging.system": "roost",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": str(job_id),
        "roost.task": "greet",
    }
    shown = attributes(process)
    assert shown.pop("roost.worker.id") > 0
    assert shown.pop("roost.wait.duration") >= 0
    assert shown == {
        "messaging.system": "roost",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": str(job_id),
        "roost.task": "greet",
        "roost.attempt": 1,
        "roost.max_attempts": 20,
        "roost.outcome": "completed",
    }
    assert {span.status.status_code for span in (send, wait, process)} == {StatusCode.UNSET}


async def test_the_wait_ends_where_the_run_begins(
    spans: Spans,
    client: AsyncRoost,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("late", registry=registry)
    async def late() -> None:
        pass

    job_id = await client.enqueue(late)
    table.change(
        job_id, "inserted_at = now() - interval '1 h', scheduled_at = now() - '5 s'::interval"
    )
    await make_worker().run_once()
    wait, process = spans.one("wait default"), spans.one("process default", "late")
    assert wait.end_time == process.start_time
    assert wait.start_time is not None
    assert wait.end_time is not None
    seconds = (wait.end_time - wait.start_time) / 1e9
    assert seconds == pytest.approx(attributes(process)["roost.wait.duration"], abs=0.001)
    assert 5 <= seconds < 60
    # A wait is no operation of the messaging conventions.
    assert not any(name.startswith("messaging.operation.") for name in attributes(wait))
    assert attributes(process)["messaging.operation.type"] == "process"


async def test_every_way_to_enqueue_passes_the_trace_on(
    spans: Spans, client: AsyncRoost, dsn: str, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work(n: int = 0) -> None:
        pass

    jobs = [JobInsert("work", {"n": n}) for n in range(3)]
    other = JobInsert("other", metadata={"tenant": 1})
    mixed = [JobInsert("work"), other]
    with Roost(dsn, registry=registry) as blocking, spans.inside("caller") as caller:
        parent = await client.enqueue(work)
        await client.enqueue(call(work, n=1))
        await client.enqueue(work, depends_on=[parent])
        await client.enqueue(work, unique_key="key")
        await client.enqueue(work, unique_key="key", on_conflict="replace")
        await client.enqueue(work, unique_by="args", unique_for=60)
        await client.enqueue_many(jobs)
        await client.enqueue_many(mixed)
        await client.enqueue_all(jobs)
        await client.enqueue_all(
            [JobInsert("work", unique_key="another"), other], on_conflict="return"
        )
        await client.enqueue_all([JobInsert("work", depends_on=[parent])])
        async with client.transaction() as conn:
            await client.enqueue(work, conn=conn)
            await client.enqueue_many(jobs, conn=conn)
        blocking.enqueue(work)
        blocking.enqueue_many(jobs)
        blocking.enqueue_all(mixed)
        with psycopg.connect(dsn) as connection:
            blocking.enqueue(work, conn=connection)
    rows = table.rows(
        "select task, metadata -> 'otel' ->> 'traceparent', metadata ->> 'tenant' from roost.jobs"
    )
    trace_id = f"{caller.get_span_context().trace_id:032x}"
    assert len(rows) == 5 + 3 + 2 + 3 + 2 + 1 + 1 + 3 + 1 + 3 + 2 + 1
    assert {str(traceparent)[3:35] for _, traceparent, _ in rows} == {trace_id}
    assert {tenant for task, _, tenant in rows if task == "other"} == {"1"}
    sent = {f"{id_of(span):016x}" for span in spans.exporter.get_finished_spans()}
    assert {str(traceparent)[36:52] for _, traceparent, _ in rows} <= sent


@pytest.mark.parametrize("declared", [True, False])
async def test_a_cron_job_that_is_run_now_is_in_the_callers_trace(
    declared: bool, spans: Spans, client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("report", registry=registry)
    async def report() -> None:
        pass

    if declared:
        registry.add_cron(CronEntry("nightly", "0 3 * * *", "report", queue="reports"), report)
    await client.add_cron("nightly", "0 3 * * *", "report", queue="reports")
    with spans.inside("caller"):
        job_id = await client.run_cron_now("nightly")
    send = spans.one("send reports" if declared else "send")
    assert parent_of(send) == id_of(spans.one("caller"))
    assert carrier(table, job_id)["traceparent"][36:52] == f"{id_of(send):016x}"
    assert table.get(job_id).metadata["cron"] == "nightly"


async def test_a_bulk_is_one_span_and_the_parent_of_all_runs(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work(n: int = 0) -> None:
        pass

    await client.enqueue_many([JobInsert("work", {"n": n}, queue="bulk") for n in range(5)])
    await make_worker(queues=["bulk"]).run_once()
    send = spans.one("send bulk", "work")
    assert attributes(send)["messaging.batch.message_count"] == 5
    assert "messaging.message.id" not in attributes(send)
    runs = spans.named("process bulk", "work")
    assert [parent_of(span) for span in runs] == [id_of(send)] * 5


async def test_a_bulk_of_several_queues_and_tasks_names_none(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    await client.enqueue_many([JobInsert("work"), JobInsert("elsewhere", queue="other")])
    assert attributes(spans.one("send")) == {
        "messaging.system": "roost",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 2,
    }


async def test_a_queue_that_the_database_chooses_is_not_named(
    spans: Spans, client: AsyncRoost
) -> None:
    await client.enqueue("a_task_of_other_code")
    assert "messaging.destination.name" not in attributes(spans.one("send", "a_task_of_other_code"))


async def test_an_enqueue_that_fails_is_an_error_of_its_span(
    spans: Spans, client: AsyncRoost, registry: HandlerRegistry
) -> None:
    with pytest.raises(Exception, match="can't be stored"):
        await client.enqueue("work", args={"n": float("nan")}, queue="mail")
    send = spans.one("send mail", "work")
    assert send.status.status_code is StatusCode.ERROR
    assert attributes(send)["error.type"] == "roost.InvalidJobError"
    [event] = send.events
    recorded = dict(event.attributes or {})
    assert (event.name, recorded["exception.type"]) == ("exception", "roost.InvalidJobError")
    assert "can't be stored" in str(recorded["exception.message"])
    assert "in encode" in str(recorded["exception.stacktrace"])


async def test_a_cancelled_enqueue_ends_its_span(
    spans: Spans, client: AsyncRoost, table: JobTable
) -> None:
    await client.enqueue("work")  # the connection is open
    table.script("begin; lock table roost.jobs")
    try:
        with anyio.move_on_after(0.2) as scope:  # sleeps: the enqueue waits for the lock
            await client.enqueue("waits", queue="mail")
    finally:
        table.script("rollback")
    assert scope.cancelled_caught
    send = spans.one("send mail", "waits")
    assert send.status.status_code is StatusCode.ERROR
    assert attributes(send)["error.type"] in (
        "asyncio.exceptions.CancelledError",
        "trio.Cancelled",
    )


async def test_a_carrier_that_the_caller_passes_is_kept_and_linked(
    spans: Spans,
    client: AsyncRoost,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    job_id = await client.enqueue(work, metadata={"otel": {"traceparent": CALLER}, "tenant": 7})
    assert table.get(job_id).metadata == {"otel": {"traceparent": CALLER}, "tenant": 7}
    [link] = spans.one("send default", "work").links
    assert f"{link.context.span_id:016x}" == CALLER[36:52]
    await make_worker().run_once()
    assert f"{parent_of(spans.one('process default')):016x}" == CALLER[36:52]


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    ("passed", "kept"),
    [
        ("text", {}),
        (None, {}),
        ([1], {}),
        ({}, {}),
        ({"traceparent": "00-junk"}, {}),
        ({"traceparent": 5, "baggage": "tenant=acme"}, {"baggage": "tenant=acme"}),
    ],
)
async def test_a_carrier_that_names_no_span_does_not_end_the_trace(
    passed: object,
    kept: dict[str, str],
    bulk: bool,
    spans: Spans,
    client: AsyncRoost,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    metadata = {"otel": passed, "tenant": 7}
    if bulk:
        await client.enqueue_many([JobInsert("work", metadata=metadata)] * 2)
    else:
        await client.enqueue(work, metadata=metadata)
    await make_worker().run_once()
    send = spans.one("send default")
    runs = spans.named("process default")
    assert [parent_of(span) for span in runs] == [id_of(send)] * (2 if bulk else 1)
    [stored] = table.rows("select distinct metadata from roost.jobs")[0]
    traceparent = stored["otel"].pop("traceparent")
    assert traceparent[36:52] == f"{id_of(send):016x}"
    assert stored == {"otel": kept, "tenant": 7}
    assert metadata == {"otel": passed, "tenant": 7}
    assert not send.links


class Raising(W3CBaggagePropagator):
    """A propagator that can't read what is stored."""

    def extract(self, *args: Any, **options: Any) -> Context:
        raise ValueError("no header of mine")


@pytest.mark.parametrize("propagator", [W3CBaggagePropagator(), Raising()], ids=["other", "raises"])
async def test_a_traceparent_is_read_whatever_the_worker_propagates(
    propagator: TextMapPropagator,
    spans: Spans,
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    table.add("work", metadata={"otel": {"traceparent": CALLER}})
    usual = propagate.get_global_textmap()
    propagate.set_global_textmap(propagator)
    try:
        await make_worker().run_once()
    finally:
        propagate.set_global_textmap(usual)
    assert f"{parent_of(spans.one('process default')):016x}" == CALLER[36:52]


async def test_sql_carries_what_the_caller_passes(
    spans: Spans, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    table.rows(
        "select roost.enqueue('work', metadata => $1::text::jsonb)",
        f'{{"otel": {{"traceparent": "{CALLER}"}}}}',
    )
    await make_worker().run_once()
    assert f"{parent_of(spans.one('process default')):016x}" == CALLER[36:52]


async def test_a_job_without_a_carrier_that_can_be_read_begins_a_trace_of_its_own(
    spans: Spans, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    for broken in (
        None,
        {"otel": "text"},
        {"otel": {"traceparent": 5}},
        {"otel": {"traceparent": "x"}},
    ):
        table.add("work", metadata=broken)
    deep = "repeat('[', 3000) || repeat(']', 3000)"
    table.change(table.add("work"), f"metadata = ('{{\"otel\": ' || {deep} || '}}')::jsonb")
    with spans.inside("the application that runs the worker"):
        await make_worker().run_once()
    runs = spans.named("process default", "work")
    assert [span.parent for span in runs] == [None] * 5
    assert len({context_of(span).trace_id for span in runs}) == 5
    assert table.states() == {"completed": 5}
    assert spans.named("wait default") == []
