"""Start, stop and resize queues of a running worker.

What is served changes in one step, without an await. The worker's row follows: other workers and
producers read there which queues it serves. When a write fails, the heartbeat writes it later.
"""

from __future__ import annotations

import anyio

from roost._model.logs import StructuredLogger
from roost._model.settings import WorkerSettings, check_queue, check_slots
from roost._model.validate import MAX_INT
from roost._ops.claim import ClaimedJob
from roost._ops.workers import set_queues
from roost._worker.database import Database
from roost._worker.lanes.execute import ExecuteLane
from roost._worker.prefetch import PrefetchController
from roost._worker.queue_group import QueueGroup
from roost._worker.slots import Slots
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError, InvalidSettingError

logger = StructuredLogger("roost.worker")

ROW_TIMEOUT = 5.0
"""Seconds for one write of the row, and for the wait for a new row."""
RELEASE_TIMEOUT = 1.0
"""Seconds that a stop waits until the released jobs are written."""


def groups_for(settings: WorkerSettings) -> tuple[list[QueueGroup], Slots]:
    """Return the queues to serve, and their slots."""
    by_queue = settings.queue_slots
    if by_queue is None:
        slots = Slots(settings.concurrency)
        return [_group(list(settings.queues), slots, settings)], slots
    slots = Slots(settings.max_slots, by_queue)
    return [_group([queue], slots, settings) for queue in by_queue], slots


def _group(queues: list[str], slots: Slots, settings: WorkerSettings) -> QueueGroup:
    group = slots.group_of(queues[0])
    most = max(64, 16 * group.slots)
    prefetch = PrefetchController(settings.prefetch, most, shared=len(queues) > 1)
    return QueueGroup(queues, group, prefetch)


class QueueChanges:
    """Changes what a running worker serves."""

    def __init__(self, state: WorkerState, database: Database, execute: ExecuteLane) -> None:
        self._state = state
        self._database = database
        self._execute = execute
        self._lock = anyio.Lock()

    async def start(self, name: str, slots: int | None) -> None:
        """Serve one more queue.

        The row is written first: from the first claim on, ``pause_queue`` waits for this worker.

        :raises InvalidSettingError: a bad name or number, or the queue is served already.
        :raises DatabaseUnavailableError: the row could not be written; the queue is not served.
        """
        state = self._state
        check_queue(name)
        if state.settings.queue_slots is None:
            if slots is not None:
                raise InvalidSettingError(
                    f"the queues of this worker share its concurrency: start {name!r} without slots"
                )
        else:
            check_slots(name, slots)
        async with self._lock:
            if name in state.queues:
                raise InvalidSettingError(f"this worker serves the queue {name!r} already")
            state.starting.append(name)
            try:
                by_queue = state.slots.by_queue
                await self._write_row(
                    min(state.slots.concurrency + (slots or 0), MAX_INT),
                    None if by_queue is None or slots is None else {**by_queue, name: slots},
                )
                self._open(name, slots)
            except BaseException:
                state.row_is_stale = True
                raise
            finally:
                state.starting.remove(name)
        logger.info("queue %(queue)s is started", queue=name)

    async def stop(self, name: str) -> None:
        """Serve a queue no more.

        :raises InvalidSettingError: it is not served.
        """
        released = self._close(self._served(name), name)
        logger.info("queue %(queue)s is stopped", queue=name)
        async with self._lock:
            await self._try_to_write_row()
        leases = {job.lease for job in released}
        with anyio.move_on_after(RELEASE_TIMEOUT):
            # Rare: not worth an event that every settle would have to set.
            while not leases.isdisjoint(  # noqa: ASYNC110
                verdict.lease for verdict in self._state.verdicts
            ):
                await anyio.sleep(0.005)

    async def resize(self, name: str, slots: int) -> None:
        """Change a queue's slots.

        :raises InvalidSettingError: a bad number, or the queue has no slots of its own.
        """
        state = self._state
        self._served(name)
        if state.settings.queue_slots is None:
            raise InvalidSettingError(
                f"the queues of this worker share its concurrency: {name!r} has no slots of its own"
            )
        check_slots(name, slots)
        state.slots.resize(name, slots)
        self._slots_changed()
        logger.info("queue %(queue)s has %(slots)d slots", queue=name, slots=slots)
        async with self._lock:
            await self._try_to_write_row()

    def _served(self, name: str) -> QueueGroup:
        group = self._state.group_of(name)
        if group is None:
            raise InvalidSettingError(
                f"this worker does not serve the queue {name!r}; it serves: "
                f"{', '.join(self._state.queues) or 'none'}"
            )
        return group

    def _open(self, name: str, slots: int | None) -> None:
        state = self._state
        state.set_stopped(state.stopped - {name})
        if slots is None:
            state.groups[0].queues.append(name)
            state.groups[0].prefetch.shared = len(state.groups[0].queues) > 1
        else:
            state.slots.resize(name, slots)
            state.groups.append(_group([name], state.slots, state.settings))
        self._slots_changed()
        state.pause_wake.set()
        state.wake_fetch(name)

    def _close(self, group: QueueGroup, name: str) -> list[ClaimedJob]:
        """Start no job of the queue any more, and release those that have not started."""
        state = self._state
        group.queues.remove(name)
        group.prefetch.shared = len(group.queues) > 1
        if state.settings.queue_slots is not None:
            state.groups.remove(group)
            state.slots.resize(name, 0)
        state.set_stopped(state.stopped | {name})
        parked = state.slots.drain_parked_of(name)
        state.release(parked)
        state.pause_wake.set()
        state.fetch_wake.set()
        return [*parked, *state.release_refused()]

    def _slots_changed(self) -> None:
        self._execute.allow_threads(self._state.slots.concurrency)
        self._state.start_wake.set()
        self._state.fetch_wake.set()

    async def _try_to_write_row(self) -> None:
        try:
            await self._write_row(self._state.slots.concurrency, self._state.slots.by_queue)
        except DatabaseUnavailableError as error:
            logger.warning("the worker's row is written later: %(error)s", error=str(error))

    async def _write_row(self, concurrency: int, slots: dict[str, int] | None) -> None:
        """Write which queues are served; if the row is lost, wait until a new one says so.

        :raises DatabaseUnavailableError: not written, or that is not known.
        """
        state = self._state
        worker_id = state.worker_id
        state.row_is_stale = True  # if the call fails or is cancelled
        if await self._database.call_for_heartbeat(
            set_queues(worker_id, state.queues, concurrency=concurrency, slots=slots),
            timeout=ROW_TIMEOUT,
        ):
            state.row_is_stale = False
            return
        state.heartbeat_wake.set()
        with anyio.move_on_after(ROW_TIMEOUT):
            while state.worker_id == worker_id:  # noqa: ASYNC110  (rare)
                await anyio.sleep(0.01)
            return
        raise DatabaseUnavailableError("this worker has no row")
