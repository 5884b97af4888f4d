"""The operating-system user that runs the server. Postgres refuses to run as root."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from roost.embedded.errors import EmbeddedPostgresError


@attrs.frozen(kw_only=True)
class OsUser:
    """The operating-system user that owns the data and runs the server.

    :param drop_privileges: this process is root and starts the server as another user.
    """

    name: str
    uid: int
    gid: int
    drop_privileges: bool

    def run(
        self, command: Sequence[str | Path], *, timeout: float, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this user, in ``/``, without the terminal and without ``PG*`` variables.

        :param timeout: seconds until it is killed.
        :param pass_fds: file descriptors that it inherits.
        :raises EmbeddedPostgresError: it can't be executed, or took longer than ``timeout``.
        """
        arguments = [str(part) for part in command]
        try:
            return subprocess.run(  # noqa: S603  (known programs, no shell)
                arguments,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                cwd="/",
                env=_environment(os.environ),
                # A Ctrl-C in the terminal reaches only the Python process, which stops the server.
                start_new_session=True,
                umask=0o077,
                pass_fds=pass_fds,
                user=self.uid if self.drop_privileges else None,
                group=self.gid if self.drop_privileges else None,
                extra_groups=[] if self.drop_privileges else None,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmbeddedPostgresError(f"can't run {arguments[0]}: {error}") from error

    def can_enter(self, folder: Path) -> bool:
        """Return whether this user can reach the files in ``folder``.

        It is tried: modes alone don't tell, because of ACLs and capabilities.
        """
        if not self.drop_privileges:
            return os.access(folder, os.X_OK)
        return self.run(["test", "-x", folder], timeout=10).returncode == 0

    def make_private_folder(self, folder: Path) -> None:
        """Create ``folder`` for this user alone. The caller holds the change lock.

        :raises EmbeddedPostgresError: it exists, and is a link or another user's.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        # It belongs to root: it was made just now, or its maker was killed before the next line.
        if self.drop_privileges and folder.lstat().st_uid == 0:
            os.chown(folder, self.uid, self.gid, follow_symlinks=False)
        check_owner(folder, self.uid)


def check_owner(folder: Path, uid: int) -> None:
    """Check that ``folder`` is a folder of the user ``uid``, and not a link.

    :raises EmbeddedPostgresError: it is not.
    """
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink():
        raise EmbeddedPostgresError(f"{folder} is not a folder")
    if found.st_uid != uid:
        raise EmbeddedPostgresError(
            f"{folder} belongs to user id {found.st_uid}, not to {uid}: run as that user, "
            "or choose another data folder"
        )


@functools.cache
def server_user() -> OsUser:
    """Return the user to run the server as.

    That is the user of this process; for root it is ``postgres``, or ``nobody`` without that one.

    :raises EmbeddedPostgresError: this is root, and neither user exists.
    """
    import pwd  # Windows has none, and must be able to import this module

    if os.geteuid() != 0:
        return OsUser(
            name=str(os.geteuid()), uid=os.geteuid(), gid=os.getegid(), drop_privileges=False
        )
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return OsUser(name=name, uid=entry.pw_uid, gid=entry.pw_gid, drop_privileges=True)
    raise EmbeddedPostgresError(
        "Postgres refuses to run as root, and there is neither a user 'postgres' nor 'nobody' "
        "to run it as: run as another user"
    )


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    # PGPORT, PGDATA and others would configure the server; a locale would translate its messages.
    kept = {name: value for name, value in ours.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}
