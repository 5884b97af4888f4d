"""Where the files of one embedded server are. Every process must come to the same answer."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import attrs

from roost.embedded.binaries import make_root_home
from roost.embedded.errors import EmbeddedPostgresError
from roost.embedded.os_user import OsUser, check_owner

SOCKET_NAME = ".s.PGSQL.5432"

LONGEST_SOCKET_PATH = 103
"""Bytes of a socket's path that every system takes: Linux has room for 107, macOS for 103."""


SHORT_HOME = Path("/tmp")  # noqa: S108  (the owner of what is used there is checked)
"""Where the socket goes when its path in the data folder is too long or too odd."""


@attrs.frozen(kw_only=True)
class Paths:
    """The files of one server: what the user named, or for root possibly somewhere else."""

    home: Path
    socket_dir: Path

    @property
    def cluster(self) -> Path:
        """Postgres' own data directory."""
        return self.home / "cluster"

    @property
    def log(self) -> Path:
        """What the server says; the last lines go into error messages."""
        return self.cluster / "postgres.log"

    @property
    def change_lock(self) -> Path:
        """Held exclusively while the server is made, started or stopped."""
        return self.home / "change.lock"

    @property
    def use_lock(self) -> Path:
        """Held shared by every user; who gets it exclusively is the last."""
        return self.home / "use.lock"


def make_paths(data_dir: Path, os_user: OsUser) -> Paths:
    """Create the data folder if it is missing and return where things are.

    :raises EmbeddedPostgresError: it can't be made, or belongs to somebody else.
    """
    wanted = Path(os.path.realpath(data_dir.expanduser()))
    try:
        home = _make_home(wanted, os_user)
    except OSError as error:
        raise EmbeddedPostgresError(f"can't use {wanted} as a data folder: {error}") from error
    return Paths(home=home, socket_dir=_socket_dir(home))


def make_socket_dir(paths: Paths, os_user: OsUser) -> None:
    """Create the folder of the socket, again if a clean-up of /tmp took it. Needs the change lock.

    :raises EmbeddedPostgresError: it belongs to somebody else.
    """
    parent = paths.socket_dir.parent
    if parent != paths.home:
        # In a sticky /tmp nobody but its owner can replace a folder once it was found to be ours.
        parent.mkdir(mode=0o711 if os_user.drop_privileges else 0o700, exist_ok=True)
        check_owner(parent, os.geteuid())
    os_user.make_private_folder(paths.socket_dir)


def _make_home(wanted: Path, os_user: OsUser) -> Path:
    wanted.mkdir(parents=True, exist_ok=True)
    if (wanted / "PG_VERSION").exists():
        raise EmbeddedPostgresError(
            f"{wanted} is a Postgres data directory that Roost did not make: choose another folder"
        )
    # No mode is ever changed to let the server's user in: the folder above may be private for a
    # reason. The files go where that user can be, at a name that follows from the wanted one.
    home = wanted
    if not os_user.can_enter(wanted):
        home = make_root_home() / f"data-{_digest(wanted)}"
        home.mkdir(exist_ok=True, mode=0o755)
    check_owner(home, os.geteuid())
    return home


def _socket_dir(home: Path) -> Path:
    inside = home / "socket"
    # libpq reads a comma as a list of hosts; other drivers trip over other characters in a URL.
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", str(inside))
    if plain and len(os.fsencode(inside / SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
        return inside
    # Not $TMPDIR or $XDG_RUNTIME_DIR: they may differ between processes that must meet here.
    return SHORT_HOME / f"roost-{os.geteuid()}" / _digest(home)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
