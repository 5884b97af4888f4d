"""Heartbeat: keep this worker's leases, and know when they are gone.

A worker that could not renew for 90 % of ``orphan_stale_after`` stops its own jobs (self-fencing).
After all of it, other workers may run them. It renews on a connection of its own, so that it is not
considered dead because claims and settles wait for a lock.
"""

from __future__ import annotations

import math
import os
import socket
from time import monotonic

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._model.settings import WorkerSettings
from roost._model.version import roost_version
from roost._ops.workers import forget_worker, register_worker, renew_worker, set_queues
from roost._worker.database import Database
from roost._worker.lane import backoff
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.heartbeat")

UNWINDING = 0.1
"""Share of ``orphan_stale_after`` that interrupted jobs have to end before others may take them."""
_FENCED = 0.1
"""Seconds between two checks whether there is a lease again."""
FORGET_TIMEOUT = 1.0
"""Seconds to remove the worker's row at the end; left behind, it expires by itself."""


class HeartbeatLane:
    """Renews the worker's row."""

    name = "heartbeat"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._logged_fence = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Renew until cancelled; `register` comes first."""
        task_status.started()
        async with anyio.create_task_group() as group:
            group.start_soon(self._fence)
            await self._renew()

    async def _fence(self) -> None:
        """Stop the jobs when the leases run out.

        A task of its own, because a call without an answer ends seconds after its timeout:
        cancelling a statement takes a connection too.
        """
        while True:
            await anyio.sleep(max(0.0, self._state.lease_until - monotonic()))
            if not self._state.holds_leases():
                if not self._logged_fence:
                    self._logged_fence = True
                    logger.error(
                        "leases of worker %(worker_id)d have run out: stopping its %(jobs)d jobs",
                        worker_id=self._state.worker_id,
                        jobs=len(self._state.slots),
                    )
                self._state.lose_leases()
                await anyio.sleep(_FENCED)

    async def _renew(self) -> None:
        failures = 0
        while True:
            wait = self._state.settings.heartbeat_interval if not failures else backoff(failures)
            with anyio.move_on_after(min(wait, self._left())):
                await self._state.heartbeat_wake.wait()
            try:
                await self.once()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning(
                    "heartbeat failed, %(failures)d times in a row: %(error)s",
                    failures=failures,
                    error=str(error),
                )
            else:
                if failures:
                    logger.info(
                        "heartbeats are written again after %(failures)d failures",
                        failures=failures,
                    )
                failures = 0

    async def register(self) -> None:
        """Start a new incarnation."""
        settings = self._state.settings
        began = self._state.vitals.heartbeat_tried_at = monotonic()
        self._state.worker_id = await self._database.call_for_heartbeat(
            register_worker(
                name=self._state.name,
                queues=self._state.queues,
                concurrency=self._state.slots.concurrency,
                stale_after=settings.orphan_stale_after,
                tasks=list(self._state.registry),
                version=roost_version(),
                driver=self._database.driver_name,
                event_loop=event_loop(),
                fires_cron=settings.run_cron,
                host=socket.gethostname(),
                pid=os.getpid(),
                slots=self._state.slots.by_queue,
                poll_interval=settings.poll_interval,
                heartbeat_interval=settings.heartbeat_interval,
            )
        )
        self._logged_fence = False
        self._state.notify_mode.start_being_notified(now=began)  # as the new row says
        self._state.credit.revoke()
        self._state.pause_wake.set()  # the new row confirms none
        self._state.lease_until = began + self._lease
        self._state.vitals.heartbeat_at = began

    async def once(self) -> None:
        """Renew once; when the leases are lost, stop the jobs and begin a new incarnation.

        :raises DatabaseUnavailableError: not renewed.
        """
        state, settings = self._state, self._state.settings
        began = state.vitals.heartbeat_tried_at = monotonic()
        alive = await self._database.call_for_heartbeat(
            renew_worker(
                state.worker_id,
                stale_after=settings.orphan_stale_after,
                running=len(state.slots),
                waiting=state.slots.prefetched,
                loop_lag=state.loop_lag.take_worst(),
                stopping=state.stopping,
            ),
            timeout=max(0.1, min(settings.heartbeat_interval, self._left())),
        )
        if alive and self._state.holds_leases():
            self._state.lease_until = began + self._lease
            self._state.vitals.heartbeat_at = began
            await self._correct_row()
            return
        if alive:
            # The renewal came too late, and no rescue has removed the row. The jobs were stopped:
            # without the row they are rescued.
            await self._database.call_for_heartbeat(forget_worker(self._state.worker_id))
        logger.error(
            "this worker, %(worker_id)d, was considered dead: its jobs were stopped",
            worker_id=self._state.worker_id,
        )
        self._state.lease_until = -math.inf  # what a claim in flight brings is not started
        self._state.lose_leases()
        await self.register()
        self._state.wake_fetch()

    async def _correct_row(self) -> None:
        """Write which queues are served, if the row may not say so."""
        state = self._state
        if not state.row_is_stale:
            return
        state.row_is_stale = False
        try:
            await self._database.call_for_heartbeat(
                set_queues(
                    state.worker_id,
                    state.queues,
                    concurrency=state.slots.concurrency,
                    slots=state.slots.by_queue,
                )
            )
        except BaseException:
            state.row_is_stale = True
            raise

    async def stop(self) -> None:
        """Remove the worker's row: its jobs are settled or released by now.

        When a handler still runs, the row stays until it expires: its job must not run twice at
        once.
        """
        if not self._state.needs_its_row():
            with anyio.move_on_after(FORGET_TIMEOUT):
                try:
                    await self._database.call_for_heartbeat(
                        forget_worker(self._state.worker_id), timeout=FORGET_TIMEOUT
                    )
                except DatabaseUnavailableError as error:
                    logger.warning("worker row left behind: %(error)s", error=str(error))

    @property
    def _lease(self) -> float:
        """Seconds of a lease, counted from before the call: the row can't be written earlier."""
        settings = self._state.settings
        return settings.orphan_stale_after - unwinding_seconds(settings)

    def _left(self) -> float:
        """Seconds until the leases run out, > 0 while they hold; a second when they do not."""
        left = self._state.lease_until - monotonic()
        return left if left > 0 else 1.0


def unwinding_seconds(settings: WorkerSettings) -> float:
    """Return the seconds that interrupted jobs have to end before others may take them."""
    return settings.orphan_stale_after * UNWINDING


def event_loop() -> str:
    """Return the package whose event loop runs: ``asyncio``, ``uvloop`` or ``trio``."""
    native = anyio.lowlevel.current_token().native_token
    return type(native).__module__.partition(".")[0]
