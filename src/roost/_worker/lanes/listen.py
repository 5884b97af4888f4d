"""Listen: turn notifications into wakes. Without them the lanes poll, and act later."""

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
from roost._worker.database import Database
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.listen")

JOBS, ROOM, CANCEL = "roost_jobs", "roost_room", "roost_cancel"
"""Channels. Payloads: a queue's name; a limited task's name; ``<job id>:<lease number>``."""
PAUSE, CRON, LIMITS, PROBE = "roost_pause", "roost_cron", "roost_limits", "roost_probe"
"""Channels. Payloads: a queue's name; an entry's name; a task's name; a probe's."""
WATCH_EVENTS = "roost_watch"
"""A channel without payload: a client listens for events."""
PROBE_INTERVAL = 30.0
"""Seconds without a notification after which the connection is checked."""
PROBE_TIMEOUT = 10.0
NOT_NOTIFIED_DELAY = 60.0
"""Seconds before a new connection when the last one answered and received no notification."""


class _NotNotifiedError(DatabaseUnavailableError):
    """The connection answers, but notifications don't arrive."""


class ListenLane:
    """Turns notifications into wakes."""

    name = "listen"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._tokens = itertools.count(1)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Listen until cancelled, connecting again whenever the connection is lost.

        Ready after the first try, successful or not: a worker without it still works.
        """
        lost = False
        while True:
            delay = self._state.settings.listen_reconnect_delay
            # New for each connection: its advisory lock says whether this connection lives.
            own = f"roost_worker_{secrets.token_hex(16)}"
            try:
                async with self._database.listener(
                    [JOBS, ROOM, CANCEL, PAUSE, CRON, LIMITS, PROBE, WATCH_EVENTS, own]
                ) as listener:
                    task_status.started()
                    # Notifications were lost while the worker did not listen.
                    self._wake_all()
                    await self._check(listener)
                    self._state.listening = True
                    self._state.vitals.listens(now=monotonic())
                    if lost:
                        logger.info("listening again")
                        lost = False
                    # After the check: a pooler's connection would keep the lock.
                    await listener.lock(own)
                    self._state.credit.listen_on(own)
                    self._state.fetch_wake.set()
                    while True:
                        await self.once(listener)
            except _NotNotifiedError:
                delay = NOT_NOTIFIED_DELAY
                self._state.vitals.polls_only = True
                logger.error(
                    "notifications don't arrive, polling only: is there a pooler in transaction "
                    "mode in front of Postgres?"
                )
            except DatabaseUnavailableError as error:
                self._state.vitals.polls_only = False
                logger.warning("not listening, polling only: %(error)s", error=str(error))
            finally:
                lost = True
                self._state.listening = False
                self._state.credit.channel = None
                self._state.cancel_wake.set()
                self._state.pause_wake.set()
            task_status.started()
            await anyio.sleep(delay)

    async def once(self, listener: Listener) -> None:
        """Handle the next notifications, or check the connection after `PROBE_INTERVAL` without.

        :raises DatabaseUnavailableError: the connection is lost, or receives no notifications.
        """
        received = None
        with anyio.move_on_after(PROBE_INTERVAL):
            received = await listener.receive()
        if received is None:
            await self._check(listener)
            self._state.vitals.listens(now=monotonic())
        else:
            self._state.vitals.listens(now=monotonic())
            self._handle(received)
            # The lanes that were just woken run first.
            await anyio.lowlevel.checkpoint()

    async def _check(self, listener: Listener) -> None:
        """Send a notification and wait for it: a connection that answers may not receive any."""
        token = f"{self._state.name} {next(self._tokens)}"
        waiting = anyio.move_on_after(PROBE_TIMEOUT)
        sent = anyio.Event()
        failure: DatabaseUnavailableError | None = None
        async with anyio.create_task_group() as group:
            # In a task of its own: other notifications must not wait until a connection is free.
            group.start_soon(self._send_probe, token, waiting, sent)
            try:
                with waiting:
                    await self._receive_until(listener, token)
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
                raise _NotNotifiedError("notifications don't arrive")
            return  # the probe was not sent: that says nothing of this connection
        raise DatabaseUnavailableError("the listening connection does not answer")

    async def _send_probe(self, token: str, waiting: anyio.CancelScope, sent: anyio.Event) -> None:
        """Send a notification and give it `PROBE_TIMEOUT` from then on to arrive."""
        try:
            await self._database.call(notify_probe(token), timeout=PROBE_TIMEOUT)
        except DatabaseUnavailableError as error:
            logger.info(
                "the probe of the listening connection was not sent: %(error)s", error=str(error)
            )
            waiting.cancel()
        else:
            sent.set()
            waiting.deadline = anyio.current_time() + PROBE_TIMEOUT

    async def _receive_until(self, listener: Listener, token: str) -> None:
        while True:
            received = await listener.receive()
            self._handle(received)
            if Notification(PROBE, token) in received:
                return

    def _handle(self, received: Sequence[Notification]) -> None:
        of_jobs: list[str | None] = []
        cancels: set[int] = set()
        own: set[str] = set()
        for notification in received:
            if notification.channel == CANCEL:
                cancels.update(_job_ids(notification.payload))
            elif notification.channel in (JOBS, ROOM):
                self._record_jobs(notification, of_jobs)
            elif notification.channel == self._state.credit.channel:
                own.add(notification.payload)
            else:
                self._wake(notification)
        if cancels:
            self._read_cancels(cancels)
        if own:
            self._read_own(own)
        if of_jobs:
            self._state.notify_mode.record_notifications(len(of_jobs), now=monotonic())
            for queue in set(of_jobs):
                self._state.wake_fetch(queue)

    def _wake(self, notification: Notification) -> None:
        """Wake the lane that a notification concerns, unless it is about jobs."""
        if notification.channel == CRON:
            self._state.cron_wake.set()
        elif notification.channel == LIMITS:
            if notification.payload in self._state.registry:
                self._state.limits_wake.set()
        elif notification.channel == PAUSE:
            self._state.pause_wake.set()
        elif notification.channel == WATCH_EVENTS:
            self._check_watch()

    def _record_jobs(self, notification: Notification, of_jobs: list[str | None]) -> None:
        """Add the queue in which a job may have become claimable here; ``None``: in any."""
        if notification.channel == JOBS:
            if self._state.group_of(notification.payload) is not None:
                of_jobs.append(notification.payload)
        elif self._state.concerns(notification.payload):
            of_jobs.append(None)

    def _read_own(self, payloads: set[str]) -> None:
        """Have the fetch lane read this worker's row, or watch a job dispatched to another one."""
        state = self._state
        if DISPATCHED in payloads:
            state.notify_mode.record_notifications(1, now=monotonic())
            state.credit.notified()
        if WATCH in payloads:
            state.credit.watch()
        state.fetch_wake.set()

    def _check_watch(self) -> None:
        self._state.watch_announced = True
        self._state.events_wake.set()

    def _wake_all(self) -> None:
        self._check_watch()
        self._state.wake_fetch()
        self._state.cancel_wake.set()
        self._state.pause_wake.set()
        self._state.cron_wake.set()
        self._state.limits_wake.set()

    def _read_cancels(self, job_ids: set[int]) -> None:
        """Have the rows read now if a job is held here, else after the claim that may bring it."""
        if job_ids.isdisjoint(self._state.slots.job_ids):
            self._state.cancel_announced = True
        else:
            self._state.cancel_wake.set()

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


def _job_ids(payload: str) -> list[int]:
    """Return the id of the job that is to be cancelled; none if the payload is not Roost's."""
    job_id, _, _ = payload[:40].partition(":")
    return [int(job_id)] if job_id.isascii() and job_id.isdigit() else []
