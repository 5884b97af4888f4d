"""The client of a command: `Roost`, with one connection that Postgres shows as the command's."""

from __future__ import annotations

from datetime import datetime
from typing import Unpack

from roost import HandlerRegistry, JobFilter, Roost
from roost._client import steering_calls
from roost._client.calls import DatabaseCall
from roost._client.steering_calls import Verb
from roost._ops import control
from roost.cli.options import resolve_dsn


class CommandClient(Roost):
    """Has the verbs of `Roost`. It connects at the first call.

    :param dsn: the option ``--dsn``; ``None``: as `resolve_dsn` finds it.
    :param command: what ``pg_stat_activity.application_name`` shows after ``roost``.
    :param registry: where tasks are looked up; ``None``: no task is known.
    """

    def __init__(
        self, dsn: str | None, command: str, *, registry: HandlerRegistry | None = None
    ) -> None:
        super().__init__(resolve_dsn(dsn), registry=registry or HandlerRegistry())
        self._pool = self._driver.pool(max_size=1, application_name=f"roost {command}")

    def database_time(self) -> datetime:
        """Return the time by the database's clock."""
        return self._run(DatabaseCall(control.database_time()))

    def count_jobs(
        self, verb: Verb, *, everything: bool, most: int, **where: Unpack[JobFilter]
    ) -> int:
        """Return how many jobs a verb over a filter would change now, at most ``most``."""
        jobs = steering_calls.select(where, everything=everything, limit=most, borrowed=False)
        return self._run(steering_calls.count_jobs(verb, jobs))
