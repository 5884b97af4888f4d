"""Cron: fire each due tick once. Every worker does it for the entries it declares; none leads."""

from __future__ import annotations

import logging
import math

import anyio
from anyio.abc import TaskStatus

from roost._model.cron import CronEntry
from roost._model.job import JobInsert
from roost._model.registry import with_defaults
from roost._ops.cron import Declaration, declare, fire_due, next_in, renew_declared
from roost._worker.lane import backoff
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = logging.getLogger("roost.worker.cron")

MAX_SLEEP = 30.0
"""Seconds between two looks at most: a notification may be lost, and clocks drift apart."""
RENEW_INTERVAL = 60.0
"""Seconds between two declarations; `STALE_AFTER` is three of them."""
STALE_AFTER = 3 * RENEW_INTERVAL


class CronLane:
    """Sleeps until the next tick of any of its entries, then fires what is due."""

    name = "cron"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._names = [entry.name for entry in runtime.registry.cron_entries]
        self._renew_at = math.inf

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Declare the entries, then fire until cancelled; without entries just wait."""
        task_status.started()
        if not self._names:
            await anyio.sleep_forever()
        failures = 0
        declared = False
        while True:
            try:
                if not declared:
                    await self.declare()
                    declared = True
                wait = await self.once()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("ticks may be late", extra={"error": str(error)})
                wait = backoff(failures)
            else:
                failures = 0
            with anyio.move_on_after(wait):
                await self._runtime.cron_wake.wait()

    async def declare(self) -> None:
        """Make the entries known to the database."""
        registry = self._runtime.registry
        declarations = [_declaration(self._runtime, entry) for entry in registry.cron_entries]
        await self._runtime.call(declare(declarations))
        self._renew_at = anyio.current_time() + RENEW_INTERVAL

    async def once(self) -> float:
        """Fire what is due and return the seconds until the next tick.

        A cancel, or a connection lost on the way, leaves a tick fired or not, never half.
        """
        runtime = self._runtime
        if anyio.current_time() >= self._renew_at:
            await runtime.call(renew_declared(self._names))
            self._renew_at = anyio.current_time() + RENEW_INTERVAL
        wait = await runtime.call(next_in(self._names))
        if wait is not None and wait <= 0:
            fired = await runtime.call_in_transaction(fire_due(self._names))
            if fired:
                logger.info("cron fired", extra={"jobs": fired})
            wait = await runtime.call(next_in(self._names))
        # Somebody else may be firing what is due: look again soon, not at once.
        return MAX_SLEEP if wait is None else min(max(wait, 0.02), MAX_SLEEP)

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


def _declaration(runtime: Runtime, entry: CronEntry) -> Declaration:
    job = JobInsert(
        entry.task,
        entry.args,
        queue=entry.queue,
        priority=entry.priority,
        max_attempts=entry.max_attempts,
    )
    return Declaration(
        name=entry.name,
        schedule=entry.schedule(),
        job=with_defaults(job, runtime.registry),
        misfire=entry.misfire,
        overlap=entry.overlap,
        jitter=entry.jitter,
    )
