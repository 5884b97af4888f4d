"""Cron: fire each due tick once. Every worker fires the entries it declares; there is no leader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.cron import CronEntry
from roost._model.logs import StructuredLogger
from roost._model.registry import HandlerRegistry, with_defaults
from roost._ops.cron import Declaration, Fired, declare, fire_due, next_in, renew_declared
from roost._worker.database import Database
from roost._worker.lane import backoff
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.cron")

MAX_SLEEP = 30.0
"""Seconds between two reads at most: a notification may be lost, and clocks drift apart."""
MIN_INTERVAL = 0.02
"""Seconds between two reads at least, however often the lane is woken."""
RENEW_INTERVAL = 60.0
"""Seconds between two declarations; `STALE_AFTER` is three of them."""
STALE_AFTER = 3 * RENEW_INTERVAL


class CronLane:
    """Sleeps until the next tick of any of its entries, then fires what is due."""

    name = "cron"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._names = [entry.name for entry in state.registry.cron_entries]
        self._unreadable: set[str] = set()
        self._declared = False
        self._renew_at = math.inf

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Declare the entries, then fire until cancelled; without entries just wait.

        Ready after the first try, successful or not.
        """
        if not self._names:
            task_status.started()
            await anyio.sleep_forever()
        failures = 0
        while True:
            try:
                wait = await self.once()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("ticks may be late: %(error)s", error=str(error))
                wait = backoff(failures)
            else:
                failures = 0
            task_status.started()
            with anyio.move_on_after(wait):
                await self._state.cron_wake.wait()
                await anyio.sleep(MIN_INTERVAL)

    async def once(self) -> float:
        """Fire what is due and return the seconds until the next tick.

        A cancel, or a connection lost on the way, leaves a tick fired or not, never half.
        """
        await self._keep_declared()
        names = [name for name in self._names if name not in self._unreadable]
        wait = await self._database.call(next_in(names))
        if wait is not None and wait <= 0:
            fired = await self._fire(names)
            if fired.job_ids:
                logger.info("cron enqueued jobs: %(jobs)s", jobs=fired.job_ids)
            if fired.unreadable:
                logger.error("cron entries not understood: %(names)s", names=fired.unreadable)
                self._unreadable.update(fired.unreadable)
                names = [name for name in names if name not in self._unreadable]
            wait = await self._database.call(next_in(names))
        # Another worker may be firing the due ticks: read again soon, not at once.
        return MAX_SLEEP if wait is None else min(max(wait, 0.02), MAX_SLEEP)

    async def _fire(self, names: Sequence[str]) -> Fired:
        """Fire what is due of ``names``; an entry that the database refuses stops no other one.

        :raises DatabaseUnavailableError: not fired, or it is unknown whether they were.
        """
        try:
            return await self._database.call(fire_due(names))
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            if len(names) == 1:
                logger.error(
                    "cron entry %(entry)r can't be fired, tried again in a minute: %(error)s",
                    entry=names[0],
                    error=str(error),
                )
                return Fired([], unreadable=list(names))
        alone = [await self._fire([name]) for name in names]
        return Fired(
            job_ids=[job_id for fired in alone for job_id in fired.job_ids],
            unreadable=[name for fired in alone for name in fired.unreadable],
        )

    async def _declare(self, entries: Sequence[Declaration]) -> None:
        """Make the entries known; one that the database refuses stops no other one.

        :raises DatabaseUnavailableError: not all are known.
        """
        try:
            await self._database.call(declare(entries))
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            if len(entries) == 1:
                logger.error(
                    "cron entry %(entry)r was refused by the database: %(error)s",
                    entry=entries[0].name,
                    error=str(error),
                )
                return
        else:
            return
        for entry in entries:
            await self._declare([entry])

    async def _keep_declared(self) -> None:
        """Make the entries known to the database, and then say now and then that they are."""
        if self._declared and monotonic() < self._renew_at:
            return
        if self._declared:
            await self._database.call(renew_declared(self._names))
        else:
            registry = self._state.registry
            await self._declare([_declaration(entry, registry) for entry in registry.cron_entries])
        self._declared = True
        self._renew_at = monotonic() + RENEW_INTERVAL
        self._unreadable.clear()  # they may have been repaired

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


def _declaration(entry: CronEntry, registry: HandlerRegistry) -> Declaration:
    return Declaration(
        name=entry.name,
        schedule=entry.schedule(),
        job=with_defaults(entry.job(), registry),
        misfire=entry.misfire,
        overlap=entry.overlap,
        jitter=entry.jitter,
    )
