"""The doctor finds dead rows, and what keeps vacuum from removing them."""

from __future__ import annotations

import struct
from collections.abc import Callable

import psycopg
import pytest
from psycopg import pq
from tests.doctor.conftest import Examine, Findings, examine_at
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import Finding, FindingLevel, JobInsert
from roost._model.doctor import vacuum
from roost._ops import doctor


def eventually(examine: Examine, wanted: Callable[[Findings], Finding | None]) -> Finding:
    """Examine until the statistics, which the server writes a little later, show it."""

    def found() -> Finding | None:
        return wanted(examine())

    finding = until(found)
    assert finding is not None
    return finding


def test_dead_rows_are_found(
    table: JobTable, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examine().one("dead_rows").level is FindingLevel.OK
    monkeypatch.setattr(vacuum, "MANY_DEAD", 500)
    table.script("alter table roost.jobs set (autovacuum_enabled = false)")
    table.add_all([JobInsert("work")] * 400)
    for _ in range(2):
        table.script("update roost.jobs set priority = priority + 1")
    finding = eventually(
        examine,
        lambda found: next(
            (each for each in found.of("dead_rows") if each.data.get("dead") == 800), None
        ),
    )
    assert (finding.level, finding.subject) == (FindingLevel.NOTE, "jobs")
    off = [each for each in examine().of("dead_rows") if "turned off" in each.seen]
    assert [each.level for each in off] == [FindingLevel.TROUBLE]
    table.script("alter table roost.jobs reset (autovacuum_enabled)")
    table.script("vacuum roost.jobs")
    eventually(
        examine,
        lambda found: next(
            (each for each in found.of("dead_rows") if each.level is FindingLevel.OK), None
        ),
    )


@pytest.mark.parametrize("value", ["off", "no", "0", "False"])
def test_autovacuum_that_is_turned_off_is_found_however_it_is_written(
    table: JobTable, examine: Examine, value: str
) -> None:
    table.script(f"alter table roost.jobs set (autovacuum_enabled = {value})")
    finding = examine().one("dead_rows", "jobs")
    assert finding.level is FindingLevel.TROUBLE
    table.script(finding.advice or "")
    assert examine().one("dead_rows").level is FindingLevel.OK


def test_autovacuum_that_is_turned_on_is_no_trouble(table: JobTable, examine: Examine) -> None:
    table.script("alter table roost.jobs set (autovacuum_enabled = yes)")
    assert examine().one("dead_rows").level is FindingLevel.OK


def test_an_index_of_unused_space_is_found(
    table: JobTable, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vacuum, "BIG_INDEX", 500_000)
    table.add_all([JobInsert("work", unique_key=f"{n:0>400}") for n in range(3_000)])
    table.script("vacuum analyze roost.jobs")
    assert examine().one("index_sizes").level is FindingLevel.OK
    table.script("delete from roost.jobs where id > 10")
    table.script("vacuum analyze roost.jobs")
    finding = examine().one("index_sizes")
    assert (finding.level, finding.subject) == (FindingLevel.NOTE, "jobs_unique_key")
    assert finding.data["entries"] == 10
    assert "reindex index concurrently roost.jobs_unique_key" in (finding.advice or "")


def test_a_transaction_that_holds_back_vacuum_is_found(
    dsn: str, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "OPEN_SINCE", 0.0)
    assert examine().one("long_transactions").level is FindingLevel.OK
    with psycopg.connect(dsn, application_name="forgetful") as open_for_long:
        open_for_long.execute("select pg_current_xact_id()")
        pid = open_for_long.info.backend_pid
        finding = examine().one("long_transactions")
    assert finding.level is FindingLevel.NOTE
    assert finding.data["application"] == "forgetful"
    assert finding.data["state"] == "idle in transaction"
    assert finding.subject == str(pid)
    assert "pg_terminate_backend" in (finding.advice or "")


def test_a_session_that_only_reads_holds_back_nothing(
    dsn: str, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "OPEN_SINCE", 0.0)
    with psycopg.connect(dsn) as idle:
        idle.execute("select 1")
        assert examine().one("long_transactions").level is FindingLevel.OK


def test_sessions_that_the_role_may_not_look_at_are_counted(dsn: str, table: JobTable) -> None:
    table.script("create role nosy login")
    try:
        found = examine_at(psycopg.conninfo.make_conninfo(dsn, user="nosy"))
    finally:
        table.script("drop role nosy")
    finding = found.one("long_transactions")
    assert finding.level is FindingLevel.NOTE
    assert finding.data["unseen"] is True
    assert finding.data["sessions"] >= 1


def test_a_replication_slot_without_a_client_is_found(own: JobTable, own_server: str) -> None:
    assert examine_at(own_server).one("replication_slots").level is FindingLevel.OK
    own.script("select pg_create_physical_replication_slot('lost', true)")
    try:
        finding = examine_at(own_server).one("replication_slots")
        assert (finding.level, finding.subject) == (FindingLevel.NOTE, "lost")
        report_oldest_row(own_server, "lost")
        left = until(
            lambda: next(
                (
                    each
                    for each in examine_at(own_server).of("replication_slots")
                    if each.data["transactions"] is not None and not each.data["active"]
                ),
                None,
            )
        )
        assert left is not None
        assert left.level is FindingLevel.TROUBLE
        assert "pg_drop_replication_slot('lost')" in (left.advice or "")
    finally:
        own.script("select pg_drop_replication_slot('lost')")


def report_oldest_row(dsn: str, slot: str) -> None:
    """Do as a standby that tells its primary which rows it still reads, then goes away."""
    with psycopg.connect(dsn, autocommit=True) as current:
        [xmin, position] = current.execute(
            "select pg_current_xact_id()::text::bigint, pg_current_wal_lsn()::text"
        ).fetchone() or [0, ""]
    conninfo = psycopg.conninfo.make_conninfo(dsn, replication="true")
    connection = pq.PGconn.connect(conninfo.encode())
    try:
        started = connection.exec_(f"START_REPLICATION SLOT {slot} PHYSICAL {position}".encode())
        assert started.status == pq.ExecStatus.COPY_BOTH, connection.error_message
        connection.put_copy_data(struct.pack("!cqIIII", b"h", 0, xmin, 0, 0, 0))
        connection.flush()
        with psycopg.connect(dsn, autocommit=True) as current:
            until(
                lambda: (
                    current.execute(
                        "select from pg_replication_slots where xmin is not null"
                    ).fetchone()
                    is not None
                )
            )
    finally:
        connection.finish()


def test_a_forgotten_prepared_transaction_is_found(
    own: JobTable, own_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "OPEN_SINCE", 0.0)
    own.script("begin; select pg_current_xact_id(); prepare transaction 'it''s forgotten'")
    finding = examine_at(own_server).one("prepared_transactions")
    own.script((finding.advice or "").rpartition("instead: ")[2])
    assert (finding.level, finding.subject) == (FindingLevel.NOTE, "it's forgotten")
    assert examine_at(own_server).one("prepared_transactions").level is FindingLevel.OK
