"""The test databases themselves: each test its own, and nothing left behind, even after kill -9."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

INNER_TESTS = """
import os, signal

def test_killed(empty_dsn, run_folder):
    print("folder", run_folder, flush=True)
    pid = (run_folder / "pg" / "cluster" / "postmaster.pid").read_text().split()[0]
    print("pid", pid, flush=True)
    (run_folder / "pg-of-somebody").mkdir()
    (run_folder / "pg-of-somebody" / "notes.txt").touch()
    if os.environ.get("KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def inner_run(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch, *, kill: str
) -> tuple[Path, Path]:
    """Run pytest once; return its folder and the /proc entry of its server."""
    (folder / "test_inner.py").write_text(INNER_TESTS)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "ROOST_TEST_DSN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("KILL", kill)
    options = ["-s", "-q", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)], capture_output=True, text=True
    )
    said = dict(line.split(" ") for line in done.stdout.splitlines() if line.startswith(("f", "p")))
    assert set(said) == {"folder", "pid"}, done.stdout + done.stderr
    assert (done.returncode == 0) is not bool(kill)
    return Path(said["folder"]), Path("/proc", said["pid"])


def test_the_next_run_clears_away_what_a_killed_run_left(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, server = inner_run(tmp_path, pytestconfig.rootpath, monkeypatch, kill="yes")
    assert killed.exists()
    assert server.exists()

    ended, _ = inner_run(tmp_path, pytestconfig.rootpath, monkeypatch, kill="")
    assert not killed.exists()
    assert not server.exists() or server.joinpath("stat").read_text().split()[2] == "Z"
    assert not ended.exists()


def test_a_run_in_progress_is_left_alone_by_another(
    server_dsn: str,
    run_folder: Path,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, _ = inner_run(tmp_path, pytestconfig.rootpath, monkeypatch, kill="")

    assert other != run_folder
    assert run_folder.exists()
    with psycopg.connect(server_dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("time", [1, 2])
def test_what_one_test_writes_another_does_not_see(empty_dsn: str, time: int) -> None:
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("create table only_once()")


@pytest.mark.parametrize("time", [1, 2])
def test_a_database_has_the_schema_and_no_jobs(dsn: str, time: int) -> None:
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from roost.jobs").fetchone() == (0,)
        connection.execute("create table only_once()")


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_restarted_server_has_what_was_committed(
    restartable_server: Any, mode: Literal["fast", "immediate", "kill"]
) -> None:
    with psycopg.connect(restartable_server.dsn) as connection:
        connection.execute("create table kept()")
    before = restartable_server.pid()

    restartable_server.restart(mode)

    assert restartable_server.pid() != before
    with psycopg.connect(restartable_server.dsn) as connection:
        connection.execute("select * from kept")


def test_a_stopped_server_is_away_until_it_is_started(restartable_server: Any) -> None:
    restartable_server.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(restartable_server.dsn)

    restartable_server.start()
    psycopg.connect(restartable_server.dsn).close()
