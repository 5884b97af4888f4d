"""Locks between processes that the kernel gives back when their holder dies, even by kill -9."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from roost.embedded.errors import EmbeddedPostgresError

LOOK_AGAIN = 0.01
"""Seconds between two tries. Waiting in the kernel instead could not be given a deadline."""


class FileLock:
    """An open lock file. Two of them in one process exclude each other like two processes.

    Closing it gives the lock back. The file is not inherited by programs that are started, unless
    its ``fileno()`` is passed on: then the lock lasts until they, too, have ended.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path) -> FileLock:
        """Open ``path``, creating it; takes no lock yet."""
        # O_NOFOLLOW: a lock file that is a link was put there by somebody else.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return cls(path, fd)

    def exclusive(self, *, timeout: float) -> None:
        """Be the only holder; wait up to ``timeout`` seconds.

        :raises EmbeddedPostgresError: somebody else held it all that time.
        """
        deadline = time.monotonic() + timeout
        while not self.try_exclusive():
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"another process has held {self.path} for more than {timeout:g} s"
                )
            time.sleep(LOOK_AGAIN)

    def try_exclusive(self) -> bool:
        """Be the only holder if that is possible now; a shared hold may be lost if it is not."""
        import fcntl  # not on Windows, where this module must be importable

        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def shared(self) -> None:
        """Be one of several holders; waits while there is an exclusive one."""
        import fcntl

        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def still_exists(self) -> bool:
        """Say whether the file is still there; a removed one doesn't exclude later processes."""
        return os.fstat(self._fd).st_nlink > 0

    def fileno(self) -> int:
        """Return the file descriptor, to pass the lock on to a program."""
        return self._fd

    def close(self) -> None:
        """Give the lock back; safe to call twice."""
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
