"""The client of a command: `Roost`, with one connection that Postgres shows as the command's."""

from __future__ import annotations

from roost import HandlerRegistry, Roost
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
