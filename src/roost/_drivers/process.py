"""Which process this is. A fork makes another one, which must not use its parent's connections."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

Process: TypeAlias = tuple[int, int]
"""Process id, and how many forks are between the first process and this one.

The number is there because a process id is used again after its process has ended.
"""

_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  (one number a process)
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def current_process() -> Process:
    """Return what tells this process from the one that it was forked from."""
    return os.getpid(), _forks


class PerProcess(Generic[T]):
    """A value for each process: a forked process makes its own and leaves its parent's alone.

    No lock is held, so a fork can't copy a held one. The parent's value stays referenced in the
    child: to delete it could close what the parent still uses.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[Process, T] = {}

    def get(self) -> T:
        """Return this process's value; the first call makes it."""
        process = current_process()
        value = self._values.get(process)
        # One step: of several threads that come here at once, all get the same value.
        return self._values.setdefault(process, self._make()) if value is None else value
