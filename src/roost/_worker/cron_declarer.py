"""Declares a worker's cron entries, and keeps them declared while it runs."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Sequence
from time import monotonic

import anyio

from roost._model.cron import CronEntry, source_text
from roost._model.logs import StructuredLogger
from roost._model.registry import HandlerRegistry, with_defaults
from roost._ops.cron import Declaration, declare, not_in_force, renew_declared, withdraw
from roost._worker.database import STOP_TIMEOUT, Database
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.cron")

RENEW_INTERVAL = 60.0
"""Seconds between two renewals; `STALE_AFTER` is three of them."""
STALE_AFTER = 3 * RENEW_INTERVAL
"""Seconds after which the declarations of a worker that was killed count as gone."""


class CronDeclarer:
    """The declarations of one worker.

    An entry follows the declaration that was first seen last, while a living worker has it. So a
    worker with older code does not change it back.

    :ivar declarations: by name.
    """

    def __init__(self, registry: HandlerRegistry, database: Database) -> None:
        self._database = database
        self._worker = uuid.uuid4().hex
        self.declarations = {
            entry.name: declaration_of(entry, registry) for entry in registry.cron_entries
        }
        self._pending = set(self.declarations)
        self._outcomes: dict[str, str] = {}
        self._renew_at = math.inf
        self._stopped = False
        self._lock = anyio.Lock()

    async def keep_declared(self, *, read_again: bool) -> bool:
        """Declare what is not declared yet, and renew the rest when it is time.

        :param read_again: also try again those that are not in force: their rivals may be gone.
        :returns: whether some must be tried again soon.
        :raises DatabaseUnavailableError: not all are declared or renewed.
        """
        async with self._lock:
            if self._stopped or not self.declarations:
                return False
            own = list(self.declarations.values())
            if monotonic() >= self._renew_at:
                renewal = renew_declared(own, worker=self._worker)
                self._pending.update(await self._database.call(renewal))
                self._renew_at = monotonic() + RENEW_INTERVAL
            elif read_again:
                self._pending.update(await self._database.call(not_in_force(own)))
            if self._pending:
                await self._declare([self.declarations[name] for name in sorted(self._pending)])
                self._renew_at = min(self._renew_at, monotonic() + RENEW_INTERVAL)
            return bool(self._pending)

    async def _declare(self, entries: Sequence[Declaration]) -> None:
        """Declare entries; one that the database refuses stops no other one.

        :raises DatabaseUnavailableError: not all are declared.
        """
        try:
            outcomes = await self._database.call(
                declare(entries, worker=self._worker, stale_after=STALE_AFTER)
            )
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            if len(entries) == 1:
                logger.error(
                    "cron entry %(entry)r was refused by the database: %(error)s",
                    entry=entries[0].name,
                    error=str(error),
                )
                self._pending.discard(entries[0].name)  # declared again at the next renewal
                return
        else:
            for name, outcome in outcomes.items():
                if outcome != "locked":
                    self._pending.discard(name)
                    self._record(name, outcome)
            return
        for entry in entries:
            await self._declare([entry])

    def _record(self, name: str, outcome: str) -> None:
        """Remember what became of a declaration, and log it if it is news."""
        before = self._outcomes.get(name, "in force")
        self._outcomes[name] = outcome
        if outcome == before:
            return
        if outcome == "superseded":
            logger.warning(
                "cron entry %(entry)r stays as a worker with newer code declares it", entry=name
            )
        elif outcome == "taken":
            logger.error(
                "cron entry %(entry)r was added at run time and stays so: remove that one, or name "
                "yours otherwise",
                entry=name,
            )
        else:
            logger.info("cron entry %(entry)r follows this worker's code again", entry=name)

    async def withdraw(self) -> None:
        """Stop declaring, so that other workers' declarations count at once.

        If the database does not answer within a second, the declarations end by themselves after
        `STALE_AFTER`.
        """
        with anyio.move_on_after(STOP_TIMEOUT), contextlib.suppress(DatabaseError):
            async with self._lock:
                self._stopped = True
                if self._outcomes:
                    leave = withdraw(list(self._outcomes), worker=self._worker)
                    await self._database.call(leave, timeout=STOP_TIMEOUT)


def declaration_of(entry: CronEntry, registry: HandlerRegistry) -> Declaration:
    """Return the declaration of an entry, with its task's defaults."""
    return Declaration(
        name=entry.name,
        schedule=entry.schedule(),
        job=with_defaults(entry.job(), registry),
        misfire=entry.misfire,
        overlap=entry.overlap,
        jitter=entry.jitter,
        run_on_start=entry.run_on_start,
        args_from=source_text(entry.args) if callable(entry.args) else None,
    )
