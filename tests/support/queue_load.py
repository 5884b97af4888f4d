"""Jobs for several queues, and how many of each queue run at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from roost import JobInsert


@attrs.define
class Running:
    """How many jobs of each queue run now, have run at most at once, and have ended."""

    now: Counter[str] = attrs.field(factory=Counter)
    most: Counter[str] = attrs.field(factory=Counter)
    ended: list[str] = attrs.field(factory=list)
    _lock: Any = attrs.field(factory=threading.Lock)

    @contextmanager
    def one(self, *names: str) -> Iterator[None]:
        """Count one job under each of these names."""
        with self._lock:
            for name in names:
                self.now[name] += 1
                self.most[name] = max(self.most[name], self.now[name])
        try:
            yield
        finally:
            with self._lock:
                for name in names:
                    self.now[name] -= 1
                self.ended.append(names[0])


def some(task: str, queue: str, count: int, **fields: Any) -> list[JobInsert]:
    """Return jobs of ``task`` in ``queue``. Their argument is the queue's name."""
    return [JobInsert(task, queue=queue, args={"queue": queue}, **fields) for _ in range(count)]
