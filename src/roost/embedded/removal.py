"""Delete only files that Roost or its server created. Links are not followed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from roost.embedded.errors import EmbeddedPostgresError

MARKER = "roost.embedded"
"""A file in each cluster's folder that Roost created."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC if os.name != "nt" else 0
_LOCKS = ("use.lock", "change.lock")
_OF_POSTGRES = frozenset(
    {
        *("PG_VERSION", "base", "global", "log", "current_logfiles", "backup_label"),
        *("backup_label.old", "tablespace_map", "tablespace_map.old"),
        *("recovery.signal", "standby.signal"),
        *("postgresql.conf", "postgresql.auto.conf", "postgresql.auto.conf.tmp"),
        *("postmaster.opts", "postmaster.pid", "postgres.log", "postgres.log.old", MARKER),
    }
)


def mark(cluster: Path) -> None:
    """Write the marker into the folder of a complete cluster."""
    (cluster / MARKER).write_text("Made by roost.embedded, whose remove() deletes this folder.\n")


def check_removable(home: Path) -> None:
    """Check that Roost created the cluster in ``home``.

    :raises EmbeddedPostgresError: it did not, or the cluster is a link. Nothing was changed.
    """
    for name in ("cluster", "cluster.new"):
        if (home / name).is_symlink():
            raise EmbeddedPostgresError(f"{home / name} is a link: nothing was deleted")
    if (home / "cluster").is_dir():
        if not _is_file(home / "cluster" / MARKER):
            raise EmbeddedPostgresError(
                f"{home / 'cluster'} was not made by roost.embedded: nothing was deleted"
            )
    elif not all(_is_lock(home / name) for name in _LOCKS):
        raise EmbeddedPostgresError(
            f"{home} is not a data folder of roost.embedded: nothing was deleted"
        )


def delete_home(home: Path) -> None:
    """Delete Roost's files in ``home``, and the folder if it is empty then."""
    check_removable(home)
    with _opened(home) as folder:
        for name in ("cluster", "cluster.new"):
            delete_cluster(name, folder)
        for name in _LOCKS:
            if _is_lock(home / name):
                os.unlink(name, dir_fd=folder)
    delete_if_empty(home)


def delete_unfinished(cluster: Path) -> None:
    """Delete the data directory of an initdb that was killed.

    :raises EmbeddedPostgresError: it is a link, or contains other files.
    """
    if not cluster.is_symlink():
        with _opened(cluster.parent) as folder:
            delete_cluster(cluster.name, folder)
    if cluster.is_symlink() or cluster.exists():
        raise EmbeddedPostgresError(f"{cluster} was not made by Roost: move it away")


def delete_cluster(name: str, parent: int) -> None:
    """Delete a data directory of Postgres. Files that Postgres did not create are kept.

    :param parent: the file descriptor of the folder that contains it.
    """
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        # The marker is last, so an interrupted removal can be repeated.
        for entry in sorted(os.listdir(folder), key=MARKER.__eq__):  # noqa: PTH208  (by descriptor)
            if entry not in _OF_POSTGRES and not entry.startswith("pg_"):
                continue
            if stat.S_ISDIR(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(entry, dir_fd=folder)  # by file descriptors: it follows no link
            else:
                os.unlink(entry, dir_fd=folder)
    finally:
        os.close(folder)
    with suppress(OSError):  # it still contains other files
        os.rmdir(name, dir_fd=parent)


def delete_socket_dir(socket_dir: Path, socket_name: str) -> None:
    """Delete the server's socket and its lock, and their folder if it is empty then."""
    with suppress(OSError), _opened(socket_dir) as folder:
        for entry in (socket_name, f"{socket_name}.lock"):
            with suppress(FileNotFoundError):
                os.unlink(entry, dir_fd=folder)
    delete_if_empty(socket_dir)


def delete_if_empty(folder: Path) -> None:
    """Delete a folder if it is empty. A link is kept."""
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_lock(path: Path) -> bool:
    return _is_file(path) and path.lstat().st_size == 0


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
