"""Which of several hosts to try first: one that was silent a moment ago comes last.

A caller whose time is shorter than a silent host's would otherwise never reach the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

REMEMBERED = 60.0
"""Seconds after which a host is tried in its turn again."""

_tried_in_vain: dict[str, float] = {}


def in_order(hosts: Iterable[T], *, key: Callable[[T], str]) -> list[T]:
    """Return the hosts as they should be tried, those of the DSN's order first that may answer."""
    now = monotonic()
    return sorted(hosts, key=lambda host: now - _tried_in_vain.get(key(host), -1e9) < REMEMBERED)


@contextmanager
def trying(host: str) -> Iterator[None]:
    """Remember how an attempt ends; one that is cut short by its caller's deadline has failed."""
    _tried_in_vain[host] = monotonic()
    yield
    _tried_in_vain.pop(host, None)
