"""`roost init` and `roost migrate` change the schema of the database that is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from roost._sql import migrations

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost


def has_jobs(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select to_regclass('roost.jobs') is not null").fetchone()
        assert row is not None
        return bool(row[0])


def test_init_creates_the_schema_and_a_second_time_nothing(
    empty_dsn: str, roost_command: StartsRoost
) -> None:
    first = roost_command("init", ROOST_DSN=empty_dsn)
    assert first.ends() == 0
    assert first.output.count("applied") == len(migrations())
    assert has_jobs(empty_dsn)

    second = roost_command("init", "--dsn", empty_dsn, ROOST_DSN="postgresql://127.0.0.1:1/not")
    assert second.ends() == 0
    assert "Nothing to do" in second.output


def test_migrations_go_up_and_down_and_status_tells(
    empty_dsn: str, roost_command: StartsRoost
) -> None:
    def ends(*arguments: str) -> tuple[int, str]:
        done = roost_command("migrate", *arguments, DATABASE_URL=empty_dsn)
        return done.ends(), done.output

    code, said = ends("status")
    assert (code, said.count("missing")) == (1, len(migrations()))
    assert ends("up")[0] == 0
    code, said = ends("status")
    assert (code, said.count("applied")) == (0, len(migrations()))

    code, said = ends("down", "--to", "0")
    assert code == 1
    assert "removes every job" in said
    assert has_jobs(empty_dsn), "nobody said yes"

    code, said = ends("down", "--to", "0", "--yes")
    assert (code, said.count("undone")) == (0, len(migrations()))
    assert not has_jobs(empty_dsn)
    assert "Nothing to undo" in ends("down", "--to", "0", "--yes")[1]
