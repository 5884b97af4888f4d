"""`roost dev` needs no database and no DSN, and other commands in its folder find its Postgres."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.support.conformance.cases import until
from tests.support.processes import is_gone, worker_pids

from roost import Roost as Client
from roost.cli.dev_database import DATA_DIR, find_dev_dsn, where_searched
from roost.embedded import remove, server

if TYPE_CHECKING:
    from tests.cli.conftest import Roost, StartsRoost

BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])

SHOP = """
import anyio
import roost

@roost.job("answer")
async def answer() -> str:
    return "{answer}"

@roost.job("for_ever")
async def for_ever() -> None:
    print("job has started", flush=True)
    await anyio.sleep_forever()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    """Return the file of the module ``shop.tasks``; the Postgres is removed after the test."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "shop").mkdir()
    file = tmp_path / "shop" / "tasks.py"
    file.write_text(SHOP.format(answer="first"))
    yield file
    remove(tmp_path / DATA_DIR)


def developing(start: StartsRoost, backend: str, *options: str) -> tuple[Roost, str, list[int]]:
    """Start it; return it, the DSN that it prints, and the ids of what it has started."""
    run = start("dev", "-m", "shop.tasks", "--backend", backend, *options)
    run.wait_for("worker is ready")
    [dsn] = re.findall(r"DSN: (\S+)", run.output)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    return run, dsn, [int(row[0].split()[0]), *worker_pids(run.output)]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("ROOST_DSN", "DATABASE_URL")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "roost", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@BOTH
def test_one_command_runs_postgres_and_a_worker_and_ends_both(
    backend: str, shop: Path, tmp_path: Path, roost_command: StartsRoost
) -> None:
    run, dsn, pids = developing(roost_command, backend)
    with Client(dsn) as client:
        assert client.wait_for(client.enqueue("answer"), timeout=60).result == "first"
        shop.write_text(SHOP.format(answer="second"))
        run.wait_for("worker is ready", times=2)
        assert client.wait_for(client.enqueue("answer"), timeout=60).result == "second"

    found = command(shop.parent, "migrate", "status")
    assert found.returncode == 0, found.stderr
    assert "applied" in found.stdout

    pids += worker_pids(run.output)
    run.signal(signal.SIGINT)
    assert run.ends() == 0, run.output
    assert [pid for pid in pids if not is_gone(pid)] == []

    lost = command(shop.parent, "migrate", "status")
    assert lost.returncode == 2
    assert f"no `roost dev` runs in {shop.parent} up to {tmp_path}" in lost.stderr


@BOTH
def test_a_ctrl_c_that_every_process_gets_returns_the_running_job(
    backend: str, shop: Path, tmp_path: Path, roost_command: StartsRoost
) -> None:
    run, dsn, pids = developing(roost_command, backend, "--shutdown-timeout", "0.2")
    with Client(dsn) as client:
        job_id = client.enqueue("for_ever")
        run.wait_for("job has started")
    for pid in [run.process.pid, *worker_pids(run.output)]:
        os.kill(pid, signal.SIGINT)
    assert run.ends() == 0, run.output
    assert all(map(is_gone, pids))

    with server(tmp_path / DATA_DIR) as postgres, Client(postgres.dsn) as client:
        job = client.get(job_id)
    assert (job.state, job.attempt) == ("available", 0)


@BOTH
def test_after_a_kill_the_next_one_uses_the_postgres_and_stops_it(
    backend: str, shop: Path, roost_command: StartsRoost
) -> None:
    run, dsn, pids = developing(roost_command, backend)
    run.signal(signal.SIGKILL)
    run.process.wait()
    until(lambda: is_gone(pids[1]), within=60)

    again, same_dsn, more_pids = developing(roost_command, backend)
    assert (same_dsn, more_pids[0]) == (dsn, pids[0])
    again.signal()
    assert again.ends() == 0
    assert all(map(is_gone, more_pids))


HIDES = """
import importlib.util, os
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "watchfiles" else find(name, *rest)
if os.environ.get("HIDE") == "postgres":
    import shutil, pathlib
    shutil.which = lambda *_, **__: None
    pathlib.Path.glob = lambda *_: []
    importlib.util.find_spec = find
"""


@pytest.mark.parametrize(
    ("hidden", "code", "message"),
    [
        ("watchfiles", 2, "watchfiles is not installed: pip install 'anyroost[reload]'"),
        (
            "postgres",
            1,
            "no Postgres server was found. Install one with: pip install 'anyroost[embedded]'",
        ),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(
    hidden: str, code: int, message: str, shop: Path, tmp_path: Path, roost_command: StartsRoost
) -> None:
    (tmp_path / "site").mkdir()
    hides = HIDES
    if hidden == "postgres":  # the installed package of the extra
        hides += "import roost.embedded.binaries as b\nb._package_bindir = lambda: None\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(hides)
    run = roost_command(
        *("dev", "-m", "shop.tasks"),
        PYTHONPATH=str(tmp_path / "site"),
        HIDE=hidden,
        ROOST_PG_BIN="",
    )
    assert run.ends() == code
    [line] = run.output.splitlines()
    assert line.startswith(f"roost: {message}")


# Which Postgres is found.


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Return the root of a project with an embedded Postgres that does not run."""
    (tmp_path / "project" / "inner" / "deep").mkdir(parents=True)
    yield tmp_path / "project"
    remove(tmp_path / "project" / DATA_DIR)


def test_it_is_found_below_its_folder_while_it_runs(project: Path) -> None:
    deep = project / "inner" / "deep"
    with server(project / DATA_DIR) as postgres:
        assert find_dev_dsn(deep) == (postgres.dsn, project / DATA_DIR)
        assert find_dev_dsn(project) == (postgres.dsn, project / DATA_DIR)
        assert find_dev_dsn(project.parent) is None
    assert find_dev_dsn(deep) is None


def test_the_search_ends_at_the_projects_root(project: Path) -> None:
    deep = project / "inner" / "deep"
    (project / "inner" / ".git").touch()
    with server(project / DATA_DIR):
        assert find_dev_dsn(deep) is None
    assert where_searched(deep) == f"in {deep} up to {project / 'inner'}"
    assert where_searched(project / "inner") == f"in {project / 'inner'}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("given_away", [".", "cluster", "socket"])
def test_a_postgres_of_another_user_is_not_found(given_away: str, project: Path) -> None:
    with server(project / DATA_DIR) as postgres:
        folder = postgres.socket_dir if given_away == "socket" else postgres.data_dir / given_away
        before = folder.stat()
        os.chown(folder, 12345, 12345)
        try:
            assert find_dev_dsn(project) is None
        finally:
            os.chown(folder, before.st_uid, before.st_gid)
        assert find_dev_dsn(project) is not None


def test_a_link_is_not_followed_to_a_cluster_that_roost_did_not_make(project: Path) -> None:
    with server(project / DATA_DIR) as postgres:
        marker = postgres.data_dir / "cluster" / "roost.embedded"
        marker.rename(marker.with_name("other"))
        try:
            assert find_dev_dsn(project) is None
        finally:
            marker.with_name("other").rename(marker)
