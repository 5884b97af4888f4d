"""Choose which of several hosts to try first: one that was silent a moment ago is tried last.

If the caller has less time than a silent host takes to fail, the next host would otherwise never
be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

FAILURE_MEMORY = 60.0
"""Seconds for which a host that failed is tried last."""

_failed_at: dict[str, float] = {}


def order_hosts(hosts: Iterable[T], *, key: Callable[[T], str]) -> list[T]:
    """Return the hosts in the DSN's order, but those that failed recently at the end."""
    now = monotonic()
    return sorted(hosts, key=lambda host: now - _failed_at.get(key(host), -1e9) < FAILURE_MEMORY)


@contextmanager
def record_attempt(host: str) -> Iterator[None]:
    """Remember whether the attempt in this block fails; a cancel counts as a failure too."""
    _failed_at[host] = monotonic()
    yield
    _failed_at.pop(host, None)
