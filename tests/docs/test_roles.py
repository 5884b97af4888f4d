"""The grants of the page on deployment are enough for each role, and no more than that."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import attrs
import psycopg
import pytest

from roost import AsyncRoost, DatabaseError, HandlerRegistry, JobInsert, JobTimeoutError, cron, job
from roost.testing.conformance.cases import eventually
from roost.testing.job_table import JobTable
from roost.testing.working import working

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs/how-to/deploy-and-upgrade.md"
GRANTS = re.search(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
ROLES = ("producer", "worker", "viewer", "operator")
NOT_ALLOWED = "42501"


@attrs.frozen
class Roles:
    """DSNs of the same database for each role."""

    producer: str
    worker: str
    viewer: str
    operator: str


@pytest.fixture
def roles(dsn: str) -> Iterator[Roles]:
    """Make the page's roles under names of the test's own: roles belong to the whole server."""
    assert GRANTS is not None
    suffix = uuid.uuid4().hex[:12]
    names = {role: f"roost_{role}_{suffix}" for role in ROLES}
    grants = re.sub(r"roost_(producer|worker|viewer|operator)", rf"roost_\1_{suffix}", GRANTS[1])
    with psycopg.connect(dsn, autocommit=True) as owner:
        for name in names.values():
            owner.execute(f"create role {name} login password 'secret'".encode())
        try:
            owner.execute(grants.encode())
            yield Roles(**{role: as_role(dsn, name) for role, name in names.items()})
        finally:
            for name in names.values():
                owner.execute(f"drop owned by {name}".encode())
                owner.execute(f"drop role {name}".encode())


def as_role(dsn: str, name: str) -> str:
    """Return the DSN with another user."""
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    return f"postgresql://{name}:secret@{host}{parts.path}" + (
        f"?{parts.query}" if parts.query else ""
    )


@pytest.fixture
def registry(registry: HandlerRegistry) -> HandlerRegistry:
    """Return a registry with a task of each outcome."""

    @job("work", registry=registry)
    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    @job("fail", registry=registry)
    async def fail() -> None:
        raise ValueError("as it should")

    @job("limited", registry=registry, max_concurrency=1, rate_per_minute=100)
    async def limited() -> None: ...

    return registry


async def test_a_producer_can_enqueue_in_every_way(
    roles: Roles, registry: HandlerRegistry, table: JobTable
) -> None:
    async with AsyncRoost(roles.producer, registry=registry) as roost:
        parent = await roost.enqueue("work", unique_key="one")
        with pytest.raises(DatabaseError) as caught:
            await roost.get(parent)
        assert caught.value.sqlstate == NOT_ALLOWED
        await roost.enqueue_many([JobInsert("work", unique_key="one"), JobInsert("limited")])
        async with roost.transaction() as conn:
            child = await roost.enqueue("work", depends_on=[parent], conn=conn)
        with pytest.raises(JobTimeoutError):
            await roost.wait_for(child, timeout=0.1)
    assert table.states() == {"available": 3}
    assert table.column(child, "pending_parents") == 1


async def test_a_producer_can_do_nothing_else(roles: Roles, table: JobTable) -> None:
    job_id = table.add()
    async with AsyncRoost(roles.producer) as roost:
        for forbidden in (roost.get, roost.cancel, roost.retry):
            with pytest.raises(DatabaseError) as caught:
                await forbidden(job_id)
            assert caught.value.sqlstate == NOT_ALLOWED
        with pytest.raises(DatabaseError) as caught:
            await roost.worker().run()
        assert caught.value.sqlstate == NOT_ALLOWED
    for statement in ("select args from roost.jobs", "delete from roost.jobs"):
        refused(roles.producer, statement)


async def test_a_worker_can_run_every_kind_of_job(
    roles: Roles, registry: HandlerRegistry, table: JobTable
) -> None:
    done, limited, orphan = table.add("work"), table.add("limited"), table.add("work")
    failed = table.add("fail", max_attempts=1)
    dead = table.add_worker(stale_after=-1)
    table.change(orphan, f"state = 'executing', worker_id = {dead}, attempt = 1")
    async with AsyncRoost(roles.producer, registry=registry) as roost:
        child = await roost.enqueue("work", depends_on=[done])
        lost = await roost.enqueue("work", depends_on=[failed])
    async with AsyncRoost(roles.worker, registry=registry) as roost:
        worker = roost.worker(
            archive_after_seconds=0,
            result_ttl_seconds=0,
            archive_interval=0.05,
            orphan_reaper_interval=0.05,
        )
        async with working(worker):
            jobs = [done, failed, limited, orphan, child, lost]
            archived = "select count(*) from roost.jobs_archive"
            await eventually(lambda: table.value(archived) == len(jobs))
    states = [table.get(job_id).state for job_id in jobs]
    assert states == ["completed", "discarded", "completed", "completed", "completed", "cancelled"]
    assert table.workers() == []


async def test_a_worker_can_fire_cron_entries(
    roles: Roles, registry: HandlerRegistry, table: JobTable
) -> None:
    @cron("* * * * * *", name="tick", handler_registry=registry)
    def tick() -> None: ...

    async with AsyncRoost(roles.operator, registry=registry) as roost:
        async with working(AsyncRoost(roles.worker, registry=registry).worker()):
            await eventually(lambda: "completed" in table.states())
        await roost.pause_cron("tick")
        await roost.resume_cron("tick")
        await roost.run_cron_now("tick")


async def test_a_worker_can_not_change_what_people_set(roles: Roles) -> None:
    async with AsyncRoost(roles.worker) as roost:
        with pytest.raises(DatabaseError) as caught:
            await roost.pause_queue("default")
        assert caught.value.sqlstate == NOT_ALLOWED
    for relation in ("queues", "migrations"):
        refused(roles.worker, f"delete from roost.{relation}")


async def test_a_viewer_can_look_and_nothing_else(roles: Roles, table: JobTable) -> None:
    job_id = table.add()
    async with AsyncRoost(roles.viewer) as roost:
        assert (await roost.get(job_id)).state == await roost.status(job_id) == "available"
        assert [queue.name for queue in await roost.list_queues()] == ["default"]
        assert await roost.list_workers() == []
        for call in (
            lambda: roost.enqueue("work"),
            lambda: roost.cancel(job_id),
            lambda: roost.retry(job_id),
            lambda: roost.pause_queue("default"),
        ):
            with pytest.raises(DatabaseError) as caught:
                await call()
            assert caught.value.sqlstate == NOT_ALLOWED
    for table_name in ("jobs", "workers", "limits", "queues", "jobs_archive", "dependencies"):
        refused(roles.viewer, f"delete from roost.{table_name}")


async def test_an_operator_can_steer(
    roles: Roles, registry: HandlerRegistry, table: JobTable
) -> None:
    parent = table.add("work")
    async with AsyncRoost(roles.producer) as roost:
        child = await roost.enqueue("work", depends_on=[parent])
    async with AsyncRoost(roles.operator) as roost:
        assert await roost.cancel(parent)
        assert await roost.status(child) == "cancelled"
        assert await roost.retry(parent)
        table.change(parent, "state = 'discarded', discarded_at = now()")
        assert await roost.requeue_discarded() == 1
        await roost.pause_queue("default")
        await roost.resume_queue("default")
        assert [queue.available for queue in await roost.list_queues()] == [1]
        table.change(parent, "state = 'completed', completed_at = now()")
        async with working(
            AsyncRoost(roles.worker, registry=registry).worker(
                archive_after_seconds=0, archive_interval=0.05
            )
        ):
            await eventually(lambda: table.value("select count(*) from roost.jobs_archive") == 2)
        assert await roost.retry(parent)
        with pytest.raises(DatabaseError) as caught:
            await roost.worker().run()
        assert caught.value.sqlstate == NOT_ALLOWED


def refused(dsn: str, statement: str) -> None:
    """Check that the role may not run the statement."""
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())
