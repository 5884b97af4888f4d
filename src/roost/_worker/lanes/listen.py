"""Listen: hear of new jobs and of cancels at once. Asking finds them anyway, only later."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from time import monotonic

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from roost._drivers.base import Listener, Notification
from roost._model.logs import StructuredLogger
from roost._ops.dispatch import DISPATCHED, WATCH
from roost._ops.workers import notify_probe
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.listen")

JOBS, ROOM, CANCEL = "roost_jobs", "roost_room", "roost_cancel"
"""Channels. Payloads: a queue's name; a limited task's name; ``<job id>:<lease number>``."""
PAUSE, CRON, PROBE = "roost_pause", "roost_cron", "roost_probe"
"""Channels. Payloads: a queue's name; an entry's name; a probe's."""
PROBE_INTERVAL = 30.0
"""Seconds of silence after which the connection is asked whether it still hears."""
PROBE_TIMEOUT = 10.0
WATCH_DELAY = 0.15
"""Seconds that another worker has to accept a job before this one looks whether it has."""
DEAF_DELAY = 60.0
"""Seconds before a connection is opened again that answered but heard nothing."""


class _DeafError(DatabaseUnavailableError):
    """The connection answers, but notifications don't arrive."""


class ListenLane:
    """Turns notifications into wakes."""

    name = "listen"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tokens = itertools.count(1)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Listen until cancelled, connecting again whenever the connection is lost.

        Ready after the first try, successful or not: a worker without it still works.
        """
        lost = False
        while True:
            delay = self._runtime.settings.listen_reconnect_delay
            # New each time, so that its lock says whether this very connection lives.
            own = f"roost_worker_{secrets.token_hex(16)}"
            try:
                async with self._runtime.driver.listener(
                    [JOBS, ROOM, CANCEL, PAUSE, CRON, PROBE, own],
                    application_name=f"roost listen {self._runtime.name}",
                ) as listener:
                    task_status.started()
                    # Whatever was announced while nobody listened.
                    self._wake_all()
                    await self._check(listener)
                    self._runtime.listening = True
                    if lost:
                        logger.info("listening again")
                        lost = False
                    # Only now: behind a pooler the lock would stay with the pooler's connection.
                    await listener.lock(own)
                    self._runtime.offer.listens(own)
                    self._runtime.look.set()
                    while True:
                        await self.once(listener)
            except _DeafError:
                delay = DEAF_DELAY
                logger.error(
                    "notifications don't arrive, polling only: is there a pooler in transaction "
                    "mode in front of Postgres?"
                )
            except DatabaseUnavailableError as error:
                logger.warning("not listening, polling only: %(error)s", error=str(error))
            finally:
                lost = True
                self._runtime.listening = False
                self._runtime.offer.channel = None
                self._runtime.control_wake.set()
                self._runtime.pauses_wake.set()
            task_status.started()
            await anyio.sleep(delay)

    async def once(self, listener: Listener) -> None:
        """Pass one bunch of notifications on, or, after a long silence, check the connection.

        :raises DatabaseUnavailableError: it is dead, or deaf.
        """
        heard = None
        with anyio.move_on_after(PROBE_INTERVAL):
            heard = await listener.receive()
        if heard is None:
            await self._check(listener)
        else:
            self._pass_on(heard)
            # What was just started goes first.
            await anyio.lowlevel.checkpoint()

    async def _check(self, listener: Listener) -> None:
        """Send a notification and wait to hear it: a connection that answers may still be deaf."""
        token = f"{self._runtime.name} {next(self._tokens)}"
        waiting = anyio.move_on_after(PROBE_TIMEOUT)
        sent = anyio.Event()
        failure: DatabaseUnavailableError | None = None
        async with anyio.create_task_group() as group:
            # Beside the hearing: what else is announced must not wait until a connection is free.
            group.start_soon(self._send_probe, token, waiting, sent)
            try:
                with waiting:
                    await self._hear(listener, token)
                    group.cancel_scope.cancel()
                    return
            except DatabaseUnavailableError as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        with anyio.move_on_after(PROBE_TIMEOUT):
            await listener.probe()
            if sent.is_set():
                raise _DeafError("notifications don't arrive")
            return  # it was not heard because it was not sent: that says nothing
        raise DatabaseUnavailableError("the listening connection does not answer")

    async def _send_probe(self, token: str, waiting: anyio.CancelScope, sent: anyio.Event) -> None:
        """Send a notification and give it `PROBE_TIMEOUT` from then on to arrive."""
        try:
            await self._runtime.call(notify_probe(token), timeout=PROBE_TIMEOUT)
        except DatabaseUnavailableError as error:
            logger.info("the probe of the listening was not sent: %(error)s", error=str(error))
            waiting.cancel()
        else:
            sent.set()
            waiting.deadline = anyio.current_time() + PROBE_TIMEOUT

    async def _hear(self, listener: Listener, token: str) -> None:
        while True:
            heard = await listener.receive()
            self._pass_on(heard)
            if Notification(PROBE, token) in heard:
                return

    def _pass_on(self, heard: Sequence[Notification]) -> None:
        of_jobs = 0
        cancels: set[int] = set()
        own: set[str] = set()
        for notification in heard:
            if notification.channel == CANCEL:
                cancels.update(_job_ids(notification.payload))
            elif notification.channel == CRON:
                self._runtime.cron_wake.set()
            elif notification.channel == PAUSE:
                self._runtime.pauses_wake.set()
            elif notification.channel in (JOBS, ROOM):
                of_jobs += self._concerns(notification)
            elif notification.channel == self._runtime.offer.channel:
                own.add(notification.payload)
        if cancels:
            self._look_for_cancels(cancels)
        if own:
            self._read_own(own)
        if of_jobs:
            self._runtime.alertness.heard(of_jobs, now=monotonic())
            self._runtime.look_again()

    def _concerns(self, notification: Notification) -> bool:
        """Say whether a job may have become claimable here."""
        if notification.channel == JOBS:
            return notification.payload in self._runtime.settings.queues
        return self._runtime.waits_for_room(notification.payload)

    def _read_own(self, payloads: set[str]) -> None:
        """Have the fetch lane read this worker's row, or look at what others don't accept."""
        runtime = self._runtime
        if DISPATCHED in payloads:
            runtime.alertness.heard(1, now=monotonic())
            runtime.offer.told()
        if WATCH in payloads:
            runtime.offer.watch_at = min(runtime.offer.watch_at, monotonic() + WATCH_DELAY)
        runtime.look.set()

    def _wake_all(self) -> None:
        self._runtime.look_again()
        self._runtime.control_wake.set()
        self._runtime.pauses_wake.set()
        self._runtime.cron_wake.set()

    def _look_for_cancels(self, job_ids: set[int]) -> None:
        """Have the rows read if one of the jobs is here; else after the claim that may bring it."""
        if job_ids.isdisjoint(self._runtime.running.ids):
            self._runtime.cancel_heard = True
        else:
            self._runtime.control_wake.set()

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


def _job_ids(payload: str) -> list[int]:
    """Return the id of the job that is to be cancelled, none if the payload is not one of ours."""
    job_id, _, _ = payload[:40].partition(":")
    return [int(job_id)] if job_id.isascii() and job_id.isdigit() else []
