"""Share a server with other processes; the last user stops it.

Each user holds a shared file lock. The kernel releases the lock of a killed user.
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
"""Seconds to wait while another process creates, starts or stops the server."""


@attrs.frozen(kw_only=True)
class Server:
    """A running server. Connect as the superuser ``postgres``; there is no password."""

    dsn: str
    """The DSN of the maintenance database ``postgres``."""

    data_dir: Path
    """The data folder. For root it may differ from the folder given to `server`; see there."""

    bin_dir: Path
    """The folder of the Postgres programs in use."""

    version: str
    """Their version, such as ``"18.1"``."""

    socket_dir: Path
    """The folder of the unix socket, closed to other users."""

    def dsn_for(self, database: str) -> str:
        """Return the DSN of another database; does not create it."""
        return socket_dsn(self.socket_dir, database)


@contextmanager
def server(
    data_dir: str | os.PathLike[str] = ".roost/pg",
    *,
    settings: Mapping[str, object] | None = None,
    bin_dir: str | os.PathLike[str] | None = None,
) -> Iterator[Server]:
    """Run a Postgres server for the duration of a ``with`` block.

    Creates the data folder if it is missing, and starts the server if it is not running. Several
    processes and threads may use one folder at once: they share one server, and the last one to
    leave its block stops the server. The call blocks, for about a second at the first use; in async
    code call it from a thread.

    For root the server runs as ``postgres``, or ``nobody``. If that user can't reach ``data_dir``,
    the data is in ``/var/lib/roost/data-<hash of the path>`` instead. In the same way the programs
    are copied to ``/var/lib/roost``.

    If a process is killed inside the block, the server keeps running for the other users, or until
    the next user stops it. A process that was forked inside the block does not stop the server, and
    must end before it.

    :param data_dir: a folder for this server alone. To start again without data, use `remove`.
    :param settings: Postgres settings by name, such as ``{"fsync": False}``. They apply only if
        this call starts the server.
    :param bin_dir: the folder of the Postgres programs; default: see `find_binaries`.
    :raises BinariesNotFoundError: no Postgres was found.
    :raises DataVersionError: another major version created the data.
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
                dsn=socket_dsn(paths.socket_dir, "postgres"),
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
    """Delete a server's data. A server that a killed user left running is stopped first.

    Only files that `server` created are deleted. Other files and their folders are kept. Does
    nothing if the folder does not exist.

    :raises EmbeddedPostgresError: the server is in use, `server` did not create the folder, or
        ``data_dir`` is a link. Nothing was deleted.
    """
    folder = Path(data_dir).expanduser()
    if folder.is_symlink():
        raise EmbeddedPostgresError(f"{folder} is a link: give the folder that it points to")
    if not folder.exists():
        return
    cluster = open_cluster(folder, bin_dir)
    try:
        check_removable(cluster.paths.home)
        _remove(cluster)
    except OSError as error:
        raise EmbeddedPostgresError(f"can't delete {folder}: {error}") from error
    finally:
        if cluster.paths.home != folder.resolve():  # root's, which open_cluster may have created
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
    """Return the server of ``data_dir``. Creates the folder if it is missing, and nothing else."""
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
    """Return the server, its use lock (not held), and its change lock (held).

    Starts again if another process removed the folder in the meantime.
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
        use_lock.close()  # before the change lock, so that the next user to leave does not count us


def socket_dsn(socket_dir: Path, database: str) -> str:
    """Return the DSN of a database of the server whose socket is in ``socket_dir``."""
    host = quote(str(socket_dir), safe="/")
    return f"postgresql://postgres@/{quote(database, safe='')}?host={host}"
