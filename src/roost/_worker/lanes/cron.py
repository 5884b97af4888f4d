"""Cron: fire each due tick once. Every worker fires what it knows; there is no leader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

import anyio
from anyio.abc import TaskGroup, TaskStatus

from roost._model.cron import CronEntry, make_args
from roost._model.logs import StructuredLogger
from roost._ops.cron import DueEntry, Fired, Own, fire, next_in, read_due
from roost._worker.cron_declarer import RENEW_INTERVAL, CronDeclarer
from roost._worker.database import Database
from roost._worker.lane import backoff
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseError, DatabaseUnavailableError, InvalidSettingError

logger = StructuredLogger("roost.worker.cron")

MAX_SLEEP = 30.0
"""Seconds between two reads at most: a notification may be lost, and clocks drift apart."""
MIN_INTERVAL = 0.02
"""Seconds between two reads at least, however often the lane is woken."""
MAX_LOCKED_INTERVAL = 0.5
"""Seconds between two reads at most while a due entry is locked by another transaction."""
RETRY_INTERVAL = RENEW_INTERVAL
"""Seconds until an entry that could not be read or fired is tried again."""
ARGS_TIMEOUT = 30.0
"""Seconds that a function may take to make the args of an entry's due ticks."""


class CronLane:
    """Sleeps until the next tick of any entry that it may fire, then fires what is due.

    It fires the entries of its own code, and those of `add_cron` whose task it knows.
    """

    name = "cron"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._declarer = CronDeclarer(state.registry, database)
        self._entries = {entry.name: entry for entry in state.registry.cron_entries}
        self._retry_at: dict[str, float] = {}
        self._making: set[str] = set()
        self._locked_reads = 0
        self._woken = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Declare the entries, then fire until cancelled.

        Ready after the first try, successful or not.
        """
        failures = 0
        async with anyio.create_task_group() as group:
            while True:
                try:
                    wait = await self.once(group)
                except DatabaseUnavailableError as error:
                    failures += 1
                    logger.warning("ticks may be late: %(error)s", error=str(error))
                    wait = backoff(failures)
                except DatabaseError as error:
                    logger.error(
                        "cron refused by the database, tried again in a minute: %(error)s",
                        error=str(error),
                    )
                    wait = RETRY_INTERVAL
                else:
                    failures = 0
                task_status.started()
                with anyio.move_on_after(wait):
                    await self._state.cron_wake.wait()
                    self._woken = True
                    await anyio.sleep(MIN_INTERVAL)

    async def once(self, group: TaskGroup) -> float:
        """Fire what is due and return the seconds until the next tick.

        A cancel, or a connection lost on the way, leaves a tick fired or not, never half.

        :param group: runs the functions that make args.
        """
        woken, self._woken = self._woken, False
        soon = await self._declarer.keep_declared(read_again=woken)
        locked: set[str] = set()
        while True:
            own = self._own(locked)
            wait = await self._database.call(next_in(own))
            if wait is None or wait > 0:
                break
            fired = await self._fire_due(own, locked, group)
            if fired.job_ids:
                logger.info("cron enqueued jobs: %(jobs)s", jobs=fired.job_ids)
        self._locked_reads = self._locked_reads + 1 if locked else 0
        listening = self._state.listening
        waits = [MAX_SLEEP if listening else max(self._state.settings.poll_interval, 1.0)]
        if wait is not None:
            waits.append(max(wait, MIN_INTERVAL))
        if soon:
            waits.append(2 * MIN_INTERVAL)
        if self._retry_at:
            waits.append(max(min(self._retry_at.values()) - monotonic(), MIN_INTERVAL))
        if locked:
            # Another worker may be firing them: read again soon, not at once.
            waits.append(min(MIN_INTERVAL * 2.0**self._locked_reads, MAX_LOCKED_INTERVAL))
        return min(waits)

    def _own(self, locked: set[str]) -> Own:
        now = monotonic()
        self._retry_at = {name: at for name, at in self._retry_at.items() if at > now}
        declarations = self._declarer.declarations
        return Own(
            names=list(declarations),
            fingerprints=[declaration.fingerprint for declaration in declarations.values()],
            tasks=list(self._state.registry),
            left_out=[*self._retry_at, *self._making, *locked],
        )

    async def _fire_due(self, own: Own, locked: set[str], group: TaskGroup) -> Fired:
        """Fire the oldest due entries, and add the names of those that were not to ``locked``.

        :raises DatabaseUnavailableError: not fired, or it is unknown whether they were.
        """
        due = await self._database.call(read_due(own))
        if due.unreadable:
            logger.error("cron entries not understood: %(names)s", names=due.unreadable)
            self._retry_later(due.unreadable)
        plain = []
        for entry in due.entries:
            declared = self._entries.get(entry.name)
            if not entry.args_from_code:
                plain.append(entry)
            elif declared is not None:
                self._making.add(entry.name)
                group.start_soon(self._make_and_fire, entry, declared)
        if not plain:
            return Fired([], set())
        fired = await self._fire(plain, {})
        locked.update({entry.name for entry in plain} - fired.names - self._retry_at.keys())
        return fired

    async def _fire(self, entries: Sequence[DueEntry], made: Mapping[str, Sequence[str]]) -> Fired:
        """Fire entries; one that the database refuses stops no other one.

        :raises DatabaseUnavailableError: not fired, or it is unknown whether they were.
        """
        declarations = self._declarer.declarations
        fingerprints = {name: declarations[name].fingerprint for name in made}
        try:
            return await self._database.call(fire(entries, made, fingerprints))
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            if len(entries) == 1:
                self._log_not_fired(entries[0].name, error)
                return Fired([], set())
        alone = [await self._fire([entry], made) for entry in entries]
        return Fired(
            job_ids=[job_id for fired in alone for job_id in fired.job_ids],
            names={name for fired in alone for name in fired.names},
        )

    async def _make_and_fire(self, due: DueEntry, declared: CronEntry) -> None:
        """Have the code make the args of an entry's ticks, and fire them.

        The ticks stay due if that fails. Later it is tried again, and ``misfire`` decides.
        """
        try:
            fired = await self._fire([due], {due.name: await self._made_args(due, declared)})
        except (InvalidSettingError, TimeoutError) as error:
            self._log_not_fired(due.name, error)
        except DatabaseUnavailableError as error:
            logger.warning("ticks may be late: %(error)s", error=str(error))
        else:
            if fired.job_ids:
                logger.info("cron enqueued jobs: %(jobs)s", jobs=fired.job_ids)
            if due.name not in fired.names:
                self._retry_later([due.name], MAX_LOCKED_INTERVAL)
        finally:
            self._making.discard(due.name)
            self._state.cron_wake.set()

    async def _made_args(self, due: DueEntry, declared: CronEntry) -> list[str]:
        """Call the entry's function in a thread.

        :raises InvalidSettingError: it raised, or its args can't be stored.
        :raises TimeoutError: it took longer than `ARGS_TIMEOUT`.
        """
        make = declared.args
        if not callable(make):  # the fingerprints say that it is
            raise InvalidSettingError("this worker's code has no function for its args")

        def make_all() -> list[str]:
            return [make_args(declared, make, tick) for tick in due.ticks]

        with anyio.move_on_after(ARGS_TIMEOUT):
            return await anyio.to_thread.run_sync(
                make_all, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        raise TimeoutError(f"its args function took longer than {ARGS_TIMEOUT:g} s")

    def _log_not_fired(self, name: str, error: Exception) -> None:
        logger.error(
            "cron entry %(entry)r can't be fired, tried again in a minute: %(error)s",
            entry=name,
            error=str(error),
        )
        self._retry_later([name])

    def _retry_later(self, names: Sequence[str], after: float = RETRY_INTERVAL) -> None:
        self._retry_at.update(dict.fromkeys(names, monotonic() + after))

    async def stop(self) -> None:
        """Withdraw the declarations of this worker."""
        await self._declarer.withdraw()
