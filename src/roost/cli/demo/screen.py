"""What the demo shows: a progress bar and a table, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

STEPS = 4
"""How many lines of progress are printed where there is no bar."""


class Screen:
    """Prints to a stream; control codes only to a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @classmethod
    def of_stdout(cls) -> Self:
        """Return the screen of this process."""
        if sys.stdout.isatty():
            return cls(Console(highlight=False))
        # Whatever FORCE_COLOR and the like say: what is piped on is read by programs.
        plain = Console(force_terminal=False, color_system=None, highlight=False, width=120)
        return cls(plain)

    def say(self, text: str, *, style: str = "") -> None:
        """Print a paragraph; names of files in it are not taken for markup."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def table(self, header: list[str], rows: list[list[str]]) -> None:
        """Print a table; all columns but the first are numbers."""
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for column, name in enumerate(header):
            table.add_column(name, justify="right" if column else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        self.console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Bar | Lines]:
        """Show progress inside the block."""
        if not self.console.is_terminal:
            yield Lines(self)
            return
        columns = (
            TextColumn("indexing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("jobs"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield Bar(progress)


class Bar:
    """A bar that moves."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def total(self, jobs: int) -> None:
        """Set where the bar ends."""
        self._progress.update(self._task, total=jobs)

    def done(self, jobs: int) -> None:
        """Set where the bar is."""
        self._progress.update(self._task, completed=jobs)


class Lines:
    """A line at each quarter."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._total = 0
        self._said = 0

    def total(self, jobs: int) -> None:
        """Set what a whole is."""
        self._total = jobs

    def done(self, jobs: int) -> None:
        """Print a line if another quarter is done."""
        step = STEPS * jobs // max(self._total, 1)
        if step > self._said:
            self._said = step
            self._screen.say(f"  {jobs} of {self._total} jobs have ended")
