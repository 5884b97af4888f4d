"""Look at the processes that a command has started."""

from __future__ import annotations

import re
import subprocess


def worker_pids(output: str) -> list[int]:
    """Return the ids of the worker processes that ``output`` reports as started, oldest first."""
    return [int(pid) for pid in re.findall(r"worker process \d+ started: pid (\d+)", output)]


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, also if nothing has reaped it yet."""
    return _ps("-o", "stat=", "-p", str(pid))[:1] in ("", "Z")


def children(pid: int) -> list[int]:
    """Return the ids of a process's children, with ended ones that it has not reaped."""
    return [int(word) for word in _ps("-o", "pid=", "--ppid", str(pid)).split()]


def command_of(pid: int) -> str:
    """Return the name of a process's program."""
    return _ps("-o", "comm=", "-p", str(pid))


def _ps(*options: str) -> str:
    shown = subprocess.run(["ps", *options], capture_output=True, text=True, check=False)
    return shown.stdout.strip()
