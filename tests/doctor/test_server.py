"""The doctor finds what is wrong with the connection, the server and its settings."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.doctor.conftest import Examine, examine_at
from tests.support.job_table import JobTable

from roost import DatabaseUnavailableError, FindingLevel
from roost._client import doctor
from roost._model.doctor.server import HURTFUL


def database_of(dsn: str) -> str:
    return f'"{conninfo_to_dict(dsn)["dbname"]}"'


@pytest.mark.timing
def test_a_direct_connection_is_recognized(examine: Examine) -> None:
    found = examine()
    assert found.one("pooler").data["pooler"] is False
    notified = found.one("notifications")
    assert notified.level is FindingLevel.OK
    assert 0 < notified.data["seconds"] < doctor.NOTIFY_TIMEOUT
    assert found.one("round_trip").data["seconds"] > 0
    assert found.one("server").level is FindingLevel.OK
    assert found.one("clock").level is FindingLevel.OK


def test_no_connection_for_the_listener_leaves_one_check_out(
    dsn: str, table: JobTable, examine: Examine
) -> None:
    table.script("create role lonely login superuser connection limit 1")
    try:
        table.script("alter role lonely nosuperuser")
        found = examine_at(psycopg.conninfo.make_conninfo(dsn, user="lonely"))
    finally:
        table.script("drop role lonely")
    assert found.one("notifications").data == {"unseen": True}
    limit = found.one("connections", "role")
    assert (limit.level, limit.data) == (FindingLevel.TROUBLE, {"used": 1, "limit": 1})
    assert examine().one("notifications").level is FindingLevel.OK


@pytest.mark.parametrize(
    ("shift", "level"),
    [(5.0, FindingLevel.NOTE), (-5.0, FindingLevel.NOTE), (-300.0, FindingLevel.TROUBLE)],
)
def test_a_clock_that_is_off_is_found(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, shift: float, level: FindingLevel
) -> None:
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: time.time() + shift))
    clock = examine().one("clock")
    assert clock.level is level
    assert clock.data["ahead_seconds"] == pytest.approx(shift, abs=0.5)
    assert ("ahead of" if shift > 0 else "behind") in clock.seen


def test_connections_that_run_out_are_found(dsn: str, table: JobTable, examine: Examine) -> None:
    table.script(f"alter database {database_of(dsn)} connection limit 2")
    limit = examine().one("connections", "database")
    assert (limit.level, limit.data) == (FindingLevel.TROUBLE, {"used": 2, "limit": 2})


def test_settings_of_the_server_that_hurt_are_found(table: JobTable, examine: Examine) -> None:
    hurtful = {
        name
        for name in ("autovacuum", "fsync", "full_page_writes", "synchronous_commit")
        if table.value(f"show {name}") == "off"
    }
    settings = examine().of("settings")
    assert {each.subject for each in settings} == set(hurtful or [None])


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("default_transaction_read_only", "on", FindingLevel.TROUBLE),
        ("default_transaction_isolation", "serializable", FindingLevel.NOTE),
        ("statement_timeout", "1s", FindingLevel.NOTE),
        ("lock_timeout", "10ms", FindingLevel.NOTE),
        ("idle_in_transaction_session_timeout", "1s", FindingLevel.NOTE),
        ("idle_session_timeout", "1min", FindingLevel.NOTE),
        ("transaction_timeout", "2s", FindingLevel.NOTE),
        ("jit_above_cost", "1", FindingLevel.NOTE),
        ("track_counts", "off", FindingLevel.TROUBLE),
        ("synchronous_commit", "off", FindingLevel.NOTE),
    ],
)
def test_settings_of_a_database_that_hurt_are_found(
    dsn: str, table: JobTable, examine: Examine, name: str, value: str, level: FindingLevel
) -> None:
    assert name in HURTFUL
    if not table.rows("select from pg_settings where name = $1::text", name):
        pytest.skip("this server has no such setting")
    table.script(f"alter database {database_of(dsn)} set {name} = '{value}'")
    if name == "jit_above_cost":
        table.script(f"alter database {database_of(dsn)} set jit = on")
    subject = "jit" if name == "jit_above_cost" else name
    assert examine().one("settings", subject).level is level


def test_a_standby_is_found(restartable_server: Any) -> None:
    assert examine_at(restartable_server.dsn).one("server").level is FindingLevel.OK
    restartable_server.stop()
    signal = restartable_server.cluster.paths.cluster / "standby.signal"
    signal.touch()
    try:
        restartable_server.start()
        found = examine_at(restartable_server.dsn)
        restartable_server.stop()
    finally:
        signal.unlink()
    finding = found.one("server")
    assert finding.level is FindingLevel.TROUBLE
    assert "standby" in finding.seen
    # The rest of the checks is read from a standby, too.
    assert found.one("tables").level is FindingLevel.OK
    assert found.one("replication_slots").level is FindingLevel.OK


def test_a_server_that_is_away_raises(restartable_server: Any) -> None:
    restartable_server.stop()
    with pytest.raises(DatabaseUnavailableError):
        examine_at(restartable_server.dsn)


def test_a_full_queue_of_notifications_is_found(own: JobTable, own_server: str) -> None:
    assert examine_at(own_server).one("notify_queue").level is FindingLevel.OK
    if own.value("select current_setting('max_notify_queue_pages', true)") is None:
        pytest.skip("the queue of a server before Postgres 17 has 8 GB")
    with psycopg.connect(own_server) as sleeper:
        sleeper.execute("listen anything")
        sleeper.commit()
        sleeper.execute("select")  # a transaction that stays open: the queue can't be cleared
        for _ in range(50):
            own.rows("select pg_notify('anything', repeat('x', 7900))")
        finding = examine_at(own_server).one("notify_queue")
    assert finding.level is FindingLevel.TROUBLE
    assert finding.data["usage"] > 0.5
