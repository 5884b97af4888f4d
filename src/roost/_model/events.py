"""Events of jobs: what a listener sees, how workers send them, and a listener's bounded buffer."""

import dataclasses
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from roost._model.codec import decode, encode
from roost._model.validate import check_int, check_name
from roost.exceptions import InvalidSettingError

EventKind: TypeAlias = Literal[
    "started",
    "finished",
    "failed",
    "discarded",
    "snoozed",
    "released",
    "cancelled",
    "rescued",
]
KINDS: Final[frozenset[str]] = frozenset(get_args(EventKind))

MAX_PAYLOAD = 7_500
"""Bytes of a payload at most; Postgres refuses 8,000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEvent:
    """One thing that happened to a job, as `AsyncRoost.events` yields it.

    ============= ======================================================= =======================
    kind          what happened                                           the job's state
    ============= ======================================================= =======================
    ``started``   a worker calls its handler                              executing
    ``finished``  the handler returned, and the result is written         completed
    ``failed``    the attempt failed; the job will be retried             retryable
    ``discarded`` the attempt failed, and no attempt is left              discarded
    ``snoozed``   the handler raised `SnoozeJob`                          available
    ``released``  the attempt was interrupted and does not count          available
    ``cancelled`` it was cancelled, while it waited or ran                cancelled
    ``rescued``   its worker is dead, and another one took the job back   retryable, discarded or
                                                                          cancelled
    ============= ======================================================= =======================

    :param kind: see above.
    :param job_id: the job's id.
    :param queue: its queue.
    :param task: its task.
    :param attempt: the number of the attempt; 0: the job has not been started.
    :param worker_id: the worker that ran the attempt; ``None``: no worker did.
    :param state: the job's state after the event.
    :param at: when it happened, by the database's clock: when the event was sent, minus its age on
        the worker.
    :param error: of ``failed`` and ``discarded``, the error's first line; ``None`` if the job's
        row is gone already.
    :param missed: events that were lost immediately before this one; ``None``: the connection was
        lost, and the number is unknown. It may include events that the filter leaves out.
    """

    kind: EventKind
    job_id: int
    queue: str
    task: str
    attempt: int
    worker_id: int | None
    state: str
    at: datetime
    error: str | None = None
    missed: int | None = 0


def encode_event(
    kind: EventKind,
    *,
    job_id: int,
    queue: str,
    task: str,
    attempt: int,
    worker_id: int | None,
    state: str,
    age: float,
) -> str:
    """Return one event as a part of a payload.

    :param age: seconds since it happened.
    """
    return encode([kind, job_id, queue, task, attempt, worker_id, state, round(age, 6)])


def payloads(
    worker_id: int, encoded: Iterable[str], *, dropped: int = 0, greets: bool = False
) -> list[str]:
    """Return events as payloads of one notification each, at least one.

    :param worker_id: the worker that sends them.
    :param encoded: the events, by `encode_event`.
    :param dropped: events that it has dropped before the first of these.
    :param greets: whether it sends from now on all that happens.
    """
    found: list[str] = []
    batch: list[str] = []
    size = 0

    def close() -> None:
        lost = 0 if found else dropped
        found.append(f'{{"w":{worker_id},"g":{int(greets)},"m":{lost},"e":[{",".join(batch)}]}}')

    for text in encoded:
        length = len(text.encode()) + 1
        if batch and size + length > MAX_PAYLOAD - 100:
            close()
            batch, size = [], 0
        batch.append(text)
        size += length
    close()
    return found


@attrs.frozen
class Received:
    """A decoded payload.

    :param greets: the worker that sends from now on all that happens; ``None``: it says nothing.
    :param dropped: events that the worker has dropped before these.
    :param events: the events.
    """

    greets: int | None
    dropped: int
    events: list[JobEvent]


def decode_payload(payload: str) -> Received | None:
    """Return what a notification says; ``None``: it is not Roost's. Any role can send one."""
    sent_at, _, text = payload.partition(" ")
    try:
        sent = float(sent_at)
        body = decode(text)
        return Received(
            int(body["w"]) if body["g"] else None,
            max(int(body["m"]), 0),
            [_event(sent, *fields) for fields in body["e"]],
        )
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def _event(sent: float, *fields: Any) -> JobEvent:
    kind, job_id, queue, task, attempt, worker_id, state, age = fields
    if kind not in KINDS or not all(isinstance(text, str) for text in (queue, task, state)):
        raise ValueError("not an event")
    return JobEvent(
        kind=kind,
        job_id=int(job_id),
        queue=queue,
        task=task,
        attempt=int(attempt),
        worker_id=None if worker_id is None else int(worker_id),
        state=state,
        at=datetime.fromtimestamp(sent - float(age), UTC),
    )


@attrs.frozen
class EventFilter:
    """Which events a listener wants; ``None``: all."""

    queues: frozenset[str] | None
    tasks: frozenset[str] | None
    job_ids: frozenset[int] | None
    kinds: frozenset[str] | None

    def wants(self, event: JobEvent) -> bool:
        """Say whether the listener wants this event."""
        return (
            (self.queues is None or event.queue in self.queues)
            and (self.tasks is None or event.task in self.tasks)
            and (self.job_ids is None or event.job_id in self.job_ids)
            and (self.kinds is None or event.kind in self.kinds)
        )


def event_filter(
    *,
    queues: Collection[str] | None,
    tasks: Collection[str] | None,
    job_ids: Collection[int] | None,
    kinds: Collection[EventKind] | None,
) -> EventFilter:
    """Return a filter, checked.

    :raises InvalidSettingError: a value is not a list of names, ids or kinds.
    """
    for what, names in (("queues", queues), ("tasks", tasks), ("kinds", kinds)):
        for name in _listed(what, names):
            check_name(what, name, error=InvalidSettingError)
    for job_id in _listed("job_ids", job_ids):
        check_int("job_ids", job_id, InvalidSettingError, minimum=0, maximum=2**63 - 1)
    unknown = set(kinds or ()) - KINDS
    if unknown:
        raise InvalidSettingError(
            f"kinds has {sorted(unknown)}; the kinds are {', '.join(get_args(EventKind))}"
        )
    return EventFilter(
        queues=None if queues is None else frozenset(queues),
        tasks=None if tasks is None else frozenset(tasks),
        job_ids=None if job_ids is None else frozenset(job_ids),
        kinds=None if kinds is None else frozenset(kinds),
    )


def _listed(what: str, values: Collection[Any] | None) -> Collection[Any]:
    if isinstance(values, str) or not (values is None or isinstance(values, Collection)):
        raise InvalidSettingError(f"{what} must be a list, not {values!r}")
    return values or ()


class EventBuffer:
    """The events that a listener has not taken yet. When it is full the oldest are dropped.

    :ivar missed: how many events are known to be lost.
    :ivar gaps: how often the connection was lost.
    """

    def __init__(self, size: int) -> None:
        check_int("buffer", size, InvalidSettingError, minimum=1)
        self._size = size
        self._events: deque[JobEvent] = deque()
        self._lost: int | None = 0  # before the first of `_events`
        self._lost_behind: int | None = 0  # behind the last of them
        self.missed = 0
        self.gaps = 0

    def __len__(self) -> int:
        return len(self._events)

    def put(self, events: Sequence[JobEvent], *, dropped: int = 0) -> None:
        """Add events.

        :param dropped: events that were lost before the first of them.
        """
        self.missed += dropped
        self._lost_behind = _sum(self._lost_behind, dropped)
        for event in events:
            if len(self._events) == self._size:
                oldest = self._events.popleft()
                self._lost = _sum(self._lost, _sum(oldest.missed, 1))
                self.missed += 1
            lost, self._lost_behind = self._lost_behind, 0
            self._events.append(dataclasses.replace(event, missed=lost) if lost != 0 else event)

    def record_gap(self) -> None:
        """Record that the connection was lost."""
        self.gaps += 1
        self._lost_behind = None

    def take(self) -> JobEvent:
        """Return the oldest event. There must be one."""
        event = self._events.popleft()
        if self._lost != 0:
            event = dataclasses.replace(event, missed=_sum(self._lost, event.missed))
            self._lost = 0
        return event


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
