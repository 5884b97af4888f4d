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
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    DatabaseError,
    HandlerRegistry,
    JobInsert,
    JobTimeoutError,
    Roost,
    cron,
    job,
)
from roost._worker.lanes.metrics import MetricsLane
from roost._worker.worker import session_of

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs/how-to/deploy-and-upgrade.md"
GRANTS = re.search(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
ROLES = ("producer", "worker", "viewer", "operator")
NOT_ALLOWED = "42501"
RELATIONS = (
    *("jobs", "jobs_archive", "unique_holds", "unique_waiting_used", "dependencies"),
    *("workers", "limits", "starts", "rollups"),
    *("ready_keys", "key_wakes", "queues", "cron"),
    *("cron_declarations", "tasks", "migrations"),
)
WRITING = (
    "roost.enqueue('work')",
    """roost.insert_job('[{"task": "work"}]')""",
    """roost.insert_jobs('[{"task": "work"}]')""",
    """roost.insert_homogeneous('{"common": {"task": "work"}, "args": [{}]}')""",
    """roost.insert_dependent('[{"task": "work"}]')""",
    """roost.insert_or_dispatch('[{"task": "work"}]')""",
    """roost.insert_unique('[{"task": "work"}]', 'skip')""",
    """roost.fill_options('[{"task": "work"}]')""",
    "roost.active_job('key')",
    "roost.await_job(1)",
)
"""Calls of the functions of producers, which run with the owner's rights."""
CRON = (
    """roost.add_cron('{"name": "it", "expression": "@daily", "task": "work", "queue": "default",
    "args": {}, "priority": 0, "max_attempts": 20, "misfire": "last", "overlap": "allow",
    "jitter": 0, "next_tick_at": "2026-01-01"}')""",
    "roost.remove_cron('tick', 180)",
)
"""Calls of the functions of producers and operators, likewise."""
LIMITING = ("roost.set_limit('work', 1)", "roost.clear_limit('work')")
"""Calls of the functions of operators, likewise."""


@attrs.frozen
class Roles:
    """DSNs of the same database for each role."""

    producer: str
    worker: str
    viewer: str
    operator: str


@pytest.fixture
def roles(dsn: str) -> Iterator[Roles]:
    """Create the page's roles under names of this test: roles belong to the whole server."""
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

    @job("keyed", registry=registry, max_concurrency=1, rate_per_minute=100, limit_by="key")
    async def keyed(key: int = 0) -> None: ...

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
    for relation in RELATIONS:
        for statement in (
            "select from {}",
            "select from {} for update",
            "delete from {}",
            "truncate {}",
            "insert into {} default values",
            "lock table {} in access share mode",
        ):
            refused(roles.producer, statement.format(f"roost.{relation}"))
    refused(roles.producer, "insert into roost.jobs (task) values ('work')")
    refused(roles.producer, "insert into roost.jobs (task, state) values ('work', 'executing')")
    refused(roles.producer, "update roost.workers set credit = null")
    refused(roles.producer, "select nextval('roost.jobs_id_seq')")
    refused(roles.producer, "select setval('roost.jobs_id_seq', 1000)")


async def test_a_worker_can_run_every_kind_of_job(
    roles: Roles, registry: HandlerRegistry, table: JobTable
) -> None:
    done, limited, orphan = table.add("work"), table.add("limited"), table.add("work")
    failed = table.add("fail", max_attempts=1)
    keyed = [table.add("keyed", args={"key": key}) for key in (1, 1, 2)]
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
            await eventually(lambda: table.value(archived) == len(jobs) + len(keyed))
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
        await roost.add_cron("added", "@daily", "work")
        assert await roost.remove_cron("added")
    async with AsyncRoost(roles.producer, registry=registry) as producer:
        await producer.add_cron("added", "@daily", "work")
        assert await producer.remove_cron("added")


async def test_a_worker_can_read_the_numbers_that_it_exports(
    roles: Roles, table: JobTable, registry: HandlerRegistry
) -> None:
    table.add("quick", queue="mail")
    async with AsyncRoost(roles.worker, registry=registry) as roost:
        worker = roost.worker()
        async with working(worker):
            session = session_of(worker)
            assert session is not None
            session.read_database_view()
            await MetricsLane(session.state, session._database).once()
            numbers = session.read_database_view()
    assert numbers is not None
    assert numbers.living == 1
    assert {queue.name for queue in numbers.queues} == {"default", "mail"}


async def test_a_worker_can_not_change_what_operators_set(roles: Roles) -> None:
    async with AsyncRoost(roles.worker) as roost:
        with pytest.raises(DatabaseError) as caught:
            await roost.pause_queue("default")
        assert caught.value.sqlstate == NOT_ALLOWED
    for relation in ("queues", "migrations"):
        refused(roles.worker, f"delete from roost.{relation}")


async def test_a_viewer_can_only_read(roles: Roles, table: JobTable) -> None:
    job_id = table.add()
    async with AsyncRoost(roles.viewer) as roost:
        assert (await roost.get(job_id)).state == await roost.status(job_id) == "available"
        assert [job.id for job in await roost.list_jobs(queues=["default"])] == [job_id]
        assert (await roost.explain(job_id)).reason == "no_worker"
        assert [queue.name for queue in await roost.list_queues()] == ["default"]
        assert await roost.list_workers() == []
        assert await roost.list_tasks() == []
        assert (await roost.overview()).by_task == {}
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
        assert await roost.reschedule(parent, in_=60)
        assert await roost.update_jobs({"priority": 1}, ids=[parent]) == 1
        assert await roost.run_now(parent)
        table.change(parent, "state = 'discarded', discarded_at = now()")
        assert await roost.requeue_discarded() == 1
        await roost.pause_queue("default")
        await roost.resume_queue("default")
        await roost.set_limit("work", max_concurrency=3)
        assert [limit.max_concurrency for limit in await roost.list_limits()] == [3]
        assert await roost.clear_limit("work")
        assert [queue.available for queue in await roost.list_queues()] == [1]
        table.change(parent, "state = 'completed', completed_at = now()")
        async with working(
            AsyncRoost(roles.worker, registry=registry).worker(
                archive_after_seconds=0, archive_interval=0.05
            )
        ):
            await eventually(lambda: table.value("select count(*) from roost.jobs_archive") == 2)
        assert await roost.retry(parent)
        assert await roost.delete(parent)
        assert await roost.delete_jobs(ids=[child]) == 1
        with pytest.raises(DatabaseError) as caught:
            await roost.worker().run()
        assert caught.value.sqlstate == NOT_ALLOWED


@pytest.mark.parametrize("role", ROLES)
async def test_the_doctor_knows_the_role_and_fails_for_none(roles: Roles, role: str) -> None:
    async with AsyncRoost(getattr(roles, role)) as roost:
        found = {finding.check: finding for finding in await roost.doctor()}
    # An operator and a worker may read, too.
    assert role in found["rights"].data["roles"]
    assert found["rights"].level == "ok"
    assert found["notifications"].data["seconds"] >= 0  # rounded
    assert found["indexes"].level == "ok"
    assert found["workers"].data.get("unseen", False) is (role == "producer")


@pytest.mark.parametrize("role", ["producer", "worker", "viewer"])
def test_only_operators_can_call_the_functions_that_change_limits(roles: Roles, role: str) -> None:
    for call in LIMITING:
        refused(getattr(roles, role), f"select {call}")


@pytest.mark.parametrize("role", ROLES)
def test_no_role_can_change_functions_or_the_schema(roles: Roles, role: str) -> None:
    dsn = getattr(roles, role)
    for statement in (
        "create function roost.mine() returns void language sql as ''",
        "create or replace function roost.announce(queue text) returns void language sql as ''",
        "create table roost.mine (id bigint)",
        "create trigger mine before insert on roost.jobs execute function unique_key_recheck()",
        "alter function roost.announce(text) set search_path = public",
        "alter table roost.jobs add column mine text",
        "drop table roost.jobs",
        "truncate roost.jobs",
        "update roost.migrations set oldest_code = 1000",
        "lock table roost.migrations in share row exclusive mode",
        "create function pg_temp.mine(roost.name) returns void language sql as ''",
    ):
        refused(dsn, statement)


@pytest.mark.parametrize("role", ["worker", "viewer", "operator"])
def test_only_producers_can_call_the_functions_that_enqueue(roles: Roles, role: str) -> None:
    for call in WRITING:
        refused(getattr(roles, role), f"select {call}")


@pytest.mark.parametrize("role", ["worker", "viewer"])
def test_only_some_roles_can_add_and_remove_cron_entries(roles: Roles, role: str) -> None:
    for call in CRON:
        refused(getattr(roles, role), f"select {call}")


def test_a_role_without_grants_can_do_nothing(roles: Roles, dsn: str, table: JobTable) -> None:
    table.add()
    name = urlsplit(roles.viewer).username
    table.script(f"drop owned by {name}")
    for relation in RELATIONS:
        refused(roles.viewer, f"select from roost.{relation}")
    for call in (*WRITING, *CRON, "roost.announce('default')", "roost.list_queues()"):
        refused(roles.viewer, f"select {call}")


def test_objects_planted_in_a_session_do_not_run_with_the_owners_rights(
    roles: Roles, dsn: str, table: JobTable
) -> None:
    parent = table.add("work")
    table.rows("grant create on schema public to public")
    with psycopg.connect(roles.producer, autocommit=True) as session:
        me = urlsplit(roles.producer).username
        session.execute(
            """
            create table public.ran_as (name text);
            grant insert on public.ran_as to public;
            create function public.trap(text, text) returns boolean language plpgsql as $$
            begin
                insert into public.ran_as values (current_user);
                return true;
            end $$;
            create operator public.= (leftarg = text, rightarg = text, function = public.trap);
            create function public.now() returns timestamptz language plpgsql as $$
            begin
                insert into public.ran_as values (current_user);
                return pg_catalog.now();
            end $$;
            create function public.statement_timestamp() returns timestamptz
                language sql as 'select public.now()';
            create function public.pg_notify(text, text) returns void
                language sql as 'select public.now()';
            create domain public.jsonb as text;
            create temp table limits (task text);
            create temp table jobs (id bigint);
            create temp table text (id bigint);
            create temp table jsonb (id bigint);
            create temp table timestamptz (id bigint);
            set search_path = public, pg_temp, pg_catalog;
            """
        )
        content = f"""[{{"queue": "default", "task": "work", "args": {{}}, "priority": 0,
            "max_attempts": 20, "unique_key": "k", "depends_on": [{parent}]}}]"""
        for function in ("insert_job", "insert_jobs", "insert_or_dispatch", "insert_dependent"):
            cursor = session.execute(f"select * from roost.{function}(%s)".encode(), (content,))
            assert cursor.fetchone() is not None
        homogeneous = (
            '{"common": {"queue": "default", "task": "work", "priority": 0, "max_attempts": 20},'
            ' "args": [{}]}'
        )
        session.execute("select roost.insert_homogeneous(%s)", (homogeneous,))
        session.execute("select roost.enqueue('work')")
        session.execute("select roost.active_job('k')")
        session.execute("select roost.await_job(%s)", (parent,))
    assert {name for (name,) in table.rows("select distinct name from public.ran_as")} <= {me}
    assert table.states() == {"available": 4}


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_can_keep_others_from_enqueueing_or_from_a_heartbeat(
    roles: Roles, role: str, table: JobTable, dsn: str
) -> None:
    table.add_worker()
    if role in {"worker", "operator"}:
        return  # a role that may update the tables may lock their rows
    with psycopg.connect(getattr(roles, role)) as session:
        for statement in (
            "select from roost.workers for update",
            "select from roost.jobs for key share",
            "insert into roost.jobs (id, task) overriding system value values (2, 'work')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), session.transaction():
                session.execute(statement.encode())
        async with AsyncRoost(dsn) as roost:
            await roost.enqueue("work")
        table.script("set lock_timeout = '1s'; update roost.workers set heartbeat_at = now()")


def test_the_owner_need_not_be_a_superuser(empty_dsn: str) -> None:
    name = f"roost_owner_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(empty_dsn, autocommit=True) as admin:
        admin.execute(f"create role {name} login password 'secret'".encode())
        try:
            admin.execute(f"grant create on database {admin.info.dbname} to {name}".encode())
            with Roost(as_role(empty_dsn, name)) as roost:
                roost.setup_schema()
                roost.setup_schema()
                assert roost.get(roost.enqueue("work")).state == "available"
        finally:
            admin.execute(f"drop owned by {name} cascade".encode())
            admin.execute(f"drop role {name}".encode())


def test_another_role_can_not_prevent_the_setup_of_the_schema(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as stranger:
        for name in ("roost.migrations", "roost"):
            stranger.execute("select pg_advisory_lock(hashtextextended(%s, 0))", (name,))
        with Roost(empty_dsn) as roost:
            roost.setup_schema()
            assert roost.enqueue("work") == 1


def refused(dsn: str, statement: str) -> None:
    """Check that the role may not run the statement."""
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())
