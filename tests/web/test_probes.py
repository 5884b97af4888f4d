"""``/livez`` and ``/readyz`` say what a worker knows of itself, before, while and after it runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.proxy import Proxy
from tests.support.working import working

from roost import HandlerRegistry, InvalidSettingError, Worker, job
from roost.contrib.prometheus import RoostCollector, as_text
from roost.web import Address, probes, serving

if TYPE_CHECKING:
    from tests.web.conftest import Get

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
HOST = "127.0.0.1:0"


async def read(get: Get, address: Address, path: str) -> tuple[int, dict[str, Any]]:
    response = await get(address, path)
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    return response.status_code, body


async def until_ready(worker: Worker) -> None:
    await eventually(lambda: worker.health().ready, within=60)


async def test_a_worker_is_ready_from_its_first_claim_until_its_stop(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, get: Get
) -> None:
    may_start, may_end = anyio.Event(), anyio.Event()

    @job("waits", registry=registry)
    async def waits() -> None:
        await may_end.wait()

    async def wait_for_start() -> None:
        await may_start.wait()

    table.add("waits")
    worker = make_worker(on_startup=wait_for_start, concurrency=7)
    async with serving(worker, HOST) as address, anyio.create_task_group() as group:
        before = await read(get, address, "/readyz")
        assert before[0] == 503
        assert before[1]["reasons"] == ["the worker was not started yet"]

        group.start_soon(worker.run)
        await eventually(lambda: worker.health().phase == "starting")
        status, starting = await read(get, address, "/readyz")
        assert status == 503
        assert starting["reasons"] == [
            "the worker is starting: it waits for the database or for its lifespan"
        ]
        assert (await read(get, address, "/livez"))[0] == 200

        may_start.set()
        await until_ready(worker)
        await eventually(lambda: worker.health().running == 1)
        status, ready = await read(get, address, "/readyz")
        assert status == 200
        assert ready["status"] == "ok"
        assert (ready["reasons"], ready["running"], ready["slots"]) == ([], 1, 7)
        assert [ready["worker_id"]] == table.workers()
        assert ready["heartbeat_age_seconds"] < 15

        worker.request_stop()
        status, stopping = await read(get, address, "/readyz")
        assert status == 503
        assert stopping["reasons"] == ["the worker is stopping"]
        assert (await read(get, address, "/livez"))[0] == 200

        may_end.set()
        await eventually(lambda: worker.health().phase == "ended")
        status, ended = await read(get, address, "/readyz")
        assert status == 503
        assert ended["reasons"] == ["the worker has ended"]
        assert (await read(get, address, "/livez"))[0] == 200
    assert table.states() == {"completed": 1}


async def test_a_worker_that_crashed_is_not_live(make_worker: MakeWorker, get: Get) -> None:
    def fail() -> None:
        raise ValueError("no")

    worker = make_worker(on_startup=fail)
    async with serving(worker, HOST) as address:
        with pytest.raises(ValueError, match="no"):
            await worker.run()
        status, body = await read(get, address, "/livez")
    assert status == 503
    assert body["reasons"] == ["the worker has crashed"]


@pytest.mark.timing
async def test_a_worker_that_is_cut_off_is_not_ready_until_it_is_back(
    proxied: Callable[[], AbstractAsyncContextManager[tuple[Proxy, str]]],
    make_worker: MakeWorker,
    get: Get,
) -> None:
    async with proxied() as (proxy, dsn):
        worker = make_worker(
            dsn=dsn,
            poll_interval=0.05,
            heartbeat_interval=0.3,
            orphan_stale_after=3.0,
            listen_reconnect_delay=0.05,
        )
        async with serving(worker, HOST) as address, working(worker):
            await until_ready(worker)
            proxy.swallow()
            proxy.cut()
            await eventually(lambda: any("cut off" in reason for reason in worker.health().reasons))
            with anyio.fail_after(5):  # no answer waits for the database, which gives none
                status, body = await read(get, address, "/readyz")
                assert status == 503
                assert not body["ready"]
                assert (await read(get, address, "/livez"))[0] == 200
            proxy.forward()
            proxy.cut()  # those that have lost bytes never work again
            with anyio.fail_after(60):
                while (await read(get, address, "/readyz"))[0] != 200:
                    await anyio.sleep(0.02)  # sleeps: polls what the server answers


async def test_a_lost_listening_connection_is_a_reason(
    table: JobTable, make_worker: MakeWorker
) -> None:
    worker = make_worker(listen_reconnect_delay=60.0)
    async with working(worker):
        await until_ready(worker)
        table.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name like 'roost listen %'"
        )
        await eventually(lambda: not worker.health().ready)
        assert worker.health().reasons == [
            "the listening connection is lost, so jobs are found by polling"
        ]
        assert worker.health().live


async def test_the_routes_can_be_mounted_in_fastapi(make_worker: MakeWorker) -> None:
    worker = make_worker()
    app = FastAPI()
    app.mount("/worker", probes(worker))
    async with (
        working(worker),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://shop", trust_env=False
        ) as client,
    ):
        await until_ready(worker)
        ready = await client.get("/worker/readyz")
        head = await client.head("/worker/livez")
        post = await client.post("/worker/livez")
        other = await client.get("/worker/other")
    codes = [response.status_code for response in (ready, head, post, other)]
    assert codes == [200, 200, 405, 404]
    assert ready.json()["phase"] == "running"


async def test_another_thread_sees_that_the_loop_is_blocked(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen = threading.Event()
    ages: list[float] = []

    @job("blocks", registry=registry)
    async def blocks() -> None:
        seen.wait(60)

    worker = make_worker()

    def watch() -> None:
        while not ages or ages[-1] < 1.0:
            ages.append(worker.health().loop_age_seconds or 0.0)
            seen.wait(0.01)
        seen.set()

    async with working(worker):
        await until_ready(worker)
        table.add("blocks")
        await anyio.to_thread.run_sync(watch)
        await eventually(lambda: table.states() == {"completed": 1})
        text, _ = as_text(RoostCollector(worker))
    [lag] = re.findall(r"^roost_worker_event_loop_lag_seconds (.+)$", text.decode(), re.MULTILINE)
    assert float(lag) >= 0.5


async def test_a_second_run_starts_anew(make_worker: MakeWorker) -> None:
    worker = make_worker()
    await worker.run_once()
    assert worker.health().phase == "ended"
    async with working(worker):
        await until_ready(worker)
        assert worker.health().phase == "running"


async def test_without_the_extra_the_error_says_what_to_install(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost.web.extra.find_spec", lambda name: None)
    with pytest.raises(InvalidSettingError, match=r"pip install 'anyroost\[http\]'"):
        probes(make_worker())
    with pytest.raises(InvalidSettingError, match=r"pip install 'anyroost\[http\]'"):
        async with serving(make_worker(), HOST):
            pass
