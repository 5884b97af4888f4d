"""`remove` deletes only files that Roost or its server created."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from roost.embedded import EmbeddedPostgresError, remove, server
from roost.embedded.removal import MARKER


@pytest.fixture
def made(data_dir: Path) -> Path:
    """Return a data folder with a cluster that is not in use."""
    with server(data_dir):
        pass
    return data_dir


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_folder_without_other_files_is_deleted(made: Path) -> None:
    remove(made)
    assert not made.exists()
    remove(made)  # does nothing


@pytest.mark.parametrize(
    "name", ["notes.txt", "more/notes.txt", "cluster/notes.txt", "cluster/more/notes.txt"]
)
def test_other_files_are_kept(made: Path, name: str) -> None:
    (made / name).parent.mkdir(exist_ok=True)
    (made / name).write_text("mine")

    remove(made)

    assert (made / name).read_text() == "mine"
    parents = {str(parent) for parent in Path(name).parents} - {"."}
    assert files_in(made) == {name, *parents}
    with pytest.raises(EmbeddedPostgresError, match="nothing was deleted"):
        remove(made)
    assert (made / name).read_text() == "mine"


@pytest.mark.parametrize("content", [[], ["a.txt"], ["a.txt", "use.lock"], ["cluster/PG_VERSION"]])
def test_a_folder_that_roost_did_not_make_is_refused(data_dir: Path, content: list[str]) -> None:
    data_dir.mkdir()
    for name in content:
        (data_dir / name).parent.mkdir(exist_ok=True)
        (data_dir / name).write_text("mine")
    before = files_in(data_dir)

    with pytest.raises(EmbeddedPostgresError, match="nothing was deleted"):
        remove(data_dir)

    assert files_in(data_dir) == before
    shutil.rmtree(data_dir)


def test_lock_files_of_other_programs_are_not_taken_for_roosts(data_dir: Path) -> None:
    data_dir.mkdir()
    for name in ("use.lock", "change.lock"):
        (data_dir / name).write_text("pid 7")
    with pytest.raises(EmbeddedPostgresError, match="nothing was deleted"):
        remove(data_dir)
    assert files_in(data_dir) == {"use.lock", "change.lock"}
    shutil.rmtree(data_dir)


def test_a_data_directory_of_another_initdb_is_refused(made: Path) -> None:
    (made / "cluster" / MARKER).unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"cluster was not made by roost\.embedded"):
        remove(made)
    with server(made) as pg, psycopg.connect(pg.dsn) as connection:
        connection.execute("select 1")
    shutil.rmtree(made)


def test_a_postgres_data_directory_is_refused(made: Path) -> None:
    directory = made.with_name(f"{made.name}-of-others")
    shutil.copytree(made / "cluster", directory)
    before = files_in(directory)
    with pytest.raises(EmbeddedPostgresError):
        remove(directory)
    assert files_in(directory) == before
    shutil.rmtree(directory)


def test_a_link_to_a_folder_is_refused_and_its_target_is_kept(made: Path) -> None:
    link = made.with_name(f"{made.name}-link")
    link.symlink_to(made)
    before = files_in(made)
    with pytest.raises(EmbeddedPostgresError, match="is a link"):
        remove(link)
    assert files_in(made) == before
    link.unlink()


@pytest.mark.parametrize("name", ["cluster", "cluster.new"])
def test_a_link_in_place_of_the_data_is_not_followed(made: Path, tmp_path: Path, name: str) -> None:
    """The server of the link's target is not stopped either."""
    with server(tmp_path / "other") as other:
        if name == "cluster":
            (made / "cluster").rename(made / "moved")
        (made / name).symlink_to(other.data_dir / "cluster")
        before = files_in(other.data_dir / "cluster")

        with pytest.raises(EmbeddedPostgresError, match="is a link: nothing was deleted"):
            remove(made)

        assert files_in(other.data_dir / "cluster") >= before
        with psycopg.connect(other.dsn) as connection:
            connection.execute("select 1")
    (made / name).unlink()
    shutil.rmtree(made)
    remove(tmp_path / "other")


def test_links_inside_the_data_are_deleted_and_not_followed(made: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("mine")
    for link in ("cluster/pg_tblspc/16384", "cluster/pg_extra", "socket/x", "mine"):
        (made / link).symlink_to(tmp_path / "precious")
    remove(made)
    assert (tmp_path / "precious" / "notes.txt").read_text() == "mine"
    assert (made / "mine").is_symlink()
    shutil.rmtree(made)


def test_files_of_a_killed_initdb_are_replaced_and_a_link_is_refused(
    data_dir: Path, tmp_path: Path
) -> None:
    data_dir.mkdir()
    (data_dir / "cluster.new").symlink_to(tmp_path)
    (tmp_path / "PG_VERSION").write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match="was not made by Roost"), server(data_dir):
        pytest.fail("it started")
    assert (tmp_path / "PG_VERSION").read_text() == "mine"
    (data_dir / "cluster.new").unlink()
    (data_dir / "cluster.new").mkdir()
    (data_dir / "cluster.new" / "base").mkdir()
    with server(data_dir):
        pass


def test_servers_that_start_while_the_folder_is_removed_have_a_folder_of_their_own(
    data_dir: Path,
) -> None:
    failed: list[BaseException] = []

    def repeat(step: Callable[[], None]) -> None:
        try:
            for _ in range(4):
                step()
        except BaseException as error:
            failed.append(error)

    def use() -> None:
        with server(data_dir, settings={"fsync": False}) as pg, psycopg.connect(pg.dsn) as one:
            one.execute("create table t()")

    def use_or_find_it_used() -> None:
        with server(data_dir, settings={"fsync": False}):
            pass

    def delete() -> None:
        try:
            remove(data_dir)
        except EmbeddedPostgresError as error:
            if "in use" not in str(error) and "nothing was deleted" not in str(error):
                raise

    threads = [
        threading.Thread(target=repeat, args=(step,)) for step in (use_or_find_it_used, delete)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    remove(data_dir)
    use()
