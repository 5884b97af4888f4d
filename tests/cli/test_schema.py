"""`roost init` and `roost migrate` change the schema of a database."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import pytest

from roost._sql import migrations
from roost.cli import main

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command in this process, since a new one takes a second."""

    def run(*arguments: str, **variables: str) -> tuple[int, str]:
        for name in ("ROOST_DSN", "DATABASE_URL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["roost", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capfd.readouterr()
        return int(exit_.value.code or 0), said.out + said.err

    return run


def has_jobs(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select to_regclass('roost.jobs') is not null").fetchone()
        assert row is not None
        return bool(row[0])


def test_init_creates_the_schema_and_a_second_init_changes_nothing(
    empty_dsn: str, command: Command
) -> None:
    code, said = command("init", ROOST_DSN=empty_dsn)
    assert (code, said.count("applied")) == (0, len(migrations()))
    assert has_jobs(empty_dsn)

    code, said = command("init", "--dsn", empty_dsn, ROOST_DSN="postgresql://127.0.0.1:1/not")
    assert code == 0
    assert "Nothing to do" in said


def test_json_has_the_versions_that_were_applied_or_undone(
    empty_dsn: str, command: Command
) -> None:
    def prints(*arguments: str) -> object:
        code, said = command(*arguments, "--json", ROOST_DSN=empty_dsn)
        assert code == 0
        return json.loads(said)

    versions = [migration.version for migration in migrations()]
    assert prints("init") == {"applied": versions}
    assert prints("init") == prints("migrate", "up") == {"applied": []}
    down = ["migrate", "down", "--to", "0", "--yes"]
    assert prints(*down) == {"undone": versions[::-1]}
    assert prints(*down) == {"undone": []}
    assert prints("migrate", "up") == {"applied": versions}


def test_init_works_as_a_process(empty_dsn: str, roost_command: StartsRoost) -> None:
    assert roost_command("init", ROOST_DSN=empty_dsn).ends() == 0
    assert has_jobs(empty_dsn)


def test_migrations_go_up_and_down_and_status_lists_them(empty_dsn: str, command: Command) -> None:
    def migrate(*arguments: str) -> tuple[int, str]:
        return command("migrate", *arguments, DATABASE_URL=empty_dsn)

    code, said = migrate("status")
    assert (code, said.count("missing")) == (1, len(migrations()))
    assert migrate("up")[0] == 0
    code, said = migrate("status")
    assert (code, said.count("applied")) == (0, len(migrations()))

    code, said = migrate("status", "--json")
    assert [step["applied"] for step in json.loads(said)] == [True] * len(migrations())

    code, said = migrate("down", "--to", "0")
    assert code == 2
    assert "removes every job. No terminal can answer: pass --yes" in said
    assert has_jobs(empty_dsn), "the change was not confirmed"

    code, said = migrate("down", "--to", "0", "--yes")
    assert (code, said.count("undone")) == (0, len(migrations()))
    assert not has_jobs(empty_dsn)
    assert "Nothing to undo" in migrate("down", "--to", "0", "--yes")[1]


def dump(dsn: str) -> list[tuple[object, ...]]:
    """Return what the schema holds: columns, indexes, constraints, functions, comments, rights."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            """
            select 'column', attrelid::regclass::text, attname,
                format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum)
            from pg_attribute join pg_class on pg_class.oid = attrelid
            where relnamespace = 'roost'::regnamespace and attnum > 0
            union all
            select 'index', indexname, indexdef, null, null, null
            from pg_indexes where schemaname = 'roost'
            union all
            select 'function', proname, pg_get_functiondef(oid), proacl::text, null,
                obj_description(oid)
            from pg_proc where pronamespace = 'roost'::regnamespace
            union all
            select 'migration', version::text, name, oldest_code::text, null, null
            from roost.migrations
            order by 1, 2, 3
            """
        ).fetchall()


def run_script(dsn: str, script: str) -> None:
    # As psql sends a file, statement by statement, the script opens its own transaction.
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(script.encode())


def test_the_printed_sql_makes_the_same_schema(empty_dsn: str, dsn: str, command: Command) -> None:
    code, script = command("migrate", "sql")
    assert code == 0
    run_script(empty_dsn, script)
    assert dump(empty_dsn) == dump(dsn)
    assert "Nothing to do" in command("migrate", "up", "--dsn", empty_dsn)[1]

    with pytest.raises(psycopg.errors.Error):
        run_script(empty_dsn, script)
    assert dump(empty_dsn) == dump(dsn), "a second run changes nothing"

    code, script = command("migrate", "sql", "--down-to", "0")
    assert code == 0
    run_script(empty_dsn, script)
    assert not has_jobs(empty_dsn)


def test_there_is_no_sql_above_the_newest_migration(command: Command) -> None:
    newest = str(migrations()[-1].version)
    for arguments in (["--above", newest], ["--down-to", newest]):
        code, said = command("migrate", "sql", *arguments)
        assert code == 1
        assert f"the newest is {newest}" in said
    code, said = command("migrate", "sql", "--above", "1", "--down-to", "0")
    assert code == 2
    assert "can't be combined" in said
