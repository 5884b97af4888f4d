"""Run psycopg's generators to their end by blocking the thread, until a deadline.

A generator of psycopg's yields what it waits for (1 readable, 2 writable, 3 either) and is sent
what is ready. That protocol has been stable since psycopg 3.0.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

from roost._drivers.polling import READ, ready_within

T = TypeVar("T")


def run_until(gen: Generator[int, Any, T], fd: int, deadline: float) -> T:
    """Run a new generator, which waits for ``fd``, to its end.

    :param deadline: by ``time.monotonic``.
    :raises TimeoutError: the deadline came first. `resume_until` can continue the generator.
    """
    try:
        return _run(gen, next(gen), fd, deadline)
    except StopIteration as stop:
        value: T = stop.value
        return value


def resume_until(gen: Generator[int, Any, T], fd: int, deadline: float) -> T:
    """Continue a generator that waits for something to read. The rest is as for `run_until`."""
    try:
        return _run(gen, READ, fd, deadline)
    except StopIteration as stop:
        value: T = stop.value
        return value


def _run(gen: Generator[int, Any, T], wanted: int, fd: int, deadline: float) -> T:
    while True:
        ready = ready_within(fd, wanted, deadline - monotonic())
        if not ready:
            raise TimeoutError
        wanted = gen.send(ready)
