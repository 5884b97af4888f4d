"""Listen: hear of new jobs and of cancels at once. Asking finds them anyway, only later."""

from __future__ import annotations

import logging

import anyio
from anyio.abc import TaskStatus

from roost._drivers.base import Listener
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = logging.getLogger("roost.worker.listen")

JOBS, CANCEL, CRON = "roost_jobs", "roost_cancel", "roost_cron"
"""Channels. Payloads: a queue's name; ``<job id>:<lease number>``; an entry's name."""
PROBE_INTERVAL = 30.0
"""Seconds of silence after which the connection is asked whether it still lives."""
PROBE_TIMEOUT = 10.0


class ListenLane:
    """Turns notifications into wakes."""

    name = "listen"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Listen until cancelled, connecting again whenever the connection is lost.

        Ready after the first try, successful or not: a worker without it still works.
        """
        while True:
            try:
                async with self._runtime.driver.listener(
                    [JOBS, CANCEL, CRON], application_name=f"roost listen {self._runtime.name}"
                ) as listener:
                    task_status.started()
                    # Whatever was announced while nobody listened.
                    self._runtime.listening = True
                    self._runtime.look_again()
                    self._runtime.control_wake.set()
                    self._runtime.cron_wake.set()
                    while True:
                        await self.once(listener)
            except DatabaseUnavailableError as error:
                logger.warning("not listening, polling only", extra={"error": str(error)})
            finally:
                self._runtime.listening = False
                self._runtime.control_wake.set()
            task_status.started()
            await anyio.sleep(self._runtime.settings.listen_reconnect_delay)

    async def once(self, listener: Listener) -> None:
        """Pass one bunch of notifications on, or, after a long silence, probe the connection.

        :raises DatabaseUnavailableError: it is dead.
        """
        heard = None
        with anyio.move_on_after(PROBE_INTERVAL):
            heard = await listener.receive()
        if heard is None:
            with anyio.move_on_after(PROBE_TIMEOUT) as probe:
                await listener.probe()
            if probe.cancelled_caught:
                raise DatabaseUnavailableError("the listening connection does not answer")
            return
        queues = self._runtime.settings.queues
        for notification in heard:
            if notification.channel == CANCEL:
                self._cancel(notification.payload)
            elif notification.channel == CRON:
                self._runtime.cron_wake.set()
            elif notification.payload in queues:
                self._runtime.look_again()

    def _cancel(self, payload: str) -> None:
        try:
            job_id, lease_no = map(int, payload.split(":"))
        except ValueError:
            # Anybody may NOTIFY anything.
            logger.warning("notification not understood", extra={"payload": payload[:100]})
        else:
            self._runtime.cancel(job_id, lease_no)

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
