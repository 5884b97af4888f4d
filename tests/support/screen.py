"""Run a command on a terminal of its own, and see the frames that it draws."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

STEP_TIMEOUT = 60.0
"""Seconds to wait for a step that takes less than one second on an idle machine."""
HOME, BELOW = "\x1b[H", "\x1b[J"
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A process of ``python -m roost`` on a new terminal, which is its controlling one.

    :param size: columns and lines.
    :param program: Python to run instead of ``-m roost``.
    """

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str],
        size: tuple[int, int],
        program: str | None = None,
    ) -> None:
        what = ["-m", "roost"] if program is None else ["-c", program]
        self._outer, inner = pty.openpty()
        self.terminal = Path(os.ttyname(inner))
        self.resize(*size, tell=False)
        self.modes: list[Any] = termios.tcgetattr(inner)
        self._inner = inner  # open, so that its modes can be read after the process's end
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *what, *arguments],
            env={**os.environ, "TERM": "xterm-256color", **env},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._written = ""
        self._hung_up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    def _read(self) -> None:
        while not self._hung_up.is_set():
            if select.select([self._outer], [], [], 0.1)[0]:
                self._written += os.read(self._outer, 65_536).decode(errors="replace")

    def hang_up(self) -> None:
        """Close the terminal, as when the connection of ssh is lost. Safe to call twice."""
        if not self._hung_up.is_set():
            self._hung_up.set()
            self._reader.join()
            os.close(self._inner)
            os.close(self._outer)

    @property
    def written(self) -> str:
        """All that was written, with the control sequences."""
        return self._written

    def frame(self) -> list[str]:
        """Return the lines of the last whole frame."""
        frames = self._written.split(HOME)[1:]
        whole = [frame for frame in frames if BELOW in frame]
        if not whole:
            return []
        text = STYLE.sub("", whole[-1].partition(BELOW)[0])
        return [line.rstrip() for line in text.split("\r\n")]

    def wait(self, wanted: Callable[[str], bool], what: str) -> str:
        """Wait for a frame; return it."""
        deadline = time.monotonic() + STEP_TIMEOUT
        while not wanted(text := "\n".join(self.frame())):
            assert self.process.poll() is None, self._written
            assert time.monotonic() < deadline, f"no {what} in:\n{text}"
            time.sleep(0.01)  # sleeps: polls what another process writes
        return text

    def wait_for(self, text: str) -> str:
        """Wait for a frame with a text; return it."""
        return self.wait(lambda frame: text in frame, repr(text))

    def press(self, keys: str) -> None:
        """Type keys."""
        os.write(self._outer, keys.encode())

    def resize(self, columns: int, lines: int, *, tell: bool = True) -> None:
        """Change the size of the terminal, and tell the process."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._outer, termios.TIOCSWINSZ, size)
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def ends(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(STEP_TIMEOUT)

    def modes_now(self) -> list[Any]:
        """Return the modes of the terminal."""
        return list(termios.tcgetattr(self._inner))
