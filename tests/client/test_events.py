"""`events`: what a listener sees, what it is told that it has lost, and what it leaves behind."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest
from tests.support.conformance.cases import eventually, until
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    ClosedError,
    DatabaseUnavailableError,
    HandlerRegistry,
    InvalidSettingError,
    JobEvent,
    JobInsert,
    Roost,
    SnoozeJob,
    Worker,
    fixed,
    job,
)
from roost._client.events import AsyncEvents

pytestmark = pytest.mark.anyio

LISTENERS = """
    select count(*)
    from pg_stat_activity
    where application_name = 'roost events' and datname = current_database()
"""
END_LISTENERS = """
    select pg_terminate_backend(pid)
    from pg_stat_activity
    where application_name = 'roost events' and datname = current_database()
"""


@pytest.fixture
def registry(registry: HandlerRegistry) -> HandlerRegistry:
    """Return a registry with a task of each outcome."""

    @job("work", registry=registry)
    async def work(n: int = 0) -> int:
        await anyio.lowlevel.checkpoint()
        return n

    @job("fail", registry=registry, max_attempts=2)
    async def fail() -> None:
        raise ValueError("no such user\nand more")

    @job("snooze", registry=registry)
    async def snooze() -> None:
        raise SnoozeJob(60)

    @job("sleep", registry=registry)
    async def sleep() -> None:
        await anyio.sleep_forever()

    return registry


@pytest.fixture(params=["psycopg", "asyncpg"])
async def client(
    request: pytest.FixtureRequest,
    anyio_backend_name: str,
    dsn: str,
    registry: HandlerRegistry,
) -> AsyncIterator[AsyncRoost]:
    """Yield a client of each driver."""
    if request.param == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg needs asyncio")
    async with AsyncRoost(dsn, registry=registry, driver=request.param) as client:
        yield client


async def take(events: AsyncEvents, number: int) -> list[JobEvent]:
    """Return the next events."""
    with anyio.fail_after(20):
        return [await anext(events) for _ in range(number)]


def kinds(events: list[JobEvent]) -> list[str]:
    return [event.kind for event in events]


def worker_of(client: AsyncRoost, **settings: Any) -> Worker:
    return client.worker(retry_strategy=fixed(0.0), **settings)


async def test_each_attempt_is_seen_from_its_start_to_its_end(
    client: AsyncRoost, table: JobTable
) -> None:
    worker = worker_of(client)
    async with working(worker), client.events() as events:
        job_id = await client.enqueue("work")
        started, finished = await take(events, 2)
        for event, kind, state in (
            (started, "started", "executing"),
            (finished, "finished", "completed"),
        ):
            assert (event.kind, event.state) == (kind, state)
            assert (event.job_id, event.queue, event.task) == (job_id, "default", "work")
            assert (event.attempt, event.worker_id) == (1, worker.id)
            assert (event.error, event.missed) == (None, 0)
        assert started.at <= finished.at
        row = table.get(job_id)
        assert row.completed_at is not None
        assert abs((finished.at - row.completed_at).total_seconds()) < 5
        failing = await client.enqueue("fail")
        found = await take(events, 4)
        assert kinds(found) == ["started", "failed", "started", "discarded"]
        assert [event.attempt for event in found] == [1, 1, 2, 2]
        assert {event.job_id for event in found} == {failing}
        assert [event.error for event in found] == [
            *(None, "ValueError: no such user"),
            *(None, "ValueError: no such user"),
        ]
        assert found[1].state == "retryable"
        await client.enqueue("snooze")
        assert kinds(await take(events, 2)) == ["started", "snoozed"]
    assert worker.id is None


async def test_a_cancel_is_seen(client: AsyncRoost) -> None:
    async with working(worker_of(client)), client.events() as events:
        waiting = await client.enqueue("other")
        child = await client.enqueue("other", depends_on=[waiting])
        await client.cancel(waiting)
        first, second = await take(events, 2)
        assert [first.job_id, second.job_id] == [waiting, child]
        assert {first.kind, first.state, second.kind} == {"cancelled"}
        assert (first.attempt, first.worker_id, first.task) == (0, None, "other")
        running = await client.enqueue("sleep")
        assert kinds(await take(events, 1)) == ["started"]
        await client.cancel(running)
        [cancelled] = await take(events, 1)
        assert (cancelled.kind, cancelled.job_id, cancelled.attempt) == ("cancelled", running, 1)


async def test_a_cancel_that_is_rolled_back_is_not_seen(client: AsyncRoost, dsn: str) -> None:
    async with client.events() as events:
        first, second = await client.enqueue("other"), await client.enqueue("other")
        with psycopg.connect(dsn) as conn, conn.transaction(force_rollback=True):
            conn.execute("select roost.report_cancelled(array[%s::bigint])", (first,))
        await client.cancel(second)
        [event] = await take(events, 1)
        assert event.job_id == second


async def test_an_interrupted_attempt_is_released(client: AsyncRoost) -> None:
    async with client.events() as events:
        async with working(worker_of(client, shutdown_timeout=0.0)):
            await client.enqueue("sleep")
            assert kinds(await take(events, 1)) == ["started"]
        [released] = await take(events, 1)
        assert (released.kind, released.state) == ("released", "available")


async def test_a_rescue_is_seen(client: AsyncRoost, table: JobTable) -> None:
    dead = table.add_worker(stale_after=-1)
    job_id = table.add("work")
    table.change(job_id, f"state = 'executing', attempt = 1, lease_no = 1, worker_id = {dead}")
    async with client.events(kinds=["rescued"]) as events, working(worker_of(client)):
        [event] = await take(events, 1)
        assert (event.job_id, event.worker_id, event.state) == (job_id, dead, "retryable")


async def test_only_wanted_events_are_seen(client: AsyncRoost) -> None:
    async with (
        working(worker_of(client)),
        client.events(tasks=["fail"], kinds=["discarded"]) as failures,
        client.events(queues=["none"]) as nothing,
    ):
        first = await client.enqueue("work")
        async with client.events(job_ids=[first + 2]) as one:
            await client.enqueue("fail")
            third = await client.enqueue("work")
            assert [event.job_id for event in await take(one, 2)] == [third, third]
        assert kinds(await take(failures, 1)) == ["discarded"]
        assert await nothing.receive(timeout=0.0) is None


async def test_bad_filters_are_refused(client: AsyncRoost, dsn: str) -> None:
    bad: list[dict[str, Any]] = [
        {"queues": "mail"},
        {"tasks": [""]},
        {"kinds": ["enqueued"]},
        {"job_ids": ["1"]},
        {"job_ids": 1},
        {"buffer": 0},
    ]
    with Roost(dsn) as blocking:
        for parameters in bad:
            with pytest.raises(InvalidSettingError):
                client.events(**parameters)
            with pytest.raises(InvalidSettingError):
                blocking.events(**parameters)


async def test_many_listeners_see_the_same(client: AsyncRoost) -> None:
    seen: list[list[tuple[str, int]]] = []

    async def listen(events: AsyncEvents) -> None:
        seen.append([(event.kind, event.job_id) for event in await take(events, 40)])

    async with working(worker_of(client)), anyio.create_task_group() as group:
        async with (
            client.events() as one,
            client.events() as two,
            client.events() as three,
            anyio.create_task_group() as listening,
        ):
            for events in (one, two, three):
                listening.start_soon(listen, events)
            await client.enqueue_many([JobInsert("work") for _ in range(20)])
        group.cancel_scope.cancel()
    assert seen[0] == seen[1] == seen[2]
    for job_id in {job_id for _, job_id in seen[0]}:
        assert [kind for kind, other in seen[0] if other == job_id] == ["started", "finished"]


async def test_a_slow_consumer_loses_the_oldest_and_is_told(client: AsyncRoost) -> None:
    async with working(worker_of(client)), client.events(buffer=5) as events:
        ids = await client.enqueue_all([JobInsert("work", {"n": n}) for n in range(50)])
        await client.wait_for(ids[-1] or 0, timeout=20)
        await eventually(lambda: events.missed == 95)
        found = await take(events, 5)
        assert [event.missed for event in found] == [95, 0, 0, 0, 0]
        await client.enqueue("work")
        assert [event.missed for event in await take(events, 2)] == [0, 0]


async def test_a_lost_connection_is_opened_again_and_told(
    client: AsyncRoost, table: JobTable
) -> None:
    async with working(worker_of(client)), client.events() as events:
        await client.enqueue("work")
        await take(events, 2)
        table.rows(END_LISTENERS)
        await eventually(lambda: events.gaps == 1 and table.value(LISTENERS) == 1)
        await eventually(lambda: bool(table.value("select roost.is_watched()")))
        seen: list[JobEvent] = []
        with anyio.fail_after(20):
            while not seen:
                await client.enqueue("work")
                if (event := await events.receive(timeout=1.0)) is not None:
                    seen.append(event)
        assert seen[0].missed is None
        [after] = await take(events, 1)
        assert after.missed == 0


async def test_events_go_on_after_a_restart_of_the_server(
    restartable_server: Any, registry: HandlerRegistry
) -> None:
    async with (
        AsyncRoost(restartable_server.dsn, registry=registry) as client,
        working(worker_of(client, listen_reconnect_delay=0.1)),
        client.events() as events,
    ):
        await client.enqueue("work")
        await take(events, 2)
        await anyio.to_thread.run_sync(restartable_server.restart)
        await eventually(lambda: events.gaps == 1)
        seen: JobEvent | None = None
        with anyio.fail_after(60):
            while seen is None:
                with suppress(DatabaseUnavailableError):
                    await client.enqueue("work")
                seen = await events.receive(timeout=1.0)
        assert seen.missed is None


async def test_without_a_listener_the_worker_records_nothing(
    client: AsyncRoost, table: JobTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    monkeypatch.setattr("roost._worker.lanes.events.send_events", sent.append)
    monkeypatch.setattr("roost._worker.lanes.events.EventLog", sent.append)
    await client.enqueue_many([JobInsert(task) for task in ("work", "fail", "snooze") * 5])
    await worker_of(client).run_once()
    async with working(worker_of(client)):
        await client.wait_for(await client.enqueue("work"))
    assert sent == []
    assert table.value(LISTENERS) == 0


async def test_the_worker_stops_sending_when_the_listener_has_left(
    client: AsyncRoost, table: JobTable
) -> None:
    worker = worker_of(client)
    async with working(worker):
        assert worker._session is not None
        state = worker._session.state
        assert state.events is None
        async with client.events() as events:
            assert state.events is not None
            await client.enqueue("work")
            await take(events, 2)
        await eventually(lambda: table.value(LISTENERS) == 0)
        await eventually(lambda: not table.value("select roost.is_watched()"))
        await client.wait_for(await client.enqueue("work"))
        await eventually(lambda: state.events is None)


async def test_a_plain_loop_listens_until_it_is_left(client: AsyncRoost, table: JobTable) -> None:
    async with working(worker_of(client)), anyio.create_task_group() as group:

        async def keep_working() -> None:
            while True:
                await client.enqueue("work")
                await anyio.sleep(0.05)  # sleeps: the loop may not listen yet

        group.start_soon(keep_working)
        with anyio.fail_after(20):
            async for event in client.events():
                assert event.task == "work"
                break
        await eventually(lambda: table.value(LISTENERS) == 0)
        with anyio.move_on_after(0.5):
            async for _ in client.events(queues=["none"]):
                pass
        await eventually(lambda: table.value(LISTENERS) == 0)
        group.cancel_scope.cancel()


async def test_a_cancel_and_an_error_leave_nothing_behind(
    client: AsyncRoost, table: JobTable
) -> None:
    with anyio.move_on_after(1.0) as scope:
        async with client.events() as events:
            async for _ in events:
                pass
    assert scope.cancelled_caught
    with pytest.raises(ZeroDivisionError):
        async with client.events():
            raise ZeroDivisionError
    await eventually(lambda: table.value(LISTENERS) == 0)


async def test_a_listener_that_can_not_receive_says_so(
    client: AsyncRoost, dsn: str, registry: HandlerRegistry
) -> None:
    events = client.events()
    with pytest.raises(ClosedError, match="block"):
        await events.receive(timeout=0.1)
    async with events:
        assert await events.receive(timeout=0.1) is None
        with pytest.raises(ClosedError, match="again"):
            await events.__aenter__()
    assert await events.receive() is None
    with pytest.raises(ClosedError, match="again"):
        await events.__aenter__()

    def block() -> None:
        with Roost(dsn, registry=registry) as blocking:
            events = blocking.events()
            with pytest.raises(ClosedError, match="block"):
                events.receive(timeout=0.1)
            with events:
                assert events.receive(timeout=0.1) is None
            assert events.receive() is None
            with pytest.raises(ClosedError, match="again"):
                events.__enter__()

    await anyio.to_thread.run_sync(block)


async def test_a_listener_of_a_closed_client_ends_with_an_error(
    dsn: str, registry: HandlerRegistry, table: JobTable
) -> None:
    async with AsyncRoost(dsn, registry=registry) as client, client.events() as events:
        await client.close()
        table.rows(END_LISTENERS)
        with pytest.raises(ClosedError), anyio.fail_after(20):
            await events.receive()

    def block() -> None:
        with Roost(dsn, registry=registry) as blocking, blocking.events() as events:
            blocking.close()
            table.rows(END_LISTENERS)
            with pytest.raises(ClosedError):
                events.receive(timeout=20)

    await anyio.to_thread.run_sync(block)
    await eventually(lambda: table.value(LISTENERS) == 0)


async def test_closing_the_client_ends_its_events_at_once(
    client: AsyncRoost, dsn: str, registry: HandlerRegistry, table: JobTable
) -> None:
    reading = AsyncRoost(dsn, registry=registry)
    loop_listens, block_listens = anyio.Event(), anyio.Event()
    ended: list[str] = []

    async def loop() -> None:
        try:
            async for _ in reading.events():
                loop_listens.set()
        except ClosedError:
            ended.append("loop")

    async def receive_in_a_block() -> None:
        async with reading.events(tasks=["none"]) as events:
            block_listens.set()
            with pytest.raises(ClosedError):
                await events.receive()
            with pytest.raises(ClosedError):
                await anext(events)

    with anyio.fail_after(20):
        async with working(worker_of(client)), anyio.create_task_group() as group:
            group.start_soon(loop)
            while not loop_listens.is_set():  # it does not say when it listens
                await client.enqueue("work")
                await anyio.sleep(0.02)
            async with reading.events(kinds=["finished"]) as events:
                await client.enqueue("work")
                await eventually(lambda: bool(events._buffer))
                group.start_soon(receive_in_a_block)
                await block_listens.wait()
                await reading.close()
                assert (await anext(events)).kind == "finished"
    assert ended == ["loop"]
    await eventually(lambda: table.value(LISTENERS) == 0)
    with pytest.raises(ClosedError):
        async with reading.events():
            pass
    with pytest.raises(ClosedError):
        await anext(aiter(reading.events()))


def test_closing_the_blocking_client_ends_its_events_in_all_threads(
    dsn: str, registry: HandlerRegistry, table: JobTable
) -> None:
    client = Roost(dsn, registry=registry)
    job_id = client.enqueue("work")
    ended: list[str] = []

    def loop() -> None:
        with pytest.raises(ClosedError):
            list(client.events())
        ended.append("loop")

    def receive() -> None:
        with client.events() as events:
            with pytest.raises(ClosedError):
                events.receive()
            with pytest.raises(ClosedError):
                events.receive(timeout=5.0)
        ended.append("receive")

    def wait() -> None:
        with pytest.raises(ClosedError):
            client.wait_for(job_id, timeout=None, poll_interval=0.1)
        ended.append("wait")

    threads = [threading.Thread(target=body, daemon=True) for body in (loop, receive, wait)]
    for thread in threads:
        thread.start()
    until(lambda: sum(each.name == "roost events" for each in threading.enumerate()) == 2)
    client.close()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == ["loop", "receive", "wait"]
    until(lambda: table.value(LISTENERS) == 0)
    with pytest.raises(ClosedError), client.events():
        pass


async def test_forged_notifications_do_no_harm(client: AsyncRoost, table: JobTable) -> None:
    async with working(worker_of(client)), client.events() as events:
        for payload in (
            "",
            "x",
            "1",
            "1 {}",
            "1 []",
            "nan {}",
            '1 {"w":1,"g":0,"m":-5,"e":[]}',
            '1 {"w":1,"g":0,"m":0,"e":[1]}',
            '1 {"w":1,"g":0,"m":0,"e":[["finished"]]}',
            '1e30 {"w":1,"g":0,"m":0,"e":[["finished",1,"q","t",1,1,"completed",0]]}',
            '1 {"w":1,"g":0,"m":0,"e":[["made up",1,"q","t",1,1,"completed",0]]}',
        ):
            table.rows("select pg_notify('roost_events', $1::text)", payload)
        job_id = await client.enqueue("work")
        assert [event.job_id for event in await take(events, 2)] == [job_id, job_id]


async def test_the_blocking_client_sees_events(
    dsn: str, registry: HandlerRegistry, table: JobTable
) -> None:
    async with AsyncRoost(dsn, registry=registry) as client, working(worker_of(client)):

        def listen(body: Callable[[Roost], None]) -> None:
            with Roost(dsn, registry=registry) as blocking:
                body(blocking)

        def block(blocking: Roost) -> None:
            with blocking.events(buffer=4) as events:
                blocking.enqueue("fail")
                for kind in ("started", "failed", "started", "discarded"):
                    event = events.receive(timeout=20)
                    assert event is not None
                    assert event.kind == kind
                assert event is not None
                assert event.error == "ValueError: no such user"
                assert events.receive(timeout=0.0) is None
                blocking.enqueue_many([JobInsert("work") for _ in range(20)])
                until(lambda: events.missed == 36)  # of two events for each job, four are kept
            assert [event.missed for event in events] == [36, 0, 0, 0]

        def loop(blocking: Roost) -> None:
            stop = threading.Timer(0.5, lambda: blocking.enqueue("work"))
            stop.start()
            for event in blocking.events(tasks=["work"]):
                assert event.kind == "started"
                break
            stop.join()

        for body in (block, loop):
            await anyio.to_thread.run_sync(listen, body)
        await eventually(lambda: table.value(LISTENERS) == 0)
    names = {thread.name for thread in threading.enumerate()}
    assert "roost events" not in names
