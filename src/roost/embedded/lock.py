"""Locks between processes. The kernel releases them when their process dies, even by kill -9."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from roost.embedded.errors import EmbeddedPostgresError

POLL = 0.01
"""Seconds between two attempts. Waiting in the kernel would have no deadline."""


class FileLock:
    """An open lock file. Two of them in one process exclude each other as in two processes.

    Closing it releases the lock. Programs that this process starts inherit the file only if its
    ``fileno()`` is passed to them; then the lock lasts until they, too, have ended.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path) -> FileLock:
        """Open ``path``, and create it if it is missing. Does not lock it."""
        # O_NOFOLLOW: Roost makes no links, so a link comes from another user.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return cls(path, fd)

    def exclusive(self, *, timeout: float) -> None:
        """Lock it exclusively; wait up to ``timeout`` seconds.

        :raises EmbeddedPostgresError: another process held it the whole time.
        """
        deadline = time.monotonic() + timeout
        while not self.try_exclusive():
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"another process has held {self.path} for more than {timeout:g} s"
                )
            time.sleep(POLL)

    def try_exclusive(self) -> bool:
        """Lock it exclusively if that is possible now, and return whether it was.

        If not, a shared lock that this file had may be lost.
        """
        import fcntl  # not on Windows, where this module must be importable

        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def shared(self) -> None:
        """Lock it shared; wait while another one is exclusive."""
        import fcntl

        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def still_exists(self) -> bool:
        """Return whether the file still exists. Later processes don't see a deleted one's lock."""
        return os.fstat(self._fd).st_nlink > 0

    def fileno(self) -> int:
        """Return the file descriptor, for a program that is to inherit the lock."""
        return self._fd

    def close(self) -> None:
        """Release the lock; safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
