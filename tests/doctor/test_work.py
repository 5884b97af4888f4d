"""The doctor finds what is wrong with the workers, the queues and the cron entries."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from tests.doctor.conftest import Examine
from tests.support.conformance.cases import until
from tests.support.cron_table import declaration, declare
from tests.support.job_table import JobTable

from roost import CronEntry, FindingLevel, JobInsert, Roost


def ago(**units: float) -> datetime:
    return datetime.now(UTC) - timedelta(**units)


def add_worker(table: JobTable, *tasks: str, queues: tuple[str, ...] = ("default",)) -> int:
    """Add a living worker that knows the tasks."""
    worker = table.add_worker(queues=queues)
    table.rows(
        "update roost.workers set known_tasks = $2::text[] where id = $1::bigint",
        worker,
        list(tasks),
    )
    return worker


@pytest.mark.timing
def test_an_idle_database_has_no_trouble(table: JobTable, examine: Examine) -> None:
    add_worker(table, "work")
    assert examine().not_ok() <= {"settings"}  # the test's server is fast, not safe


def test_jobs_without_any_worker_are_found(table: JobTable, examine: Examine) -> None:
    assert examine().one("workers").level is FindingLevel.NOTE
    table.add()
    assert examine().one("workers").level is FindingLevel.TROUBLE


def test_a_dead_worker_is_found(table: JobTable, examine: Examine) -> None:
    dead = table.add_worker("crashed")
    table.add_all([JobInsert("work")] * 2)
    table.claim(dead)
    expire = """
        update roost.workers
        set expires_at = now() - make_interval(secs => $2::double precision)
        where id = $1::bigint
        """
    table.rows(expire, dead, 10.0)
    finding = examine().one("dead_workers")
    assert (finding.level, finding.subject) == (FindingLevel.TROUBLE, "crashed")
    assert finding.data["executing"] == 2
    assert "start a worker" in (finding.advice or "")
    add_worker(table, "work")
    assert examine().one("dead_workers").level is FindingLevel.NOTE  # it is rescued soon
    table.rows(expire, dead, 1_000.0)
    assert examine().one("dead_workers").level is FindingLevel.TROUBLE


def test_running_jobs_of_workers_that_are_gone_are_found(table: JobTable, examine: Examine) -> None:
    worker = table.add_worker()
    table.add()
    table.claim(worker)
    table.rows("delete from roost.workers")
    finding = examine().one("dead_workers")
    assert finding.level is FindingLevel.TROUBLE
    assert finding.data["executing"] == 1


def test_a_late_heartbeat_and_another_version_are_found(table: JobTable, examine: Examine) -> None:
    worker = add_worker(table, "work")
    table.rows(
        """
        update roost.workers
        set heartbeat_at = now() - interval '200 s', expires_at = now() + interval '100 s',
            version = '0.0.1'
        where id = $1::bigint
        """,
        worker,
    )
    late, version = examine().of("workers")
    assert (late.level, late.subject) == (FindingLevel.NOTE, "tester")
    assert version.data["versions"] == ["0.0.1"]


def test_a_blocked_event_loop_is_found(table: JobTable, examine: Examine) -> None:
    worker = add_worker(table, "work")
    assert examine().one("workers").level is FindingLevel.OK
    table.rows("update roost.workers set loop_lag = 2.5 where id = $1::bigint", worker)
    finding = examine().one("workers")
    assert (finding.level, finding.subject) == (FindingLevel.NOTE, "tester")
    assert "late by 2.5s" in finding.seen


@pytest.mark.parametrize(
    ("minutes", "level"),
    [(0.5, FindingLevel.OK), (3.0, FindingLevel.NOTE), (60.0, FindingLevel.TROUBLE)],
)
def test_the_oldest_job_that_can_start_is_found(
    table: JobTable, examine: Examine, minutes: float, level: FindingLevel
) -> None:
    add_worker(table, "work")
    table.add(scheduled_at=ago(minutes=minutes))
    finding = examine().one("oldest_ready")
    assert finding.level is level
    assert finding.data["seconds"] == pytest.approx(60 * minutes, abs=30)


def test_a_queue_that_no_worker_serves_is_found(table: JobTable, examine: Examine) -> None:
    add_worker(table, "work")
    table.add(queue="mail", scheduled_at=ago(seconds=1))
    table.add(queue="later", scheduled_at=ago(hours=-1))
    found = examine()
    assert found.one("unserved_queues", "mail").level is FindingLevel.TROUBLE
    assert "-q mail" in (found.one("unserved_queues", "mail").advice or "")
    assert found.one("unserved_queues", "later").level is FindingLevel.NOTE


def test_a_task_that_no_worker_knows_is_found(table: JobTable, examine: Examine) -> None:
    add_worker(table, "work")
    add_worker(table, "renamed", queues=("mail",))
    table.add_all([JobInsert("renamed", scheduled_at=ago(seconds=5))] * 3)
    table.add("work")
    finding = examine().one("unknown_tasks")
    assert (finding.level, finding.subject) == (FindingLevel.TROUBLE, "renamed")
    assert (finding.data["queue"], finding.data["jobs"]) == ("default", 3)


def test_a_paused_queue_is_found(table: JobTable, examine: Examine) -> None:
    table.add()
    table.script("insert into roost.queues (name, paused_at) values ('default', now())")
    finding = examine().one("pauses")
    assert (finding.level, finding.subject) == (FindingLevel.NOTE, "default")
    assert "roost queue resume default" in (finding.advice or "")
    table.script("update roost.queues set paused_at = now() - interval '2 d'")
    assert examine().one("pauses").level is FindingLevel.TROUBLE


def test_a_pause_that_a_worker_does_not_confirm_is_found(table: JobTable, examine: Examine) -> None:
    add_worker(table, "work")
    table.script(
        "insert into roost.queues (name, paused_at) values ('default', now() - interval '10 min')"
    )
    finding = examine().one("pauses")
    assert finding.level is FindingLevel.TROUBLE
    assert finding.data["unconfirmed"] == ["tester"]
    table.script("update roost.workers set paused = '{default}'")
    assert examine().one("pauses").level is FindingLevel.NOTE


def test_cron_entries_that_do_not_fire_are_found(
    dsn: str, table: JobTable, examine: Examine
) -> None:
    with Roost(dsn) as client:
        client.add_cron("unknown", "@hourly", "renamed")
        client.add_cron("overdue", "@hourly", "work")
        client.add_cron("paused", "@hourly", "renamed")
        client.pause_cron("paused")
    table.run(declare([declaration(CronEntry("declared", "@hourly", "work"))]))
    assert "no living worker fires" in examine().one("cron").seen
    add_worker(table, "work")
    table.script("update roost.cron set next_tick_at = now() - interval '5 min'")
    table.script("update roost.cron set next_tick_at = now() where name = 'declared'")
    found = examine()
    assert {each.subject for each in found.of("cron")} == {"unknown", "overdue"}
    assert found.one("cron", "unknown").level is FindingLevel.NOTE
    assert found.one("cron", "overdue").level is FindingLevel.TROUBLE


def test_a_locked_table_leaves_out_what_needs_it(
    dsn: str, table: JobTable, examine: Examine
) -> None:
    table.add()
    with psycopg.connect(dsn) as migration:
        migration.execute("lock table roost.workers in access exclusive mode")
        found = examine()
    assert found.one("workers").data == {"unseen": True}
    assert "lock timeout" in found.one("workers").seen
    assert found.one("schema").level is FindingLevel.OK
    assert found.one("pauses").data == {"unseen": True}
    assert found.one("unknown_tasks").data == {"unseen": True}


def test_advised_commands_name_any_queue_and_entry(
    dsn: str, table: JobTable, examine: Examine
) -> None:
    odd = 'bob\'s "mail" $HOME'
    table.add(queue=odd)
    with Roost(dsn) as client:
        client.add_cron(odd, "@hourly", "renamed")
        client.pause_queue(odd, timeout=0)
    add_worker(table, "work")
    found = examine()
    for check in ("unserved_queues", "pauses", "cron"):
        words = shlex.split((found.one(check).advice or "").rpartition("roost ")[2])
        assert words[-1] == odd, words


SCANS = """
select seq_scan
from pg_stat_all_tables
where relid = 'roost.jobs'::regclass
    -- A session writes its statistics when it ends.
    and (select count(*) from pg_stat_activity where datname = current_database()) = 1
"""


def test_no_statement_reads_all_jobs(dsn: str, examine: Examine) -> None:
    with JobTable(dsn) as table:
        worker = add_worker(table, "work")
        table.add_all([JobInsert("work", queue=f"queue {n % 5}") for n in range(5_000)])
        table.script(
            "update roost.jobs set state = 'completed', completed_at = now() where id % 10 > 0"
        )
        table.claim(worker, queues=["queue 1"])
        table.script("vacuum analyze roost.jobs")
    with JobTable(dsn) as reader:
        [(before,)] = until(lambda: reader.rows(SCANS))
        examine()
        [(after,)] = until(lambda: reader.rows(SCANS))
    assert after == before
