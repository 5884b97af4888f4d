"""Tell a process from its forks, which must not use the parent's connections."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

Process: TypeAlias = tuple[int, int]
"""Process id, and the number of forks between the first process and this one.

The id alone is not enough: the system uses it again after the process has ended.
"""

_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  (one number a process)
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def current_process() -> Process:
    """Return the identity of this process, which differs from that of its parent."""
    return os.getpid(), _forks


class PerProcess(Generic[T]):
    """A value for each process. A forked process makes its own and leaves its parent's alone.

    There is no lock, since a fork could copy one that is held. The child keeps a reference to the
    parent's value, since deleting it could close connections that the parent still uses.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[Process, T] = {}

    def get(self) -> T:
        """Return this process's value; the first call makes it."""
        process = current_process()
        value = self._values.get(process)
        # `setdefault` is one step: threads that call at the same time all get the same value.
        return self._values.setdefault(process, self._make()) if value is None else value
