"""Users share a server, also when users or the server are killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from roost.embedded import EmbeddedPostgresError, remove, server
from roost.embedded.os_user import server_user
from roost.embedded.server import open_cluster

if TYPE_CHECKING:
    StartUser = Callable[..., Any]
    LookUp = Callable[[Path], Any]


def execute(dsn: str, statement: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchone() if cursor.description else None


@pytest.mark.usefixtures("each_postgres")
def test_the_last_user_to_leave_stops_the_server(
    user: StartUser, data_dir: Path, postmaster: LookUp
) -> None:
    first, second = user(data_dir), user(data_dir)
    dsn = first.entered()
    assert second.entered() == dsn
    running = postmaster(data_dir)

    first.leave()
    assert execute(dsn, "select 1") == (1,)
    second.leave()
    running.wait_until_gone()


@pytest.mark.usefixtures("each_postgres")
def test_a_killed_user_leaves_the_server_to_the_others(
    user: StartUser, data_dir: Path, postmaster: LookUp
) -> None:
    first, second = user(data_dir), user(data_dir)
    dsn = first.entered()
    second.entered()
    running = postmaster(data_dir)

    first.kill()
    assert execute(dsn, "select 1") == (1,)
    second.leave()
    running.wait_until_gone()


@pytest.mark.usefixtures("each_postgres")
def test_a_killed_only_user_leaves_a_server_that_the_next_one_uses_and_stops(
    user: StartUser, data_dir: Path, postmaster: LookUp
) -> None:
    first = user(data_dir)
    execute(first.entered(), "create table kept()")
    running = postmaster(data_dir)
    first.kill()
    assert running.is_alive

    second = user(data_dir)
    execute(second.entered(), "select * from kept")
    assert postmaster(data_dir) == running
    second.leave()
    running.wait_until_gone()


@pytest.mark.usefixtures("each_postgres")
def test_a_killed_server_is_started_again_by_the_next_user(
    user: StartUser, data_dir: Path, postmaster: LookUp
) -> None:
    first = user(data_dir)
    dsn = first.entered()
    execute(dsn, "create table kept()")
    postmaster(data_dir).kill()

    second = user(data_dir)
    assert second.entered() == dsn
    execute(dsn, "select * from kept")
    running = postmaster(data_dir)
    second.leave()
    assert execute(dsn, "select 1") == (1,)  # the first user has not left
    first.leave()
    running.wait_until_gone()


def test_a_user_leaves_quietly_when_the_server_was_killed(
    user: StartUser, data_dir: Path, postmaster: LookUp
) -> None:
    only = user(data_dir)
    only.entered()
    postmaster(data_dir).kill()

    only.leave()
    with server(data_dir):  # Postgres removes what a killed server left in the system
        pass


def test_the_zombie_of_a_killed_server_is_not_taken_for_a_running_one(
    data_dir: Path, postmaster: LookUp
) -> None:
    settings = {"dynamic_shared_memory_type": "mmap"}
    with server(data_dir, settings=settings):
        postmaster(data_dir).kill()
    os_user = server_user()
    # A zombie, since nothing waits for it. Its user is the server's, so Postgres may signal it.
    ended = subprocess.Popen(
        ["true"], user=os_user.uid if os_user.drop_privileges else None, stdout=subprocess.PIPE
    )
    with ended:
        assert ended.stdout is not None
        assert ended.stdout.read() == b""
        pid_file = data_dir / "cluster" / "postmaster.pid"
        _, _, rest = pid_file.read_text().partition("\n")
        pid_file.write_text(f"{ended.pid}\n{rest}")

        with server(data_dir, settings=settings) as pg:
            assert execute(pg.dsn, "select 1") == (1,)
            assert postmaster(data_dir).pid != ended.pid


def counting_initdb(data_dir: Path, *, first: str = "") -> Path:
    """Make Postgres programs that log the start and end of each initdb."""
    genuine = open_cluster(data_dir, None).binaries.folder
    programs = data_dir.with_name(data_dir.name + "-bin")
    programs.mkdir()
    log = programs / "log"
    log.touch()
    log.chmod(0o666)
    for name in ("postgres", "pg_ctl"):
        (programs / name).write_text(f'#!/bin/sh\nexec "{genuine}/{name}" "$@"\n')
    (programs / "initdb").write_text(
        f'#!/bin/sh\necho begin >> "{log}"\n{first}\n"{genuine}/initdb" "$@"\necho end >> "{log}"\n'
    )
    for name in ("postgres", "pg_ctl", "initdb"):
        (programs / name).chmod(0o755)
    return programs


def test_several_first_starts_at_once_run_one_initdb(
    user: StartUser, data_dir: Path, postmaster: LookUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = counting_initdb(data_dir)
    monkeypatch.setenv("ROOST_PG_BIN", str(programs))

    users = [user(data_dir) for _ in range(3)]
    assert len({each.entered() for each in users}) == 1
    assert (programs / "log").read_text().split() == ["begin", "end"]
    running = postmaster(data_dir)
    for each in users:
        each.leave()
    running.wait_until_gone()


def test_a_start_waits_for_the_initdb_of_a_user_that_was_killed_meanwhile(
    user: StartUser, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = data_dir.with_name(data_dir.name + "-go")
    wait = f'while [ ! -e "{go}" ]; do sleep 0.01; done'
    programs = counting_initdb(data_dir, first=wait)
    monkeypatch.setenv("ROOST_PG_BIN", str(programs))
    log = programs / "log"
    first = user(data_dir)
    while log.read_text().split() != ["begin"]:
        assert first.process.poll() is None

    first.kill()
    second = user(data_dir)
    with pytest.raises(subprocess.TimeoutExpired):
        second.process.wait(timeout=1)
    assert log.read_text().split() == ["begin"]
    go.mkdir()
    second.entered()
    assert log.read_text().split() == ["begin", "end", "begin", "end"]
    second.leave()


def test_threads_share_a_server_like_processes(data_dir: Path, postmaster: LookUp) -> None:
    seen: list[object] = []
    both_in = threading.Barrier(2, timeout=60)

    def use() -> None:
        with server(data_dir) as pg:
            both_in.wait()
            seen.append((pg.dsn, postmaster(data_dir)))
            both_in.wait()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert not (data_dir / "cluster" / "postmaster.pid").exists()


def test_a_forked_child_that_leaves_the_block_does_not_stop_the_server(data_dir: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from roost.embedded import server
pid_file = Path(sys.argv[1], "cluster", "postmaster.pid")
with server(sys.argv[1]):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(pid_file.exists())
if child:
    print(pid_file.exists())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, data_dir], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_an_error_in_the_block_is_raised_and_the_server_is_stopped(data_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError), server(data_dir):
        _ = 1 / 0

    assert not (data_dir / "cluster" / "postmaster.pid").exists()


def test_a_server_without_free_connections_is_shared(data_dir: Path) -> None:
    full = {"max_connections": 5, "superuser_reserved_connections": 0}
    with server(data_dir, settings=full) as pg:
        taken = [psycopg.connect(pg.dsn) for _ in range(5)]
        try:
            with server(data_dir) as joined:
                assert joined.dsn == pg.dsn
        finally:
            for connection in taken:
                connection.close()


def test_a_folder_in_use_is_not_removed(data_dir: Path) -> None:
    with server(data_dir) as pg:
        with pytest.raises(EmbeddedPostgresError, match="in use"):
            remove(data_dir)
        assert execute(pg.dsn, "select 1") == (1,)


def test_remove_stops_an_unused_server_and_deletes_its_files(
    user: StartUser, data_dir: Path, postmaster: LookUp
) -> None:
    only = user(data_dir)
    only.entered()
    running = postmaster(data_dir)
    only.kill()

    remove(data_dir)

    running.wait_until_gone()
    assert not data_dir.exists()
