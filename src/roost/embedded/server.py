"""Use a server together with other processes; the last one out stops it.

The kernel's file locks count the users, so a user that is killed is no longer counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import attrs

from roost.embedded.binaries import check_binaries, find_binaries, usable_binaries
from roost.embedded.cluster import START_TIMEOUT, STOP_TIMEOUT, Cluster
from roost.embedded.errors import EmbeddedPostgresError
from roost.embedded.lock import FileLock
from roost.embedded.os_user import server_user
from roost.embedded.paths import SOCKET_NAME, make_paths
from roost.embedded.removal import check_removable, delete_home, delete_if_empty, delete_socket_dir

CHANGE_TIMEOUT = 2 * START_TIMEOUT + STOP_TIMEOUT
"""Seconds to wait for others who make, start or stop the server."""


@attrs.frozen(kw_only=True)
class Server:
    """A running server. Connect as the superuser ``postgres``; there is no password."""

    dsn: str
    """The maintenance database ``postgres``."""

    data_dir: Path
    """Where the data is; see `server` for when root finds it elsewhere than it asked for."""

    bin_dir: Path
    """The Postgres programs in use."""

    version: str
    """Their version, such as ``"18.1"``."""

    socket_dir: Path
    """The folder of the unix socket, closed to other users."""

    def dsn_for(self, database: str) -> str:
        """Return the DSN of another database; does not create it."""
        return _dsn(self.socket_dir, database)


@contextmanager
def server(
    data_dir: str | os.PathLike[str] = ".roost/pg",
    *,
    settings: Mapping[str, object] | None = None,
    bin_dir: str | os.PathLike[str] | None = None,
) -> Iterator[Server]:
    """Run a Postgres server for as long as somebody uses it.

    Makes the data folder when it is missing and starts the server when it doesn't run. Several
    processes and threads may use one folder at once: they share one server, and the last one to
    leave stops it. It blocks, for about a second at the first use; call it from a thread in async
    code.

    As root the server runs as ``postgres``, or ``nobody``. If that user can't reach ``data_dir``,
    the data is kept in ``/var/lib/roost/data-<hash of the path>`` instead, and likewise the
    binaries are copied to ``/var/lib/roost``.

    A user that is killed leaves the server running for the others, or, if it was the only one, for
    the next one to find and to stop. A process that was forked inside the block does not stop the
    server and must not outlive it.

    :param data_dir: a folder for this server alone; delete it, unused, to begin afresh.
    :param settings: Postgres settings by name, such as ``{"fsync": False}``. They apply if this
        call starts the server, and not if it runs already.
    :param bin_dir: the folder of the Postgres programs; default: see `find_binaries`.
    :raises BinariesNotFoundError: there is no Postgres to run.
    :raises DataVersionError: the data was made by another major version.
    :raises EmbeddedPostgresError: it can't be started or stopped; the message says why.
    """
    cluster, use_lock, change_lock = _locked(data_dir, bin_dir)
    paths = cluster.paths
    entered_by = os.getpid()
    with use_lock:
        try:
            with change_lock:
                use_lock.shared()
                cluster.ensure_made(change_lock)
                cluster.ensure_started(settings or {})
            yield Server(
                dsn=_dsn(paths.socket_dir, "postgres"),
                data_dir=paths.home,
                bin_dir=cluster.binaries.folder,
                version=cluster.binaries.version,
                socket_dir=paths.socket_dir,
            )
        finally:
            if os.getpid() == entered_by:
                _leave(cluster, use_lock)


def remove(
    data_dir: str | os.PathLike[str], *, bin_dir: str | os.PathLike[str] | None = None
) -> None:
    """Delete a server's data for good, stopping a server that a killed user left running.

    Only what `server` made is deleted. Other files stay, and so do the folders that they are in.
    Does nothing if there is no such folder.

    :raises EmbeddedPostgresError: it is in use, `server` did not make it, or ``data_dir`` is a
        link; nothing was deleted.
    """
    folder = Path(data_dir).expanduser()
    if folder.is_symlink():
        raise EmbeddedPostgresError(f"{folder} is a link: name the folder that it leads to")
    if not folder.exists():
        return
    cluster = open_cluster(folder, bin_dir)
    try:
        check_removable(cluster.paths.home)
        _remove(cluster)
    except OSError as error:
        raise EmbeddedPostgresError(f"can't delete {folder}: {error}") from error
    finally:
        if cluster.paths.home != folder.resolve():  # root's, which may have been made just now
            delete_if_empty(cluster.paths.home)
    delete_if_empty(folder)


def _remove(cluster: Cluster) -> None:
    paths = cluster.paths
    with FileLock.open(paths.change_lock) as change, FileLock.open(paths.use_lock) as use:
        change.exclusive(timeout=CHANGE_TIMEOUT)
        if not use.try_exclusive():
            raise EmbeddedPostgresError(f"{paths.home} is in use")
        check_removable(paths.home)
        cluster.stop("immediate")
        delete_socket_dir(paths.socket_dir, SOCKET_NAME)
        delete_home(paths.home)


def open_cluster(
    data_dir: str | os.PathLike[str], bin_dir: str | os.PathLike[str] | None
) -> Cluster:
    """Return the server of ``data_dir``, which may not exist yet; creates its folder only."""
    if sys.platform == "win32":
        raise EmbeddedPostgresError(
            "the embedded Postgres needs Linux or macOS: give Roost the DSN of a server instead"
        )
    os_user = server_user()
    found = check_binaries(Path(bin_dir), named_by="bin_dir") if bin_dir else find_binaries()
    binaries = usable_binaries(found, os_user)
    paths = make_paths(Path(data_dir), os_user)
    return Cluster(paths=paths, binaries=binaries, os_user=os_user)


def _locked(
    data_dir: str | os.PathLike[str], bin_dir: str | os.PathLike[str] | None
) -> tuple[Cluster, FileLock, FileLock]:
    """Return the server, its lock for users, not yet held, and the change lock, held.

    Begins anew when another process removed the folder in the meantime.
    """
    while True:
        cluster = open_cluster(data_dir, bin_dir)
        with suppress(FileNotFoundError), ExitStack() as opened:
            use_lock = opened.enter_context(FileLock.open(cluster.paths.use_lock))
            change_lock = opened.enter_context(FileLock.open(cluster.paths.change_lock))
            change_lock.exclusive(timeout=CHANGE_TIMEOUT)
            if use_lock.still_exists() and change_lock.still_exists():
                opened.pop_all()
                return cluster, use_lock, change_lock


def _leave(cluster: Cluster, use_lock: FileLock) -> None:
    with FileLock.open(cluster.paths.change_lock) as change_lock:
        change_lock.exclusive(timeout=CHANGE_TIMEOUT)
        if use_lock.try_exclusive():
            cluster.stop()
        use_lock.close()  # before the change lock: the next one to leave must not still see us


def _dsn(socket_dir: Path, database: str) -> str:
    host = quote(str(socket_dir), safe="/")
    return f"postgresql://postgres@/{quote(database, safe='')}?host={host}"
