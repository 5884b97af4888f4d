"""The terminal: its own screen, single keys, and how it was before, whatever ends the program."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from io import StringIO
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.text import Text

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""Switch to a screen of its own, hide the cursor, and don't continue long lines on the next."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
ESCAPE_WAIT = 0.05
"""Seconds for the rest of a key's sequence, which a slow line may deliver later."""
STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
SEQUENCES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[C": "right",
    "\x1bOC": "right",
    "\x1b[D": "left",
    "\x1bOD": "left",
    "\x1b[Z": "backtab",
    "\t": "tab",
    "\x1b": "escape",
}


class Terminal:
    """Takes over the terminal for a ``with`` block. Use it in the main thread.

    :ivar stopped_by: the signal that wants the program to end; ``None``: none has come.
    """

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        self._before: list[Any] = termios.tcgetattr(self._fd)
        self._wake_read, self._wake_write = os.pipe()
        self._handlers: dict[int, Any] = {}
        self._typed = ""
        self.stopped_by: signal.Signals | None = None

    def __enter__(self) -> Self:
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in STOPPING:
            self._handlers[number] = signal.signal(number, self._stop)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _ignore)
        try:
            self._take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def wake(self) -> None:
        """End a wait for keys; any thread may call it."""
        with contextlib.suppress(OSError):  # full, so it wakes anyway; or the program ends
            os.write(self._wake_write, b"\0")

    def keys(self, *, timeout: float) -> Iterator[str]:
        """Wait for keys, a signal or `wake` up to ``timeout`` seconds, and yield the keys."""
        ready, _, _ = select.select([self._fd, self._wake_read], [], [], timeout)
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4_096)
        if self._fd in ready:
            self._type(os.read(self._fd, 4_096))
        while self._typed:
            if (
                self._typed in ("\x1b", "\x1b[", "\x1bO")
                and select.select([self._fd], [], [], ESCAPE_WAIT)[0]
            ):
                self._type(os.read(self._fd, 4_096))
            yield self._next_key()

    def _type(self, data: bytes) -> None:
        if not data:  # the terminal is gone
            self.stopped_by = signal.SIGHUP
        self._typed += data.decode(errors="replace")

    def _next_key(self) -> str:
        for sequence, name in SEQUENCES.items():
            if self._typed.startswith(sequence) and (
                name != "escape" or not self._typed.startswith(("\x1b[", "\x1bO"))
            ):
                self._typed = self._typed[len(sequence) :]
                return name
        if self._typed.startswith("\x1b"):  # a key that means nothing here
            end = next((n for n, c in enumerate(self._typed[2:], 3) if c.isalpha() or c == "~"), 0)
            self._typed = self._typed[end or len(self._typed) :]
            return "other"
        key, self._typed = self._typed[0], self._typed[1:]
        return key

    def size(self) -> tuple[int, int]:
        """Return columns and lines; both can change at any time."""
        columns, lines = os.get_terminal_size(self._out)
        return max(columns, 1), max(lines, 1)

    def show(self, lines: Sequence[Text]) -> None:
        """Write a frame over the one before, in one piece, so that nothing flickers."""
        columns, _ = self.size()
        console = Console(file=StringIO(), force_terminal=True, width=columns, color_system=COLORS)
        drawn = []
        for line in lines:
            with console.capture() as captured:
                console.print(
                    line, end="", no_wrap=True, crop=True, highlight=False, soft_wrap=True
                )
            drawn.append(captured.get() + CLEAR_LINE)
        self._write(HOME + "\r\n".join(drawn) + CLEAR_BELOW)

    def _take(self) -> None:
        single_keys = [*self._before]
        single_keys[3] &= ~(termios.ICANON | termios.ECHO)  # Ctrl-C and Ctrl-Z stay signals
        termios.tcsetattr(self._fd, termios.TCSADRAIN, single_keys)
        self._write(ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            self._write(LEAVE)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._out, data) :]

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.stopped_by = signal.Signals(number)

    def _suspend(self, number: int, _frame: FrameType | None) -> None:
        """Give the terminal back, stop as Ctrl-Z does, and take it again when continued."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._take()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Only end the wait: the next frame has the new size."""


COLORS: Any = None if os.environ.get("NO_COLOR") else "standard"
