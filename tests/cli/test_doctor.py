"""`roost doctor` prints findings for people and programs, and its exit code says how it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

Says = Callable[..., str]
UNSAFE = ("--ignore", "settings")
"""The test's server is fast, not safe."""


@pytest.fixture
def says(dsn: str, roost_command: StartsRoost) -> Says:
    """Return a function that runs `roost doctor` and returns its output."""

    def run(*arguments: str, code: int = 0, dsn: str = dsn) -> str:
        done = roost_command("doctor", *arguments, ROOST_DSN=dsn)
        assert done.ends() == code, done.output
        return done.output

    return run


def found(output: str) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = json.loads(output)
    return findings


def test_without_trouble_it_exits_with_0_and_prints_what_is_to_note(says: Says) -> None:
    lines = says(*UNSAFE).splitlines()
    assert lines[0].split() == ["note", "workers", "no", "worker", "is", "running"]
    assert lines[1].strip() == "-> start one: roost run -m your_module"
    assert lines[2].startswith("0 trouble, 1 to note, ")
    assert len(lines) == 3
    everything = says(*UNSAFE, "--all")
    assert "all" in everything
    assert "indexes are there and valid" in everything


def test_trouble_comes_first_and_exits_with_1(says: Says, table: JobTable) -> None:
    table.script("drop index roost.jobs_counted")
    lines = says(*UNSAFE, code=1).splitlines()
    assert lines[0].startswith("trouble  indexes  the index roost.jobs_counted is missing")
    assert "create index concurrently jobs_counted on roost.jobs" in lines[1]
    assert lines[-1].startswith("1 trouble, 1 to note, ")


def test_a_program_reads_the_findings(says: Says, table: JobTable) -> None:
    table.add()
    findings = found(says(*UNSAFE, "--json", code=1))
    assert all(
        list(finding) == ["check", "level", "subject", "seen", "advice", "data"]
        for finding in findings
    )
    assert findings[0] == {
        "check": "workers",
        "level": "trouble",
        "subject": None,
        "seen": "no worker is running, and jobs are waiting",
        "advice": "start one: roost run -m your_module",
        "data": {"living": 0},
    }
    assert {finding["level"] for finding in findings[-5:]} == {"ok"}


def test_an_ignored_check_does_not_count(says: Says, table: JobTable) -> None:
    table.script("drop index roost.jobs_counted")
    findings = found(says(*UNSAFE, "--ignore", "indexes", "--json"))
    assert not [finding for finding in findings if finding["check"] == "indexes"]
    assert "no check is named 'nonsense'; there are: clock," in says("--ignore", "nonsense", code=2)


def test_a_database_that_is_away_is_one_finding(says: Says) -> None:
    away = "postgresql://nobody:secret@127.0.0.1:1/nothing?connect_timeout=2"
    output = says("--json", code=1, dsn=away)
    [finding] = found(output)
    assert (finding["check"], finding["level"]) == ("connection", "trouble")
    assert "secret" not in output


def test_without_a_free_connection_it_says_which_limit_to_raise(
    says: Says, dsn: str, table: JobTable
) -> None:
    role = f"roost_full_{table.value('select pg_backend_pid()')}"
    table.script(f"create role {role} login password 'secret' connection limit 0")
    try:
        full = psycopg.conninfo.make_conninfo(dsn, user=role, password="secret")
        [finding] = found(says("--json", code=1, dsn=full))
    finally:
        table.script(f"drop role {role}")
    assert finding["check"] == "connection"
    assert "max_connections" in finding["advice"]
