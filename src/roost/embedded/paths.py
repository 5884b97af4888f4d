"""The paths of one embedded server. Every process must compute the same ones."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import attrs

from roost.embedded.binaries import ROOT_HOME, make_root_home
from roost.embedded.errors import EmbeddedPostgresError
from roost.embedded.os_user import OsUser, check_owner

SOCKET_NAME = ".s.PGSQL.5432"

LONGEST_SOCKET_PATH = 103
"""Bytes that every system allows for the path of a socket: 107 on Linux, 103 on macOS."""

SHORT_HOME = Path("/tmp")  # noqa: S108  (the owner is checked)
"""The folder of the socket if its path in the data folder is too long or has odd characters."""


@attrs.frozen(kw_only=True)
class Paths:
    """The paths of one server, in the user's folder or, for root, possibly in another one."""

    home: Path
    socket_dir: Path

    @property
    def cluster(self) -> Path:
        """Postgres' own data directory."""
        return self.home / "cluster"

    @property
    def log(self) -> Path:
        """The server's log; its last lines go into error messages."""
        return self.cluster / "postgres.log"

    @property
    def change_lock(self) -> Path:
        """The lock that a process holds while it creates, starts or stops the server."""
        return self.home / "change.lock"

    @property
    def use_lock(self) -> Path:
        """The lock that each user shares; a user that can lock it exclusively is the last one."""
        return self.home / "use.lock"


def make_paths(data_dir: Path, os_user: OsUser) -> Paths:
    """Return the paths of a data folder, and create the folder if it is missing.

    :raises EmbeddedPostgresError: it can't be created, or belongs to another user.
    """
    wanted = Path(os.path.realpath(data_dir.expanduser()))
    try:
        home = _make_home(wanted, os_user)
    except OSError as error:
        raise EmbeddedPostgresError(f"can't use {wanted} as a data folder: {error}") from error
    return Paths(home=home, socket_dir=_socket_dir(home))


def existing_paths(data_dir: Path, os_user: OsUser) -> Paths:
    """Return the paths of an existing data folder. Creates nothing, and checks no owner."""
    wanted = Path(os.path.realpath(data_dir.expanduser()))
    home = wanted if os_user.can_enter(wanted) else ROOT_HOME / _name_for_root(wanted)
    return Paths(home=home, socket_dir=_socket_dir(home))


def make_socket_dir(paths: Paths, os_user: OsUser) -> None:
    """Create the socket's folder if it is missing, for example after a clean-up of /tmp.

    The caller holds the change lock.

    :raises EmbeddedPostgresError: it belongs to another user.
    """
    parent = paths.socket_dir.parent
    if parent != paths.home:
        # In a sticky /tmp only its owner can replace a folder, so one check is enough.
        parent.mkdir(mode=0o711 if os_user.drop_privileges else 0o700, exist_ok=True)
        check_owner(parent, os.geteuid())
    os_user.make_private_folder(paths.socket_dir)


def _make_home(wanted: Path, os_user: OsUser) -> Path:
    wanted.mkdir(parents=True, exist_ok=True)
    if (wanted / "PG_VERSION").exists():
        raise EmbeddedPostgresError(
            f"{wanted} is a Postgres data directory that Roost did not make: choose another folder"
        )
    # No mode is changed to let the server's user in: a folder above may be private on purpose. The
    # files go to a folder that this user can enter; its name is a hash of the wanted path.
    home = wanted
    if not os_user.can_enter(wanted):
        home = make_root_home() / _name_for_root(wanted)
        home.mkdir(exist_ok=True, mode=0o755)
    check_owner(home, os.geteuid())
    return home


def _name_for_root(wanted: Path) -> str:
    return f"data-{_digest(wanted)}"


def _socket_dir(home: Path) -> Path:
    inside = home / "socket"
    # libpq reads a comma as a list of hosts; other drivers fail at other characters in a URL.
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", str(inside))
    if plain and len(os.fsencode(inside / SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
        return inside
    # Not $TMPDIR or $XDG_RUNTIME_DIR: they may differ between processes that use this server.
    return SHORT_HOME / f"roost-{os.geteuid()}" / _digest(home)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
