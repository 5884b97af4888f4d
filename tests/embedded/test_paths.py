"""The paths of a server's files, for root and for others, and the folders that are refused."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from roost.embedded import DataVersionError, EmbeddedPostgresError, find_binaries, remove, server
from roost.embedded import binaries as binaries_module
from roost.embedded import paths as paths_module
from roost.embedded.binaries import usable_binaries
from roost.embedded.os_user import server_user
from roost.embedded.paths import make_paths

if TYPE_CHECKING:
    StartUser = Callable[..., Any]
    LookUp = Callable[[Path], Any]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def answers(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select 1").fetchone() == (1,)


@pytest.fixture
def root_home(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the run's folder for files that root shares with the server's user."""
    home = data_dir.with_name(data_dir.name + "-home")
    monkeypatch.setattr(binaries_module, "ROOT_HOME", home)
    return home


def nobody_with_binaries(monkeypatch: pytest.MonkeyPatch) -> pwd.struct_passwd:
    # The same copy that root gives the server's user, in case the environment is private.
    binaries = usable_binaries(find_binaries(), server_user())
    monkeypatch.setenv("ROOST_PG_BIN", str(binaries.folder))
    return pwd.getpwnam("nobody")


@as_root
def test_as_root_the_server_and_its_files_are_another_users(
    data_dir: Path, postmaster: Callable[[Path], Any]
) -> None:
    os_user = server_user()
    with server(data_dir) as pg:
        assert answers(pg.dsn)
        assert Path(f"/proc/{postmaster(data_dir).pid}").stat().st_uid == os_user.uid
        for private in (data_dir / "cluster", pg.socket_dir):
            assert private.stat().st_uid == os_user.uid
            assert stat.S_IMODE(private.stat().st_mode) == 0o700


@as_root
@pytest.mark.usefixtures("each_postgres")
def test_a_normal_user_runs_the_server_as_itself(
    user: StartUser, data_dir: Path, postmaster: LookUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = nobody_with_binaries(monkeypatch)
    data_dir.mkdir()
    os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)

    first, second = (user(data_dir / "pg", uid=nobody.pw_uid) for _ in range(2))
    dsn = first.entered()
    assert second.entered() == dsn
    running = postmaster(data_dir / "pg")
    assert Path(f"/proc/{running.pid}").stat().st_uid == nobody.pw_uid
    assert answers(dsn)
    first.kill()
    second.leave()
    running.wait_until_gone()


@as_root
def test_another_user_can_not_connect_to_the_server(
    user: StartUser, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = nobody_with_binaries(monkeypatch)
    os_user = server_user()
    if os_user.uid == nobody.pw_uid:
        pytest.skip("the server runs as nobody here")
    with server(data_dir) as pg:
        found = attempt_as(nobody, pg.socket_dir / paths_module.SOCKET_NAME)
    assert found == "PermissionError"


def attempt_as(os_user: pwd.struct_passwd, socket_path: Path) -> str:
    import subprocess
    import sys

    script = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]))
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as error:
    print(type(error).__name__)
"""
    ids = [str(os_user.pw_gid), str(os_user.pw_uid)]
    command = [sys.executable, "-c", script, str(socket_path), *ids]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@as_root
def test_data_for_a_private_folder_goes_to_one_that_the_servers_user_can_reach(
    tmp_path: Path, root_home: Path
) -> None:
    tmp_path.chmod(0o700)
    wanted = tmp_path / ".roost" / "pg"
    with server(wanted) as pg, psycopg.connect(pg.dsn, autocommit=True) as connection:
        connection.execute("create table kept()")
        assert pg.data_dir.parent == root_home
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
        with server(wanted) as again:
            assert again == pg
    with server(wanted) as pg, psycopg.connect(pg.dsn) as connection:
        connection.execute("select * from kept")

    remove(wanted)
    assert not list(root_home.glob("data-*"))


@as_root
def test_binaries_in_a_private_home_are_copied_once_and_run_there(
    tmp_path: Path, data_dir: Path, root_home: Path
) -> None:
    genuine = find_binaries().resolve().parent
    if not (genuine / "share").exists():
        pytest.skip(f"{genuine} is not all of that Postgres, so it can't be moved")
    site = tmp_path / "site-packages"
    package = site / genuine.parent.name
    shutil.copytree(genuine, package / genuine.name, copy_function=shutil.copyfile)
    libraries = genuine.parent.with_name(f"{genuine.parent.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name)
    private = package / genuine.name / "bin"
    for program in private.iterdir():
        program.chmod(0o700)
    tmp_path.chmod(0o700)

    with server(data_dir, bin_dir=private) as pg:
        assert pg.bin_dir.is_relative_to(root_home)
        assert answers(pg.dsn)
    (copy,) = root_home.glob("postgres-*")
    made = copy.stat().st_ctime_ns
    with server(data_dir, bin_dir=private) as pg:
        assert answers(pg.dsn)
    assert copy.stat().st_ctime_ns == made
    assert not list(root_home.glob("copying-*"))


@as_root
def test_unreachable_binaries_that_can_not_be_moved_are_a_clear_error(
    tmp_path: Path, data_dir: Path, root_home: Path
) -> None:
    tmp_path.chmod(0o700)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in binaries_module.PROGRAMS:
        shutil.copy(find_binaries() / name, programs / name)

    with (
        pytest.raises(EmbeddedPostgresError, match="can't reach"),
        server(data_dir, bin_dir=programs),
    ):
        pytest.fail("it was used")


@pytest.mark.parametrize("name", ["x" * 120, "a comma, a space, a % and an é"])
def test_a_data_folder_whose_path_is_too_long_for_a_socket_works(name: str, data_dir: Path) -> None:
    data_dir.mkdir()
    wanted = data_dir / name
    try:
        with server(wanted) as pg:
            assert answers(pg.dsn)
            assert not pg.socket_dir.is_relative_to(data_dir)
            with server(wanted) as again:
                assert again == pg
    finally:
        remove(wanted)
    assert not pg.socket_dir.exists()


def test_a_link_to_the_data_folder_leads_to_the_same_server(data_dir: Path) -> None:
    data_dir.mkdir()
    link = data_dir.with_name(f"{data_dir.name}-link")
    link.symlink_to(data_dir)
    with server(link) as one, server(data_dir) as other:
        assert one == other
    link.unlink()


def test_a_planted_link_in_the_temporary_folder_is_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = data_dir.with_name(f"{data_dir.name}-short")
    target = short / "elsewhere"
    target.mkdir(parents=True)
    (short / f"roost-{os.geteuid()}").symlink_to(target)
    monkeypatch.setattr(paths_module, "SHORT_HOME", short)

    with pytest.raises(EmbeddedPostgresError, match="not a folder"), server(data_dir / ("x" * 120)):
        pytest.fail("it was used")
    assert not list(target.iterdir())


@as_root
def test_folders_of_other_users_are_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    short = data_dir.with_name(f"{data_dir.name}-short")
    planted = short / "roost-0"
    planted.mkdir(parents=True)
    os.chown(planted, nobody.pw_uid, nobody.pw_gid)
    monkeypatch.setattr(paths_module, "SHORT_HOME", short)
    theirs = data_dir.with_name(f"{data_dir.name}-theirs")
    theirs.mkdir()
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)

    for wanted in (data_dir / ("x" * 120), theirs):
        with pytest.raises(EmbeddedPostgresError, match="belongs to user id"), server(wanted):
            pytest.fail("it was used")
    os.chown(theirs, 0, 0)


def test_a_plain_postgres_data_directory_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "PG_VERSION").write_text("15\n")

    with pytest.raises(EmbeddedPostgresError, match="did not make"), server(data_dir):
        pytest.fail("it was used")
    (data_dir / "PG_VERSION").unlink()


def test_data_of_another_major_version_is_refused_and_kept(data_dir: Path) -> None:
    with server(data_dir) as pg:
        ours = pg.version.partition(".")[0]
    version_file = data_dir / "cluster" / "PG_VERSION"
    version_file.write_text("9.6\n")

    refusal = pytest.raises(DataVersionError, match=r"made by Postgres 9\.6.*ROOST_PG_BIN")
    with refusal as error, server(data_dir):
        pytest.fail("it was used")
    assert error.value.code == "roost.embedded-data-version"
    version_file.write_text(f"{ours}\n")
    with server(data_dir) as pg:
        assert answers(pg.dsn)


def test_a_file_in_the_way_is_a_clear_error(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "pg").touch()

    with pytest.raises(EmbeddedPostgresError, match="as a data folder"), server(data_dir / "pg"):
        pytest.fail("it was used")


def test_the_paths_are_the_same_for_all_umasks(data_dir: Path) -> None:
    os_user = server_user()
    before = os.umask(0o002)
    try:
        first = make_paths(data_dir, os_user)
        os.umask(0o077)
        second = make_paths(data_dir, os_user)
    finally:
        os.umask(before)

    assert first == second
