"""Create, start and stop one server. The caller holds the change lock."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Literal

import attrs

from roost.embedded.binaries import Binaries
from roost.embedded.errors import DataVersionError, EmbeddedPostgresError
from roost.embedded.lock import FileLock
from roost.embedded.os_user import OsUser
from roost.embedded.paths import SOCKET_NAME, Paths, make_socket_dir
from roost.embedded.ready import is_ready
from roost.embedded.removal import delete_unfinished, mark

StopMode = Literal["fast", "immediate"]

START_TIMEOUT = 60.0
"""Seconds for a start. After a crash the server replays its write-ahead log first."""

STOP_TIMEOUT = 30.0
"""Seconds for a stop in mode "fast"; after them mode "immediate" is used."""

RETRY = 0.25
"""Seconds between two attempts to start, while the processes of a killed server end."""

NO_SUCH_PID = "4194305"
"""One more than the largest process id that Linux can give (macOS: 99998)."""

LOG_LIMIT = 1_000_000
"""Bytes. A start renames a longer server log and begins a new one."""


@attrs.frozen(kw_only=True)
class Cluster:
    """One server: its files, its programs and its operating-system user."""

    paths: Paths
    binaries: Binaries
    os_user: OsUser

    def ensure_made(self, change_lock: FileLock) -> None:
        """Run initdb if there is no data yet.

        :param change_lock: held by the caller. initdb inherits it, so it stays locked if this
            process is killed while initdb runs.
        :raises DataVersionError: the data belongs to another major version.
        """
        if self.paths.cluster.exists():
            self._check_version()
            return
        unfinished = self.paths.home / "cluster.new"
        if unfinished.exists():  # we hold the lock, so its process was killed
            delete_unfinished(unfinished)
        self.os_user.make_private_folder(unfinished)
        # Not synced to disk: if the machine crashes now, no data is lost.
        command = ["--no-sync", "--no-instructions", "--username=postgres", "--encoding=UTF8"]
        # Only the mode of the socket's folder keeps other users out, since root connects to another
        # user's server. TCP is rejected in case a user starts the server by hand.
        command += ["--auth-local=trust", "--auth-host=reject", "--locale=C"]
        if self.binaries.major >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = self.os_user.run(
            [self.binaries.folder / "initdb", f"--pgdata={unfinished}", *command],
            timeout=START_TIMEOUT,
            pass_fds=[change_lock.fileno()],
        )
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed: {done.stdout.strip()}")
        mark(unfinished)
        unfinished.rename(self.paths.cluster)

    def ensure_started(self, settings: Mapping[str, object]) -> None:
        """Start the server if it is not running. Return when it accepts connections.

        :param settings: Postgres settings for the start. A running server ignores them.
        :raises EmbeddedPostgresError: it did not start; the message has the end of its log.
        """
        make_socket_dir(self.paths, self.os_user)
        options = _options(settings, self.paths.socket_dir)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_ready():
            # After a server was killed, its last backends and their shared memory prevent a start
            # until they are gone. Without a killed server, the first failure is final.
            left_behind = (self.paths.cluster / "postmaster.pid").exists()
            self._clear_zombie_pid()
            done = self._start(options)
            if done.returncode == 0:
                continue
            if not left_behind or time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Postgres did not start: {done.stdout.strip()}\n{self._log_end()}"
                )
            time.sleep(RETRY)

    def is_ready(self) -> bool:
        """Return whether the server accepts connections."""
        return is_ready(self.paths.socket_dir / SOCKET_NAME, timeout=5.0)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server if it runs.

        :raises EmbeddedPostgresError: it could not be stopped.
        """
        pid_file = self.paths.cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        for how in (mode, "immediate"):
            self._clear_zombie_pid()
            done = self.os_user.run(
                [*self._pg_ctl("stop"), "-w", "-m", how, "-t", str(int(STOP_TIMEOUT))],
                timeout=STOP_TIMEOUT + 10,
            )
            if done.returncode == 0 or not self._is_alive():
                return
        raise EmbeddedPostgresError(
            f"Postgres could not be stopped: {done.stdout.strip()}\n{self._log_end()}"
        )

    def _is_alive(self) -> bool:
        # A killed server leaves its pid file; pg_ctl checks the process.
        return self.os_user.run(self._pg_ctl("status"), timeout=10).returncode == 0

    def _check_version(self) -> None:
        try:
            made_by = (self.paths.cluster / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            raise EmbeddedPostgresError(
                f"{self.paths.cluster} is not a Postgres data directory; move it away"
            ) from None
        if made_by != str(self.binaries.major):
            raise DataVersionError(
                f"{self.paths.home} was made by Postgres {made_by}, but {self.binaries.folder} is "
                f"{self.binaries.version}. Set ROOST_PG_BIN to the bin folder of a Postgres "
                f"{made_by}, or, if its data is not needed, delete {self.paths.home}"
            )

    def _start(self, options: list[str]) -> CompletedProcess[str]:
        log = self.paths.log
        if log.exists() and log.lstat().st_size > LOG_LIMIT:
            log.rename(log.with_suffix(".log.old"))
        # In a session of its own (see OsUser.run), so a Ctrl-C can't interrupt a start.
        quoted = shlex.join(options)
        return self.os_user.run(
            [*self._pg_ctl("start"), "-w", "-l", log, "-t", str(int(START_TIMEOUT)), "-o", quoted],
            timeout=START_TIMEOUT + 10,
        )

    def _pg_ctl(self, verb: str) -> list[str | Path]:
        return [self.binaries.folder / "pg_ctl", verb, "-D", self.paths.cluster]

    def _clear_zombie_pid(self) -> None:
        """Write an unused process id over that of a zombie in the server's lock files.

        A killed server stays a zombie if the container's first process reaps no children, and
        Postgres considers a zombie alive. The files are kept: postmaster.pid names the shared
        memory by which Postgres detects old backends that still write to the data.
        """
        lock_files = (
            self.paths.cluster / "postmaster.pid",
            self.paths.socket_dir / f"{SOCKET_NAME}.lock",
        )
        for path in lock_files:
            try:
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            with os.fdopen(fd, "r+") as file:
                pid, line_end, rest = file.read().partition("\n")
                if pid.isdecimal() and _is_zombie(int(pid)):
                    file.seek(0)
                    file.write(NO_SUCH_PID + line_end + rest)
                    file.truncate()

    def _log_end(self) -> str:
        try:
            return self.paths.log.read_text(errors="replace")[-2000:]
        except OSError:
            return "(no log)"


def _options(settings: Mapping[str, object], socket_dir: Path) -> list[str]:
    ours = {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
    }
    options: list[str] = []
    for name, value in {**settings, **ours}.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise EmbeddedPostgresError(f"{name!r} is not the name of a Postgres setting")
        text = ("off", "on")[value] if isinstance(value, bool) else str(value)
        options += ["-c", f"{name}={text}"]
    return options


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it is gone, or the system has no /proc, and its init reaps zombies
        return False
    return stat.rpartition(")")[2].split()[0] in {"Z", "X"}
